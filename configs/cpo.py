"""Contrastive preference optimisation: DPO without reference, plus NLL.

Paper: https://arxiv.org/abs/2401.08417

    xpo train --config=configs/cpo.py:smollm --workdir=runs/cpo

There is no reference model; the NLL of the chosen completion keeps the policy
in place. Expect `nll/chosen` to fall and `rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("cpo", beta=0.1, nll_coef=1.0)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
