"""Pairwise CRINGE: likelihood and token contrast behind a gate.

Paper: https://arxiv.org/abs/2312.16682

    xpo train --config=configs/pairwise_cringe.py:smollm --workdir=runs/pairwise

There is no reference model. Expect `nll/chosen` and `cringe/rejected` to fall,
and `cringe/gate` with them: it is 1/2 where the rejected completion is 10 nats
likelier and closes as the chosen one gets ahead.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("pairwise_cringe", k=5, alpha=0.005)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
