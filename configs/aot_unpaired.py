"""AOT on two sets: all chosen against all rejected completions.

Paper: https://arxiv.org/abs/2406.05882

    xpo train --config=configs/aot_unpaired.py:smollm --workdir=runs/unpaired

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow. Rows with a single completion and a
label work too (--config.data.format=binary); the two sets need not be of one
size.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("aot_unpaired", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
