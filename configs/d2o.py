"""Distributional dispreference optimisation: rejected completions only.

Paper: https://arxiv.org/abs/2403.03419

    xpo train --config=configs/d2o.py:smollm --workdir=runs/d2o

Needs K samples of the reference itself (the paper has 11), then the rejected
completion, for each prompt. The loop that draws the samples is not built yet:
until then this command stops at the data, and the loss serves batches that you
build in Python. It starts at log 2 = 0.693; expect `rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=("smollm", "tiny")).variant
  c = config.base(variant)
  c.method = config.method("d2o", beta=0.1, alpha=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}[variant]
  return c
