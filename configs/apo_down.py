"""APO-down: both down, the rejected completion more.

Paper: https://arxiv.org/abs/2408.06266

    xpo train --config=configs/apo_down.py:smollm --workdir=runs/apo_down

The loss starts at 1 exactly and stays in (0, 2); expect `rewards/margin` to
grow while `rewards/chosen` falls. For a model that writes better than the
chosen texts; else see configs/apo_zero.py.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("apo_down", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
