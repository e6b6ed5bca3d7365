"""Dr. GRPO: GRPO without its length and difficulty biases.

Paper: https://arxiv.org/abs/2503.20783

    xpo train --config=configs/dr_grpo.py:smollm --workdir=runs/dr_grpo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/dr_grpo.py trains one first.

Use 8 samples a prompt. Expect `rewards/mean` to rise; wrong answers should not
grow longer, as they do under configs/grpo.py.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "dr_grpo", completions=8)
  c.method.loss_length = c.data.max_completion_length
  return c
