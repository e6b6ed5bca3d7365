"""SLiC-HF, sample and rank: a knockout among the SFT policy's own samples.

Paper: https://arxiv.org/abs/2305.10425

    xpo run --config=configs/recipes/slic_sample_rank.py:smollm --workdir=runs/s

4 samples a film (temperature .7, top-k 40; the paper has 8) meet in a knockout
that the reward model's scores decide; its games are the pairs of a hinge on
log-probs, with the winner as the target of the NLL. `ranker=pairwise` asks a
pairwise preference model instead, which takes a larger model to learn. The
paper's target is the reference text; its weight is not given there, here it is
.1. Expect gold to rise without a reference model.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, ranker=("pointwise", "pairwise")
  )
  variant = chosen.variant
  pairwise = chosen.ranker == "pairwise"
  ranker = recipes.reward(variant)
  judge = dict(name="reward_model", source="stage:reward")
  if pairwise:
    ranker = recipes.preference_model(variant)
    judge = dict(name="preference_model", source="stage:preference")
  pairs = recipes.generate(
    variant,
    "tournament",
    completions=4,
    temperatures=(0.7,),
    top_k=40,
    judge=judge,
  )
  slic = recipes.train(variant, "slic", "stage:sft", delta=1.0, nll_coef=0.1)
  slic.optimizer.learning_rate = recipes.pick(variant, 5e-4, 5e-5)
  stages = {
    "preference" if pairwise else "reward": ranker,
    "pairs": pairs,
    "slic": recipes.on_rows(slic, "stage:pairs/data.jsonl"),
    "evaluate": recipes.evaluate(variant, {"slic": "stage:slic"}),
  }
  return recipes.recipe("SLiC-HF, sample and rank", variant, stages)
