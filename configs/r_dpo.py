"""R-DPO: DPO that charges for length.

Paper: https://arxiv.org/abs/2403.19159

    xpo train --config=configs/r_dpo.py:smollm --workdir=runs/r_dpo

The loss starts near 0.693: at the mean of log(1 + exp(-alpha (N_w - N_l))).
Expect `rewards/margin` to grow, and samples to be shorter than DPO's on data
whose chosen side is longer.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("r_dpo", beta=0.1, alpha=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
