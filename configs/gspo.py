"""GSPO: one importance ratio a sample instead of one a token.

Paper: https://arxiv.org/abs/2507.18071

    xpo train --config=configs/gspo.py:smollm --workdir=runs/gspo

On-policy: it learns from samples of the policy, scored by a reward. The loop
that draws and scores them is not built yet, so that this command stops with a
message about the missing columns; until then the recipe validates, and the loss
with its `prepare` serves rollouts that you make in Python.

Use 8 or more samples a prompt. Its clip range is far narrower than that of
configs/grpo.py, yet expect a larger `policy/clip_fraction`.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("gspo")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
