"""Direct preference optimisation: raise chosen over rejected completions.

Paper: https://arxiv.org/abs/2305.18290

    xpo train --config=configs/dpo.py:smollm --workdir=runs/dpo

The loss starts at log 2 = 0.693 exactly, because policy and reference are the
same model; expect `rewards/accuracy` to leave 0.5 and `rewards/margin` to grow
within 20 steps. Start from your own SFT run with --config.model.source=runs/sft
and read your own pairs with --config.data.source=pairs.jsonl.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dpo", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 50, "tiny": 130}.get(variant, 1000)
  return c
