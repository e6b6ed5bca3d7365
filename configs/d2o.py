"""Distributional dispreference optimisation: rejected completions only.

Paper: https://arxiv.org/abs/2403.03419

    xpo train --config=configs/d2o.py:smollm --workdir=runs/d2o

Reads samples.jsonl, or what --config.data.source names: prompt, samples (texts
that the reference itself wrote for it; the paper has 11), rejected. The loss
starts at log 2 = 0.693, policy and reference being equal; expect
`rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("d2o", beta=0.1, alpha=0.1)
  c.data.source = "samples.jsonl"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
