"""GRPO: a sample's advantage is its reward within its group, in deviations.

Paper: https://arxiv.org/abs/2402.03300

    xpo run --config=configs/recipes/grpo.py:smollm --workdir=runs/grpo

Groups of 8 (the paper: 64), no value model, the KL to the SFT policy in the
loss (beta .04). `:smollm,kl=k2` takes the KL whose gradient on-policy is that
of the reverse KL. Expect the reward and, more slowly, gold to rise at a few
nats of KL.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, kl=("k3", "k2", "k1_reward")
  )
  variant = chosen.variant
  grpo = recipes.online(variant, "grpo", beta=0.04, kl_loss=chosen.kl)
  grpo.rollout.completions, grpo.batch.prompts = 8, grpo.batch.prompts // 2
  stages = dict(
    reward=recipes.reward(variant),
    grpo=grpo,
    evaluate=recipes.evaluate(variant, {"grpo": "stage:grpo"}),
  )
  return recipes.recipe("GRPO", variant, stages)
