"""D2O: learns from what people rejected and from the policy's own samples.

Paper: https://arxiv.org/abs/2403.03419

    xpo run --config=configs/recipes/d2o.py:smollm --workdir=runs/d2o

The SFT policy writes 11 reviews a film (tiny: 6) behind instructions of our own
wording; they stand for the good, a review that raters found negative is the
bad. No review that they liked is used. The paper refreshes samples and
reference as it goes; here they are drawn once. Expect `rewards/margin` to grow
and gold to rise a little; with more steps the policy leaves SFT fast.
"""

from xpo_jax import config, recipes

INSTRUCTIONS = (
  "Say what there is to like about it.",
  "Be fair and friendly to the people who made it.",
  "Help the reader to look forward to it.",
)


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  samples = recipes.generate(
    variant,
    "self_samples",
    instructions=INSTRUCTIONS,
    completions=6 if variant == "tiny" else 11,
    judge={},
  )
  samples.data.format = "binary"
  d2o = recipes.train(variant, "d2o", "stage:sft", beta=0.1, alpha=0.1)
  d2o.batch.row_length, d2o.batch.prompts = 1024, 8
  stages = dict(
    samples=samples,
    d2o=recipes.on_rows(d2o, "stage:samples/data.jsonl", steps=8),
    evaluate=recipes.evaluate(variant, {"d2o": "stage:d2o"}),
  )
  return recipes.recipe("D2O", variant, stages)
