"""Generalised preference optimisation: a family of losses of one margin.

Paper: https://arxiv.org/abs/2402.05749

    xpo train --config=configs/gpo.py:smollm --workdir=runs/gpo

The loss starts at f(0): 1 for exponential, hinge, squared and
truncated_quadratic, 0.693 for logistic (DPO), 0.25 for savage; expect
`rewards/margin` to grow. Choose with --config.method.f=hinge; to compare them
fairly, scale beta so that beta |f'(0)| agrees.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("gpo", beta=0.1, f="exponential")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
