"""Bradley-Terry reward model: score chosen above rejected completions.

Paper: https://arxiv.org/abs/2203.02155 (equation 1)

    xpo train --config=configs/rm_bt.py:smollm --workdir=runs/rm

The loss starts near log 2 = 0.693 (the reward head is drawn at random); expect
`rewards/accuracy` on held-out rows to pass 0.6. `centering` keeps the mean
reward near zero without changing the order.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("rm_bt", centering=0.01)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 200}.get(variant, 1000)
  return c
