"""AOT: sorted policy gaps against sorted reference gaps.

Paper: https://arxiv.org/abs/2406.05882

    xpo train --config=configs/aot.py:smollm --workdir=runs/aot

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow. Pairs are sorted over the whole
batch, so a larger batch.prompts is a better estimate; microbatches and devices
change nothing.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("aot", beta=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
