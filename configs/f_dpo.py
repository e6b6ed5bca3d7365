"""f-DPO: DPO under another divergence than reverse KL.

Paper: https://arxiv.org/abs/2309.16240

    xpo train --config=configs/f_dpo.py:smollm --workdir=runs/f_dpo

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/margin` to grow. JSD stops pushing winners up once
they are likelier than under the reference, forward KL spreads the policy:
--config.method.divergence=forward_kl (or alpha, reverse_kl = DPO).
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("f_dpo", beta=0.1, divergence="jsd")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
