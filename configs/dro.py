"""Direct reward optimisation (DRO-V): single completions with scores.

Paper: https://arxiv.org/abs/2405.19107

    xpo train --config=configs/dro.py:smollm --workdir=runs/dro

Rows are prompt, completion, score; of pairs, chosen scores 1 and rejected 0.
A value head, drawn at random, learns beside the policy. The loss starts at half
the mean squared distance of score and value; expect `value/loss` to fall.
--config.method.value=none needs no head, but two completions a prompt.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dro", tau=1.0)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
