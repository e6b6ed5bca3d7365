"""SPPO: rounds of self-play, log-ratios pushed to the win rate.

Paper: https://arxiv.org/abs/2405.00675

    xpo run --config=configs/recipes/sppo.py:smollm --workdir=runs/sppo

A round draws 5 samples a prompt from the policy, a preference model plays them
all against each other, and the best and the worst are pushed to log pi / pi_t =
eta (win rate - 1/2), pi_t being the policy that drew them. eta is 50, a target
that a few large steps can reach; the paper has 1000 and steps of 5e-7 that
never do. Expect gold to rise round by round. `:tiny` cannot compare texts: its
P is sigma(r_1 - r_2) of a reward model.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  first, judge = recipes.comparer(variant)

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
