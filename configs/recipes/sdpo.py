"""sDPO: DPO in steps, each against the model that the step before left.

Paper: https://arxiv.org/abs/2403.19270

    xpo run --config=configs/recipes/sdpo.py:smollm --workdir=runs/sdpo

The film pairs, shuffled by the seed, are cut into 2 chunks without common
pairs. Step t starts from step t - 1 and has it as its reference, so every step
begins at log 2; optimizer and schedule begin anew. The paper takes easy data
first: --config.stages.dpo1.data.min_gap=2 (a pair may then be in both chunks).
Expect gold to rise at both steps, and more KL to SFT than one step of DPO has.
"""

from xpo_jax import config, recipes

STEPS = 2


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages, newest = {}, "stage:sft"
  for n in range(1, STEPS + 1):
    dpo = recipes.train(variant, "dpo", newest, beta=0.1)
    dpo.data.limit //= STEPS
    dpo.data.first = dpo.data.limit * (n - 1)
    stages[f"dpo{n}"], newest = dpo, f"stage:dpo{n}"
  policies = {f"step {n}": f"stage:dpo{n}" for n in range(1, STEPS + 1)}
  stages["evaluate"] = recipes.evaluate(variant, policies)
  return recipes.recipe("sDPO", variant, stages)
