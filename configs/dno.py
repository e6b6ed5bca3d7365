"""Direct Nash optimisation: fit the iterate's own preferences.

Paper: https://arxiv.org/abs/2404.03715

    xpo train --config=configs/dno.py:smollm --workdir=runs/dno

Self-play: each round samples from the policy, which is then the reference.
configs/recipes/dno.py draws and judges the samples; this command makes one
round on pairs of film reviews with the raters' win rates.
Policy and reference start equal, so the loss starts at log 2 = 0.693; expect
`rewards/accuracy` to leave 0.5. Practical DNO is configs/dpo.py on clear pairs.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dno", eta=0.1)
  c.data.source = "films"
  c.data.format = "soft"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
