"""CRINGE: imitate good completions, contrast bad ones token by token.

Paper: https://arxiv.org/abs/2211.05826

    xpo train --config=configs/cringe.py:smollm --workdir=runs/cringe

Rows are prompt, completion, label; of pairs, each half becomes a row. No
reference is needed. The loss is two means, NLL of good tokens + alpha times the
contrast of bad ones; expect `logps/contrast_margin`, alternative minus data
token on bad texts, to rise.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("cringe", k=5, alpha=0.5)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
