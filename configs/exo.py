"""EXO: reverse KL to the preference distribution over completions.

Paper: https://arxiv.org/abs/2402.00856

    xpo train --config=configs/exo.py:smollm --workdir=runs/exo

On pairs the loss starts at -log 2 - log(eps (1 - eps)) / 2 = 2.761 exactly;
expect `rewards/margin` to grow. Scored lists (--config.data.format=lists) use
softmax(score / beta_r) as the target instead of eps.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("exo", beta=0.1, eps=1e-3)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
