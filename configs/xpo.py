"""XPO: online DPO that moves away from the reference's samples.

Paper: https://arxiv.org/abs/2405.21046

    xpo train --config=configs/xpo.py:smollm --workdir=runs/xpo

The method wants index 0 sampled from the policy, index 1 from the reference and
a judge between them. On fixed pairs, as here, the rejected completion stands
for the reference's sample: the loss starts at log 2 = 0.693 less alpha times
its NLL; expect `rewards/margin` to grow.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("xpo", beta=0.1, alpha=1e-5)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
