"""Reward model from rejected completions only.

Paper: https://arxiv.org/abs/2407.16216 (section 2.1.4)

    xpo train --config=configs/rm_negative.py:smollm --workdir=runs/rm_negative

Needs K samples of the model itself, then the rejected completion, for each
prompt. The loop that draws the samples is not built yet: until then the recipe
validates, and the loss serves batches that you build in Python. It starts at
log 2 = 0.693; expect `rewards/accuracy` to rise.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=("smollm", "tiny")).variant
  c = config.base(variant)
  c.method = config.method("rm_negative")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}[variant]
  return c
