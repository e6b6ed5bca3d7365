"""WPO: DPO with more weight on pairs that the policy might write.

Paper: https://arxiv.org/abs/2406.11827

    xpo train --config=configs/wpo.py:smollm --workdir=runs/wpo

The loss starts at log 2 times the mean weight; see `weights/chosen` and
`weights/rejected`, which are small for texts that the policy would not write.
Expect `rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("wpo", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
