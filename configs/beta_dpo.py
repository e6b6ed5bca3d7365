"""beta-DPO: beta follows the batch, outlying pairs are left out.

Paper: https://arxiv.org/abs/2407.08639

    xpo train --config=configs/beta_dpo.py:smollm --workdir=runs/beta_dpo

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `beta/batch` to start at about 0.1 and to move with the kept
pairs, and `beta/kept` to be close to 0.8. Statistics are those of the whole
batch, whatever the microbatches and devices.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("beta_dpo", beta=0.1, alpha=0.6, keep=0.8)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
