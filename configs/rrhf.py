"""RRHF: rank completions by their mean log-prob, imitate the best.

Paper: https://arxiv.org/abs/2304.05302

    xpo train --config=configs/rrhf.py:smollm --workdir=runs/rrhf

Rows are prompt, completions, scores; here film reviews with their mean ratings,
up to four a list. No reference is needed. Expect `rewards/violated`, the share
of pairs in the wrong order, and the NLL of the best to fall.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rrhf")
  c.data.source = "films"
  c.data.format = "lists"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
