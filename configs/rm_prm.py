"""Process reward model: is each step of this solution right?

Paper: https://arxiv.org/abs/2305.20050 (section 2.6)

    xpo train --config=configs/rm_prm.py:smollm --workdir=runs/rm_prm

Needs rows with a label a step (the column `token_feedback`); the film reviews
have none, so that this command stops and says so. The loss, a mean over all
labelled steps, starts at log 2 = 0.693; `rewards/accuracy` counts steps and
`rewards/solution` is the score of whole solutions (product, min or last step).
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=("smollm", "tiny")).variant
  c = config.base(variant)
  c.method = config.method("rm_prm")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}[variant]
  return c
