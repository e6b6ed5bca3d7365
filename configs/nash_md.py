"""Nash-MD: beat the mixture of policy and reference.

Paper: https://arxiv.org/abs/2312.00886

    xpo train --config=configs/nash_md.py:smollm --workdir=runs/nash_md

On-policy: it learns from samples of the policy, judged against samples of an
opponent. The loop that draws and judges them is not built yet. Until then the
command runs on pairs of film reviews and the raters' win rates, which are no
samples of the policy: it shows that the loss works, not what the paper claims.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("nash_md", tau=0.008)
  c.data.source = "films"
  c.data.format = "soft"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
