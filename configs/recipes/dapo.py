"""DAPO: GRPO with dynamic sampling, clip-higher and a soft limit of length.

Paper: https://arxiv.org/abs/2503.14476

    xpo run --config=configs/recipes/dapo.py:smollm --workdir=runs/dapo

The paper's reward is a rule; here it is a list of words of sentiment, on which
groups often tie: those prompts are drawn again, up to 3 times. The reward falls
by 1 over the last quarter of the tokens, the loss is one mean over all tokens,
and two steps a rollout give the clips (.2 down, .28 up) something to do.
`:smollm,judge=model` takes the reward model, which never ties. Expect
`prompts/used` below 1 and the shaped reward to rise.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, judge=("rule", "model")
  )
  variant, stages = chosen.variant, {}
  rule = chosen.judge == "rule"
  if not rule:
    stages["reward"] = recipes.reward(variant)
  judge = {"name": "sentiment"} if rule else None
  dapo = recipes.online(variant, "dapo", judge, clip_low=0.2, clip_high=0.28)
  dapo.rollout.completions, dapo.rollout.prompts = 8, dapo.batch.prompts
  dapo.batch.prompts //= 2
  dapo.rollout.max_batches = 3
  dapo.rollout.overlong_buffer = dapo.data.max_completion_length // 4
  stages["dapo"] = dapo
  stages["evaluate"] = recipes.evaluate(variant, {"dapo": "stage:dapo"})
  return recipes.recipe("DAPO", variant, stages)
