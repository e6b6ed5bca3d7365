"""Token-level reward model: a reward a token, compared by their sums.

Paper: https://arxiv.org/abs/2407.16216 (section 2.1.3)

    xpo train --config=configs/rm_token.py:smollm --workdir=runs/rm_token

The loss starts above log 2 = 0.693 (the reward head is drawn at random, and its
values add up over a text); expect `rewards/accuracy` to rise.
--config.method.aggregate=mean compares the mean reward of a token instead, so
that length alone wins nothing.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_token")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 200}.get(variant, 1000)
  return c
