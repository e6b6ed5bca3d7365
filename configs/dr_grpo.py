"""Dr. GRPO: GRPO without its length and difficulty biases.

Paper: https://arxiv.org/abs/2503.20783

    xpo train --config=configs/dr_grpo.py:smollm --workdir=runs/dr_grpo

On-policy: it learns from samples of the policy, scored by a reward. The loop
that draws and scores them is not built yet, so that this command stops with a
message about the missing columns; until then the recipe validates, and the loss
with its `prepare` serves rollouts that you make in Python.

Use 8 samples a prompt. Expect `rewards/mean` to rise; wrong answers should not
grow longer, as they do under configs/grpo.py.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("dr_grpo")
  c.data.source = "films"
  c.method.loss_length = c.data.max_completion_length
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
