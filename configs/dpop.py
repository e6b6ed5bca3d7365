"""DPO-positive: DPO that keeps the chosen completion likely.

Paper: https://arxiv.org/abs/2402.13228

    xpo train --config=configs/dpop.py:smollm --workdir=runs/dpop

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model. Expect `logratio/lack`, how far the chosen log-probs sank below the
reference, to stay near 0, where plain DPO lets it grow; it pays most on pairs
that differ by a few tokens.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dpop", beta=0.3, penalty=50.0)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
