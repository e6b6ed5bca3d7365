"""InstructGPT: SFT, a K-wise reward model, PPO with pretraining text mixed in.

Paper: https://arxiv.org/abs/2203.02155

    xpo run --config=configs/recipes/instructgpt.py:smollm --workdir=runs/gpt

`:smollm,ptx=off` is plain PPO. The value model starts from the reward model;
the second loss is 27.8 x SFT on review sentences, as many tokens a step as the
paper's 8 texts an episode would be too many here. Expect the reward to rise
while `loss/aux` stays where it was.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(arg, variant=recipes.VARIANTS, ptx=("on", "off"))
  variant = chosen.variant
  reward = recipes.reward(variant, "rm_kwise")
  reward.data.format = "lists"
  ppo = recipes.online(variant, "ppo", kl_coef=0.02)
  ppo.rollout.completions = 1
  ppo.rollout.prompts, ppo.rollout.epochs = 2 * ppo.batch.prompts, 2
  ppo.rollout.value_source = "stage:reward"
  if chosen.ptx == "on":
    ppo.aux.method, ppo.aux.coef = "sft", 27.8
    ppo.aux.source, ppo.aux.format = "films", "texts"
  stages = dict(
    reward=reward,
    ppo=ppo,
    evaluate=recipes.evaluate(variant, {"ppo": "stage:ppo"}),
  )
  return recipes.recipe("InstructGPT", variant, stages)
