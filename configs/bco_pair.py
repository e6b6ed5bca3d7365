"""BCO on pairs: two binary classifications, no reference point.

Paper: https://arxiv.org/abs/2404.04656

    xpo train --config=configs/bco_pair.py:smollm --workdir=runs/bco_pair

The loss starts at 2 log 2 = 1.386 exactly; expect `rewards/chosen` to rise and
`rewards/rejected` to fall. For single good or bad completions see
configs/bco.py.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("bco_pair", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
