"""Kahneman-Tversky optimisation: learn from single good or bad completions.

Paper: https://arxiv.org/abs/2402.01306

    xpo train --config=configs/kto.py:smollm --workdir=runs/kto

Rows are prompt, completion, label; of pairs, each half becomes a row. Policy
and reference start equal, so the loss starts at 0.5 (with both lambdas at 1);
expect `rewards/desirable` to rise and `rewards/undesirable` to fall.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("kto", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
