"""Preference ranking optimisation: each completion against all below it.

Paper: https://arxiv.org/abs/2306.17492

    xpo train --config=configs/pro.py:smollm --workdir=runs/pro

Rows are prompt, completions, scores; here film reviews with their mean ratings,
up to four a list. No reference is needed. Expect `rewards/ranking_loss` to fall
and `rewards/accuracy`, best against worst, to rise.
--config.method.temperature=False ignores how far the scores are apart.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("pro")
  c.data.source = "films"
  c.data.format = "lists"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
