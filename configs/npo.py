"""Negative preference optimisation: unlearn the rejected completions.

Paper: https://arxiv.org/abs/2404.05868

    xpo train --config=configs/npo.py:smollm --workdir=runs/npo

Rows are prompt, completion, label, and only bad ones count; of pairs, the
rejected half is forgotten. The loss starts at (2 / beta) log 2 = 13.86; expect
it and `logps/forget` to fall, ever slower. What should be kept needs a retain
term on data of its own: add

    --config.aux.method=sft --config.aux.source=keep.jsonl

whose rows are plain text (`text`), or prompt and completion; `loss/main` and
`loss/aux` show the two apart.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("npo", beta=0.1)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 60, "tiny": 100}.get(variant, 1000)
  return c
