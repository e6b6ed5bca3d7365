"""InstructGPT: SFT, a K-wise reward model, PPO with pretraining text mixed in.

Paper: https://arxiv.org/abs/2203.02155

    xpo run --config=configs/recipes/instructgpt.py:smollm --workdir=runs/gpt

`:smollm,ptx=off` is plain PPO. The value model starts from the reward model;
the second loss is SFT on as many review sentences as there are samples. The
paper's factor of it, 27.8 with 8 texts an episode, holds a model that is at
rest on those texts; after our short SFT it would be more SFT and no PPO, so it
is 1 here (--config.stages.ppo.aux.coef=27.8). Expect the reward to rise and
`loss/aux` to fall a little; docs/recipes.md has a run.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(arg, variant=recipes.VARIANTS, ptx=("on", "off"))
  variant = chosen.variant
  reward = recipes.reward(variant, "rm_kwise")
  reward.data.format = "lists"
  ppo = recipes.ppo(variant, kl_coef=0.02)
  if chosen.ptx == "on":
    ppo.aux.method, ppo.aux.coef = "sft", 1.0
    ppo.aux.source, ppo.aux.format = "films", "texts"
  stages = dict(
    reward=reward,
    ppo=ppo,
    evaluate=recipes.evaluate(variant, {"ppo": "stage:ppo"}),
  )
  return recipes.recipe("InstructGPT", variant, stages)
