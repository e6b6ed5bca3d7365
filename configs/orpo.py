"""ORPO: fine-tuning and preferences in one run, by an odds ratio.

Paper: https://arxiv.org/abs/2403.07691

    xpo train --config=configs/orpo.py:smollm --workdir=runs/orpo

There is no reference model and no SFT run before. The loss is the NLL of a
chosen token plus a tenth of the odds loss: expect `nll/chosen` to fall as in
SFT and `log_odds/margin` to rise.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("orpo", odds_coef=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
