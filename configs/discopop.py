"""DiscoPOP: the loss that a language model discovered.

Paper: https://arxiv.org/abs/2406.08414

    xpo train --config=configs/discopop.py:smollm --workdir=runs/discopop

The loss starts at log(2) / 2 + 1 / 2 = 0.847 exactly. It is not convex: with
these defaults descent lowers the margin between -0.119 and 0.072, the start
included, so expect `rewards/margin` to dip at first and pairs to stay behind in
that valley. From --config.method.tau=0.11 on the start slopes the right way.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("discopop", beta=0.05, tau=0.05)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
