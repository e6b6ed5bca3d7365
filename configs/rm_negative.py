"""Reward model from rejected completions only.

Paper: https://arxiv.org/abs/2407.16216 (section 2.1.4)

    xpo train --config=configs/rm_negative.py:smollm --workdir=runs/rm_negative

Reads samples.jsonl, or what --config.data.source names: prompt, samples (texts
that the model itself wrote for it, one or more), rejected (a person's). The
loss starts near log 2 = 0.693 (the reward head is drawn at random); expect
`rewards/accuracy`, the share of prompts whose samples score above the rejected
text on average, to rise.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_negative")
  c.data.source = "samples.jsonl"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
