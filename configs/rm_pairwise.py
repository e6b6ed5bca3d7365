"""Pairwise preference model: the prompt shows two texts, the answer is A or B.

Paper: https://arxiv.org/abs/2309.06657

    xpo train --config=configs/rm_pairwise.py:smollm --workdir=runs/rm_pairwise

Rows are prompt, chosen, rejected, or anything that pairs can be made of (soft
labels: --config.data.format=soft). Each pair becomes a question that shows both
texts in an order drawn by --config.seed (xpo_jax/data/comparison.py words it),
so give max_prompt_length room for the prompt and both texts. Expect
`rewards/accuracy` to leave 0.5, and the loss to fall below log 2.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_pairwise")
  c.data.source = "films"
  c.data.max_prompt_length = 224
  c.data.max_completion_length = 8
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
