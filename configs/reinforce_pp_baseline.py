"""REINFORCE++ with the group mean as baseline and the KL as a loss.

Paper: https://arxiv.org/abs/2501.03262

    xpo train --config=configs/reinforce_pp_baseline.py:smollm --workdir=runs/rb

On-policy: it learns from samples of the policy, scored by a reward. The loop
that draws and scores them is not built yet, so that this command stops with a
message about the missing columns; until then the recipe validates, and the loss
with its `prepare` serves rollouts that you make in Python.

Use 4 or more samples a prompt. Expect `rewards/mean` to rise.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("reinforce_pp_baseline", kl_coef=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
