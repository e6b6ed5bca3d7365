"""Process reward model: is each step of this solution right?

Paper: https://arxiv.org/abs/2305.20050 (section 2.6)

    xpo train --config=configs/rm_prm.py:smollm --workdir=runs/rm_prm

Reads steps.jsonl, or what --config.data.source names: prompt, completions (the
steps of one solution), labels (one a step: true, false, a number in [0, 1], or
null where nobody judged). `xpo data inspect steps.jsonl` shows each label at
the end of its step. The loss, a mean over all labelled steps, starts near log 2
= 0.693; `rewards/accuracy` counts steps and `rewards/solution` is the score of
whole solutions (product, min or last step).
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_prm")
  c.data.source = "steps.jsonl"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
