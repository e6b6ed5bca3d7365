"""DNO: rounds of DPO on pairs with a large margin, people's reviews included.

Paper: https://arxiv.org/abs/2404.03715

    xpo run --config=configs/recipes/dno.py:smollm --workdir=runs/dno

The paper's practical form: 5 samples of the policy and the best review that
people wrote (its teacher is GPT-4), all scored by the reward model (its judge
is GPT-4); every pair whose scores differ by .5 is learned, except where the
sample beats the review; the reference is the policy that drew. Expect the
samples' score, their wins over the reviews and gold to rise round by round.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant

  def draw(policy):
    stage = recipes.generate(
      variant,
      "large_margin",
      (policy,),
      completions=5,
      gold=True,
      min_margin=0.5,
    )
    stage.data.format = "lists"  # whose means tell the best review
    return stage

  def learn(policy):
    return recipes.iterate(variant, "dpo", policy, beta=0.1)

  stages, policies = recipes.rounds(2 if variant == "tiny" else 3, draw, learn)
  stages = dict(
    reward=recipes.reward(variant),
    **stages,
    evaluate=recipes.evaluate(variant, policies),
  )
  return recipes.recipe("DNO", variant, stages)
