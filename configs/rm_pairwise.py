"""Pairwise preference model: the prompt shows two texts, the answer is A or B.

Paper: https://arxiv.org/abs/2309.06657

    xpo train --config=configs/rm_pairwise.py:smollm --workdir=runs/rm_pairwise

Reads comparisons.jsonl, or what --config.data.source names: the prompt ends in
"... A: <text> B: <text> Better:", `chosen` is the right letter and `rejected`
the other one. Draw the order of the two texts at random when you write the
file. Expect `rewards/accuracy` to leave 0.5, and the loss to fall below log 2.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=("smollm", "tiny")).variant
  c = config.base(variant)
  c.method = config.method("rm_pairwise")
  c.data.source = "comparisons.jsonl"
  c.data.max_prompt_length = 192
  c.data.max_completion_length = 8
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}[variant]
  return c
