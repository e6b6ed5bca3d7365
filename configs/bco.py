"""Binary classifier optimisation: good and bad around a running mean.

Paper: https://arxiv.org/abs/2404.04656

    xpo train --config=configs/bco.py:smollm --workdir=runs/bco

Rows are prompt, completion, label; of pairs, each half becomes a row. Policy
and reference start equal, so the loss starts at log 2 = 0.693; expect
`rewards/desirable` to rise above `rewards/delta` and `rewards/undesirable` to
fall below it.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("bco", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
