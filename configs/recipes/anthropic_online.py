"""Anthropic's online RLHF: new comparisons, new reward model, PPO once more.

Paper: https://arxiv.org/abs/2204.05862 (section 4.5)

    xpo run --config=configs/recipes/anthropic_online.py:smollm --workdir=runs/o

After each round, samples of several snapshots of the policy meet in knockouts;
the gold model stands in for the people who judge them. A reward model learns
anew from the SFT model, from these pairs and the old ones, half and half, and
PPO begins anew from the SFT policy. Expect gold to be higher after the second
round than after the first: its reward model knows the policy's own texts.
"""

from xpo_jax import config, recipes

ROUNDS = 2
SNAPSHOTS = 3  # of a round's PPO, evenly


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages, policies, snapshots = {}, {}, []
  for n in range(1, ROUNDS + 1):
    reward = recipes.reward(variant)
    if n > 1:
      more = (f"stage:pairs{n - 1}/data.jsonl",) if n > 2 else ()
      stages[f"pairs{n}"] = recipes.generate(
        variant,
        "tournament",
        ("stage:sft", *snapshots),
        judge=dict(name="reward_model", source="stage:gold"),
        also=more,
      )
      recipes.on_rows(reward, f"stage:pairs{n}/data.jsonl", steps=24)
      recipes.and_films(reward)
    name = f"reward{n}" if n > 1 else "reward"
    ppo = recipes.ppo(variant, f"stage:{name}", kl_coef=0.001)
    every = ppo.train.steps // SNAPSHOTS
    ppo.train.save_every, ppo.train.keep = every, SNAPSHOTS
    steps = range(every, ppo.train.steps + 1, every)
    snapshots = [f"stage:ppo{n}@{step}" for step in steps]
    stages |= {name: reward, f"ppo{n}": ppo}
    policies[f"round {n}"] = f"stage:ppo{n}"
  stages["evaluate"] = recipes.evaluate(variant, policies)
  return recipes.recipe("Anthropic HH, online", variant, stages)
