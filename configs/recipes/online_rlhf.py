"""Online RLHF: rounds of DPO on the newest policy's best and worst samples.

Paper: https://arxiv.org/abs/2405.07863 and https://arxiv.org/abs/2312.11456

    xpo run --config=configs/recipes/online_rlhf.py:smollm --workdir=runs/online

Every round draws fresh prompts from the newest policy and from its enhancer
(the same policy, hotter), keeps the best and the worst by the reward model, and
trains from the SFT policy on the pairs of all rounds; the reference stays the
SFT policy. `ref=previous` is the released scripts' variant: only the newest
pairs, against and from the newest policy. Expect gold to rise round by round.
"""

from xpo_jax import config, recipes

ROUNDS = 3


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, ref=("initial", "previous")
  )
  variant, stages, newest = chosen.variant, {}, "stage:sft"
  previous, count = chosen.ref == "previous", 16 if variant == "tiny" else 48
  stages["reward"] = recipes.reward(variant)
  for n in range(1, ROUNDS + 1):
    stages[f"pairs{n}"] = recipes.generate(
      variant,
      "best_worst",
      (newest, newest),
      temperatures=(1.0, 1.2),
      prompts=count,
      first=count * (n - 1),
      also=(f"stage:pairs{n - 1}/data.jsonl",)
      if n > 1 and not previous
      else (),
    )
    dpo = recipes.train(variant, "dpo", newest if previous else "stage:sft")
    stages[f"dpo{n}"] = recipes.on_rows(  # as many passes in every round
      dpo, f"stage:pairs{n}/data.jsonl", steps=8 if previous else 8 * n
    )
    newest = f"stage:dpo{n}"
  policies = {f"round {n}": f"stage:dpo{n}" for n in range(1, ROUNDS + 1)}
  stages["evaluate"] = recipes.evaluate(variant, policies)
  return recipes.recipe("online RLHF", variant, stages)
