"""PAFT: SFT and DPO side by side from one start, then merged.

Paper: https://arxiv.org/abs/2406.17923

    xpo run --config=configs/recipes/paft.py:smollm --workdir=runs/paft

Two LoRA adapters are trained apart from the same start: one by SFT on film
review sentences, with an L1 term that makes its change sparse, one by DPO on
pairs of them. TIES keeps all of the first beside the largest 20% of the second.
The start is the model before `sft`, which only is compared with; for `:tiny` it
is `sft`, as words must be learned before they can be preferred. Try
--config.stages.merge.scale=0.5, or `paft.py:smollm,merge=slerp`; `merge` is one
of ties, linear, task_arithmetic, dare_linear, dare_ties and slerp.

Expect `loss/l1` of sparse to stay well below its `loss/main`, the merge's table
to show a smaller change by sparse than by dpo, and gold to rise over sft.
"""

from xpo_jax import config, recipes
from xpo_jax.stages import merge as merging

OPERATORS = ("ties", *(name for name in merging.OPTIONS if name != "ties"))


def get_config(arg: str = ""):
  chosen = config.parse_arg(arg, variant=recipes.VARIANTS, merge=OPERATORS)
  variant = chosen.variant
  tiny = variant == "tiny"
  start = "stage:sft" if tiny else recipes.START
  sparse = recipes.train(variant, "sft", start)
  sparse.data.format = "texts"
  sparse.data.limit = 640 if tiny else 800
  sparse.lora.l1 = 1e-4 if tiny else 1e-5
  dpo = recipes.train(variant, "dpo", start, beta=0.1)
  dpo.data.limit = 640 if tiny else 720
  for stage in (sparse, dpo):
    stage.lora.rank = 16
    stage.optimizer.learning_rate = 3e-3 if tiny else 1e-3
  merge = merging.section(
    operator=chosen.merge, sources=("stage:sparse", "stage:dpo"), base=start
  )
  if "densities" in merge:
    merge.densities = (1.0, 0.2)
  policies = dict(
    sparse="stage:sparse", dpo="stage:dpo", merged="stage:merge/model"
  )
  stages = dict(sparse=sparse, dpo=dpo, merge=merge)
  stages["evaluate"] = recipes.evaluate(variant, policies)
  return recipes.recipe("PAFT: SFT and DPO apart, merged", variant, stages)
