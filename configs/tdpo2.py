"""Token-level DPO, second form: the rejected side's KL is held down.

Paper: https://arxiv.org/abs/2404.11999

    xpo train --config=configs/tdpo2.py:smollm --workdir=runs/tdpo2

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow with a smaller `kl/rejected` than
under TDPO1. alpha = 0 is DPO.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("tdpo2", beta=0.1, alpha=0.5)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
