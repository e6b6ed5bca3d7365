"""SFT, reward models, DPO and evaluation on real film preferences.

    xpo run --config=configs/quickstart.py:smollm --workdir=runs/quickstart

or `make quickstart`; `:tiny` is a model from scratch. --config.seed=1 repeats
everything with other data and noise.

Data: film review sentences rated by 15 and more people each; a pair is two
sentences on one film whose mean ratings differ by at least 1. The second reward
model (`judge`) learns from films that no other stage sees. Expect DPO to raise
the mean VADER of held-out films' generations by at least 0.2 over SFT.
"""

from ml_collections import ConfigDict

from xpo_jax import config
from xpo_jax.report import FILM_NOTES

TINY_NOTE = (
  "The tiny model starts from random weights: read its numbers as a check of "
  "the machinery, not as a result."
)


def _stage(variant, method, source, **keywords):
  c = config.base(variant)
  c.method = config.method(method, **keywords)
  c.model.source = source
  c.data.source = "films"
  c.data.eval_limit = 192
  c.train.epochs = 1.0
  c.train.save_every = 25
  c.optimizer.schedule = "linear"
  c.optimizer.warmup_steps = 5
  return c


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  tiny = variant == "tiny"
  start = "tiny" if tiny else "smollm2-135m-instruct"
  sft = _stage(variant, "sft", start)
  sft.data.format = "texts"
  sft.data.limit = 4000 if tiny else 800
  sft.optimizer.learning_rate = 3e-3 if tiny else 3e-4
  sft.train.epochs = 3.0 if tiny else 1.0
  reward = _stage(variant, "rm_bt", "stage:sft")
  reward.data.limit = 2000 if tiny else 720
  reward.optimizer.learning_rate = 1e-3 if tiny else 1e-4
  judge = _stage(variant, "rm_bt", "stage:sft")
  judge.data.split = "gold"
  judge.data.limit = 1000 if tiny else 480
  judge.optimizer.learning_rate = 1e-3 if tiny else 1e-4
  dpo = _stage(variant, "dpo", "stage:sft", beta=0.1)
  dpo.data.limit = 2000 if tiny else 720
  dpo.optimizer.learning_rate = 5e-4 if tiny else 2.4e-4
  policies = {"sft": "stage:sft", "dpo": "stage:dpo"}
  columns = ("sft", "dpo")
  if not tiny:
    policies, columns = {"start": start, **policies}, ("start", *columns)
  evaluate = dict(
    policies=policies,
    columns=columns,
    baseline="sft",
    final="dpo",
    reference="sft",
    rewards={"reward model": "stage:reward", "held-out judge": "stage:judge"},
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
  return ConfigDict(
    dict(
      title="xpo_jax quickstart: human film preferences",
      model="tiny, from scratch" if tiny else "SmolLM2-135M-Instruct (4-bit)",
      data="film review sentences rated by 15+ people, split by film",
      notes=(*FILM_NOTES[:2], TINY_NOTE, FILM_NOTES[3]) if tiny else FILM_NOTES,
      seed=0,
      order=("sft", "reward", "judge", "dpo", "evaluate"),
      stages=dict(
        sft=sft, reward=reward, judge=judge, dpo=dpo, evaluate=evaluate
      ),
    )
  )
