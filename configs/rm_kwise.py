"""K-wise reward model: rank up to four completions of a prompt at once.

Paper: https://arxiv.org/abs/2203.02155 (equation 1)

    xpo train --config=configs/rm_kwise.py:smollm --workdir=runs/rm_kwise

Rows are prompt, completions, and scores or ranks (1 = best, ties allowed); here
film reviews with their mean ratings. The loss starts near log 2 = 0.693 (the
reward head is drawn at random); expect `rewards/accuracy`, the share of pairs
in the right order, to pass 0.6.
--config.method.pair_weighting=pair_mean lets long lists weigh more.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_kwise")
  c.data.source = "films"
  c.data.format = "lists"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 200}.get(variant, 1000)
  return c
