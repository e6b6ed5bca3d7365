"""Outcome reward model: is this completion good, yes or no?

Paper: https://arxiv.org/abs/2110.14168 (section 4.2)

    xpo train --config=configs/rm_orm.py:smollm --workdir=runs/rm_orm

Rows are prompt, completion, label; of pairs, each half becomes a row. The loss
starts at log 2 = 0.693 (the reward head starts at zero); expect
`rewards/accuracy` to pass 0.6. --config.method.dense=True predicts the outcome
at every token.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=("smollm", "tiny")).variant
  c = config.base(variant)
  c.method = config.method("rm_orm")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 200}[variant]
  return c
