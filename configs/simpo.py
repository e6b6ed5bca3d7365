"""SimPO: average log-probs as rewards, with a target margin.

Paper: https://arxiv.org/abs/2405.14734

    xpo train --config=configs/simpo.py:smollm --workdir=runs/simpo

There is no reference model, so a step costs one pass less than DPO. Expect
`rewards/accuracy`, which compares average log-probs, to rise from where the
model stands, and `logps/chosen` to drift: keep the learning rate low and the
run short.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("simpo", beta=2.0, gamma_beta_ratio=0.5)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
