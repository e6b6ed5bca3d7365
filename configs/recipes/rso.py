"""RSO: pairs from an estimate of the optimal policy, by rejection sampling.

Paper: https://arxiv.org/abs/2309.06657

    xpo run --config=configs/recipes/rso.py:smollm --workdir=runs/rso

The SFT policy draws candidates, statistical rejection sampling keeps 8 of them
as if drawn from pi_sft exp(r / beta), and neighbours of a shuffle make pairs
(the paper draws 64 a prompt at temperature .7, top-k 40: --config.stages.pairs.
completions=64). Expect gold to rise over SFT.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  pairs = recipes.generate(
    variant,
    "rejection_first_round",
    completions=16,
    accept=8,
    select_beta=0.5,
    temperatures=(0.7,),
    top_k=40,
  )
  rso = recipes.train(variant, "rso", "stage:sft", gamma=0.05)
  rso.optimizer.learning_rate /= 2  # 256 pairs of the policy's own samples
  stages = dict(
    reward=recipes.reward(variant),
    pairs=pairs,
    rso=recipes.on_rows(rso, "stage:pairs/data.jsonl"),
    evaluate=recipes.evaluate(variant, {"rso": "stage:rso"}),
  )
  return recipes.recipe("RSO", variant, stages)
