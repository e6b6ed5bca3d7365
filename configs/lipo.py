"""Listwise preference optimisation with lambda weights.

Paper: https://arxiv.org/abs/2402.01878

    xpo train --config=configs/lipo.py:smollm --workdir=runs/lipo

Rows are prompt, completions, and scores or ranks (1 = best, turned into the
share of the others beaten); here film reviews with their mean ratings, up to
four a list. Expect `rewards/accuracy`, best against worst of a list, to
leave 0.5. --config.method.loss takes the rest of the family: logistic (all
pairs), listmle, softmax, hinge, point_mse, point_sigmoid.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("lipo", beta=0.05)
  c.data.source = "films"
  c.data.format = "lists"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
