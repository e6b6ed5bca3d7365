"""Self-play preference optimisation: log-ratios follow win rates.

Paper: https://arxiv.org/abs/2405.00675

    xpo train --config=configs/sppo.py:smollm --workdir=runs/sppo

Self-play: each round samples from the policy, which is then the reference.
configs/recipes/sppo.py draws and judges the samples; this command makes one
round on pairs of film reviews with the raters' win rates.
Expect `rewards/distance`, the mean |log-ratio - eta (P - 1/2)| in nats, to
fall slowly from eta |P - 1/2|; gradients are large and clipped.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("sppo", eta=1000.0)
  c.data.source = "films"
  c.data.format = "soft"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
