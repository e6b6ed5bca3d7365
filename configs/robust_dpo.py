"""Robust DPO: unbiased when labels are flipped at a known rate.

Paper: https://arxiv.org/abs/2403.00409

    xpo train --config=configs/robust_dpo.py:smollm --workdir=runs/robust_dpo

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow. The loss is not bounded below: a
large gap makes it negative, so gradients stay clipped (optimizer.grad_clip).
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("robust_dpo", beta=0.1, label_smoothing=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
