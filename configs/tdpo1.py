"""Token-level DPO, first form: the KL gap of the two sides counts.

Paper: https://arxiv.org/abs/2404.11999

    xpo train --config=configs/tdpo1.py:smollm --workdir=runs/tdpo1

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `kl/chosen` and `kl/rejected` (to the reference, over the
full vocabulary, in nats a completion) to leave 0. TDPO2 keeps the chosen side's
KL smaller.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("tdpo1", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
