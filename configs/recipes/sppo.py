"""SPPO: rounds of self-play, log-ratios pushed to the win rate.

Paper: https://arxiv.org/abs/2405.00675

    xpo run --config=configs/recipes/sppo.py:smollm --workdir=runs/sppo

A round draws 5 samples a prompt from the policy, all play against each other,
and the best and the worst are pushed to log pi / pi_t = eta (win rate - 1/2),
pi_t being the policy that drew them. eta is 50, a target that a few large steps
can reach; the paper has 1000 and steps of 5e-7 that never do. Expect gold to
rise round by round. P is sigma(r_1 - r_2) of a reward model, because a small
model does not learn to compare; `judge=pairs` takes a preference model.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, judge=recipe_feedback.COMPARERS
  )
  variant = chosen.variant
  first, judge = recipe_feedback.comparer(variant, chosen.judge)

  def draw(policy):
    return recipes.generate(
      variant, "best_worst_wins", (policy,), completions=5, judge=judge
    )

  def learn(policy):
    return recipes.iterate(variant, "sppo", policy, eta=50.0)

  stages, policies = recipes.rounds(2 if variant == "tiny" else 3, draw, learn)
  stages = dict(
    **first,
    **stages,
    evaluate=recipes.evaluate(variant, policies),
  )
  return recipes.recipe("SPPO", variant, stages)
