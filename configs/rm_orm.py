"""Outcome reward model: is this completion good, yes or no?

Paper: https://arxiv.org/abs/2110.14168 (section 4.2)

    xpo train --config=configs/rm_orm.py:smollm --workdir=runs/rm_orm

Rows are prompt, completion, label; of pairs, each half becomes a row; of
solutions with labels of steps (configs/rm_prm.py), right is one whose steps are
all right, and those whose outcome is not known are dropped. The loss starts
near log 2 = 0.693 (the reward head is drawn at random); expect
`rewards/accuracy` to pass 0.6. --config.method.dense=True predicts the outcome
at every token.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_orm")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 200}.get(variant, 1000)
  return c
