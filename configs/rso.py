"""RSO: the losses of statistical rejection sampling optimisation.

Paper: https://arxiv.org/abs/2309.06657

    xpo train --config=configs/rso.py:smollm --workdir=runs/rso

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow. This trains on the pairs as they
are. The paper draws them from the optimal policy by rejection sampling first,
which is a matter of data. Other losses: --config.method.loss=hinge_norm (or
hinge, without reference).
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rso", gamma=0.05)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
