"""H-DPO: DPO with its own weight on the policy's entropy.

Paper: https://arxiv.org/abs/2411.07595

    xpo train --config=configs/h_dpo.py:smollm --workdir=runs/h_dpo

With alpha = 1 it is DPO and the loss starts at 0.693; below 1 the policy
becomes sharper, and the start depends on the data by 0.1 (1 - alpha) times the
gap of the sequence log-probs. Expect `rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("h_dpo", beta=0.1, alpha=0.95)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
