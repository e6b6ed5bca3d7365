"""InfoNCA: cross-entropy of a softmax over the completions.

Paper: https://arxiv.org/abs/2402.05369

    xpo train --config=configs/infonca.py:smollm --workdir=runs/infonca

On pairs it is DPO: the loss starts at log 2 = 0.693 exactly, because policy and
reference are the same model; expect `rewards/margin` to grow. Scored lists
(--config.data.format=lists) start at log K.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("infonca", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
