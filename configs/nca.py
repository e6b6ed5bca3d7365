"""NCA: each completion against noise, so the chosen one does not sink.

Paper: https://arxiv.org/abs/2402.05369

    xpo train --config=configs/nca.py:smollm --workdir=runs/nca

The loss starts at 2 log 2 = 1.386 exactly; expect `rewards/chosen` to rise and
`rewards/rejected` to fall. Scored lists: --config.data.format=lists.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("nca", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
