"""Online DPO (OAIF): every step on two fresh samples that a judge orders.

Paper: https://arxiv.org/abs/2402.04792

    xpo run --config=configs/recipes/online_dpo.py:smollm --workdir=runs/oaif

Samples are drawn at temperature .9 and ordered by the reward model; the
reference stays the SFT policy. `:smollm,loss=ipo` is IPO with the paper's tau
of 1, which wants half a nat between the two. Expect the reward and gold to
rise, and `rewards/accuracy` to stay near 1/2: pairs are never seen twice. The
paper asks a language model, --config.stages.online_dpo.judge.name=pairwise with
its judge.source: `eval/reward` then is P(a sample beats one of the SFT policy),
there is no `rewards/judge`, and `judge/equal` is the share of ties.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(arg, variant=recipes.VARIANTS, loss=("dpo", "ipo"))
  variant = chosen.variant
  scale = {"tau": 1.0} if chosen.loss == "ipo" else {"beta": 0.1}
  online = recipes.online(variant, chosen.loss, **scale)
  online.rollout.select, online.rollout.completions = "best_worst", 2
  online.rollout.temperature = 0.9
  online.batch.prompts *= 2
  stages = dict(
    reward=recipes.reward(variant),
    online_dpo=online,
    evaluate=recipes.evaluate(
      variant, {f"online {chosen.loss}": "stage:online_dpo"}
    ),
  )
  return recipes.recipe("online DPO", variant, stages)
