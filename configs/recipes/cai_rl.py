"""Constitutional AI, RL: PPO on a reward model of AI labels by principles.

Paper: https://arxiv.org/abs/2212.08073 (section 4)

    xpo run --config=configs/recipes/cai_rl.py:smollm --workdir=runs/cai_rl

After the stages of cai_sl.py, the start model says which of two samples keeps a
principle better, (A) or (B); P is a soft label. The reward model learns from
these and, half of every step, from people's pairs, as the paper mixes harmless
and helpful; then PPO with a tiny KL penalty. `judge.reason=True` of stage pairs
lets the judge reason first and cuts its P to [.4, .6]. Expect the reward to
rise, and gold for the people's half. A tiny model cannot judge: there the judge
is a word list.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  judge = recipe_feedback.ai_judge(variant, "principles")
  pairs = recipes.generate(
    variant,
    "soft_pairs",
    ("stage:cai",),
    completions=2,
    prompts=128,
    judge=judge,
  )
  reward = recipes.on_rows(
    recipes.reward(variant), "stage:pairs/data.jsonl", steps=20
  )
  ppo = recipes.ppo(variant, kl_coef=0.001)
  # The value model starts as the reward model: over the policy's own start.
  ppo.model.source = reward.model.source = "stage:cai"
  stages = recipe_feedback.constitutional(variant) | dict(
    pairs=pairs,
    reward=recipes.and_films(reward),
    ppo=ppo,
    evaluate=recipes.evaluate(
      variant, {"cai": "stage:cai", "ppo": "stage:ppo"}
    ),
  )
  return recipes.recipe("Constitutional AI, RL", variant, stages)
