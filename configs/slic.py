"""SLiC-HF: a hinge on sequence log-probs, anchored by an SFT target.

Paper: https://arxiv.org/abs/2305.10425

    xpo train --config=configs/slic.py:smollm --workdir=runs/slic

There is no reference model: the NLL of the chosen completion is the anchor, and
most of the loss. Expect `rewards/accuracy`, which compares plain log-probs, to
rise slowly: longer completions start behind.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("slic", delta=1.0, nll_coef=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
