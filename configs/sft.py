"""Supervised fine-tuning: imitate the chosen completions.

Paper: https://arxiv.org/abs/2203.02155 (section 3.5)

    xpo train --config=configs/sft.py:smollm --workdir=runs/sft

The default data are film reviews that people rated (see the README); a pair's
chosen review is the demonstration. Expect `loss`, the mean NLL of a token in
nats, to fall within the first 50 steps. Your own rows: --config.data.source.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("sft")
  c.data.source = "films"
  c.optimizer.warmup_steps = 10
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 100, "tiny": 200}.get(variant, 1000)
  return c
