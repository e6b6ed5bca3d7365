"""PAFT: SFT and DPO side by side from one start, then merged.

Paper: https://arxiv.org/abs/2406.17923

    xpo run --config=configs/recipes/paft.py:smollm --workdir=runs/paft

or `:tiny`, from scratch. SFT on film review sentences and DPO on pairs of them
train LoRA adapters of the same start apart; an L1 term makes the SFT's change
sparse, so that TIES can keep all of it beside the largest 20% of DPO's.
Try --config.stages.merge.scale=0.5 or --config.stages.merge.operator=dare_ties.

Expect `loss/l1` of sft to stay well below its `loss/main`, the merge's table to
show a smaller change by sft than by dpo, and the KL to the start of merged to
lie between theirs.
"""

from ml_collections import ConfigDict

from xpo_jax import config, recipes
from xpo_jax.report import FILM_NOTES


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  tiny = variant == "tiny"
  start = "stage:start" if tiny else "smollm2-135m-instruct"
  sft = recipes.train(variant, "sft", start)
  sft.data.format = "texts"
  sft.data.limit = 640 if tiny else 800
  sft.lora.l1 = 1e-4 if tiny else 1e-5
  dpo = recipes.train(variant, "dpo", start, beta=0.1)
  dpo.data.limit = 640 if tiny else 720
  for stage in (sft, dpo):
    stage.lora.rank = 16
    stage.optimizer.learning_rate = 3e-3 if tiny else 1e-3
  merge = dict(
    operator="ties",
    sources=("stage:sft", "stage:dpo"),
    base=start,
    densities=(1.0, 0.2),
    scale=1.0,
  )
  evaluate = dict(
    policies=dict(
      start=start, sft="stage:sft", dpo="stage:dpo", merged="stage:merge/model"
    ),
    columns=("start", "sft", "dpo", "merged"),
    baseline="start",
    final="merged",
    reference="start",
    rewards={},
    data=dict(
      source="films", split="validation", format="auto", on_bad_row="error"
    ),
    prompts=0,
    prompts_at_once=64,
    template="plain",
    completions=3,
    max_new_tokens=40,
    temperature=0.7,
    top_p=1.0,
    seed=0,
    shared_blocks=0 if tiny else 24,
  )
  stages = dict(sft=sft, dpo=dpo, merge=merge, evaluate=evaluate)
  if tiny:  # its words must be learned before they can be preferred
    first = recipes.train(variant, "sft", "tiny")
    first.data.format = "texts"
    first.data.limit = 3000
    first.optimizer.learning_rate = 3e-3
    stages = dict(start=first, **stages)
  return ConfigDict(
    dict(
      title="PAFT: SFT and DPO apart, merged by TIES",
      model="tiny, from scratch" if tiny else "SmolLM2-135M-Instruct (4-bit)",
      data="film review sentences rated by 15+ people, split by film",
      notes=(FILM_NOTES[0], FILM_NOTES[3]),
      seed=0,
      order=tuple(stages),
      stages=stages,
    )
  )
