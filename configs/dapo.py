"""DAPO: GRPO with a higher upper clip and one mean over all tokens.

Paper: https://arxiv.org/abs/2503.14476

    xpo train --config=configs/dapo.py:smollm --workdir=runs/dapo

On-policy: it learns from samples of the policy, scored by a reward. The loop
that draws and scores them is not built yet, so that this command stops with a
message about the missing columns; until then the recipe validates, and the loss
with its `prepare` serves rollouts that you make in Python.

Use 16 samples a prompt. Expect `policy/clip_high_fraction` to be lower than
under configs/grpo.py, and the policy's entropy to last longer.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dapo")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
