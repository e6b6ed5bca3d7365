"""Identity preference optimisation: a finite gap even for sure preferences.

Paper: https://arxiv.org/abs/2310.12036

    xpo train --config=configs/ipo.py:smollm --workdir=runs/ipo

The loss starts at 1 / (4 tau^2) = 25 exactly and is least where the log-ratios
differ by 1 / (2 tau) = 5 nats: expect `rewards/margin`, tau times that gap, to
grow towards 0.5 and stay there.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("ipo", tau=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
