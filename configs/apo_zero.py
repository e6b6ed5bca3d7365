"""APO-zero: chosen up, rejected down.

Paper: https://arxiv.org/abs/2408.06266

    xpo train --config=configs/apo_zero.py:smollm --workdir=runs/apo_zero

The loss starts at 1 exactly and stays in (0, 2); expect `rewards/chosen` to
rise and `rewards/rejected` to fall. For chosen texts that are better than what
the model writes; else see configs/apo_down.py.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("apo_zero", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
