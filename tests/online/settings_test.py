"""Sizes of a rollout, and combinations that have no meaning."""

import pytest

from tests import runs
from xpo_jax import config, methods
from xpo_jax.errors import Exit, XpoError
from xpo_jax.online import settings
from xpo_jax.types import Feedback

BASE = {
  "rollout__completions": 4,
  "data__max_prompt_length": 16,
  "data__max_completion_length": 8,
  "batch__row_length": 64,
  "judge__name": "length",
  "judge__source": "2-4",
}


def changed(tmp_path, method="rloo", **changes):
  return runs.make(tmp_path, method, **BASE | changes)


@pytest.mark.parametrize(
  "changes, wanted",
  [
    ({}, (8, 1, 1, 4)),
    ({"rollout__prompts": 24}, (24, 3, 3, 4)),
    ({"rollout__prompts": 16, "rollout__epochs": 3}, (16, 2, 6, 4)),
    ({"rollout__select": "best_worst"}, (8, 1, 1, 2)),
    (
      {"rollout__select": "against_pair", "rollout__completions": 1},
      (8, 1, 1, 2),
    ),
    ({"rollout__select": "against"}, (8, 1, 1, 4)),
  ],
)
def test_sizes(tmp_path, changes, wanted):
  assert settings.sizes(changed(tmp_path, **changes)) == wanted


def test_every_way_to_select_says_what_the_loss_gets():
  from xpo_jax.fields import FIELDS

  assert tuple(settings.KINDS) == FIELDS["rollout.select"].choices
  assert settings.KINDS["best_worst"] is Feedback.ORDER


def test_a_run_on_fixed_data_is_not_looked_at(tmp_path):
  fixed = changed(
    tmp_path, "dpo", rollout__completions=0, judge__name="", judge__source=""
  )
  assert not settings.is_online(fixed)
  settings.check(fixed, methods.get("dpo"), {})


PAIR = {"rollout__select": "against_pair", "rollout__completions": 1}
AGAINST = {"rollout__select": "against", "rollout__opponent": "mixture"}
PAIRWISE = {"judge__name": "pairwise", "judge__source": "run"}
WATCHED = {
  "rollout__patience": 2,
  "train__eval_every": 1,
  "gold__name": "length",
  "gold__source": "2-4",
}
NO_JUDGE = {
  "judge__name": "",
  "judge__source": "",
  "rollout__token_rewards": "run",
}
REFUSED = {
  "no multiple": (
    "rloo",
    {"rollout__prompts": 20},
    "rollout.prompts=20 is no multiple of batch.prompts=8, the prompts of a "
    "step; use 16",
  ),
  "less than a step": ("rloo", {"rollout__prompts": 4}, "use 8"),
  "a reward model": ("rm_bt", {}, "rollout"),
  "one sample": (
    "rloo",
    {"rollout__completions": 1},
    "rollout.completions=1 with rollout.select='keep_all': rloo takes 2 to any",
  ),
  "wrong feedback": (
    "rloo",
    {"rollout__select": "best_worst"},
    "rollout.select='best_worst' gives ORDER feedback, which rloo does not "
    "take; use keep_all",
  ),
  "no feedback at all": ("sft", {}, "sft does not take; use fixed data"),
  "a pair of one": (
    "dpo",
    {"rollout__select": "best_worst", "rollout__completions": 1},
    "best_worst needs 2 or more",
  ),
  "nobody to hold against": (
    "nash_md",
    {"rollout__select": "against"},
    "rollout.select='against' and rollout.opponent='none' do not go together",
  ),
  "an opponent for nothing": (
    "rloo",
    {"rollout__opponent": "ema"},
    "rollout.opponent='ema' do not go together",
  ),
  "a pair of more": (
    "xpo",
    PAIR | {"rollout__completions": 2, "rollout__opponent": "reference"},
    "rollout.completions=2: against_pair holds one sample",
  ),
  "no judge": ("rloo", {"judge__name": "", "judge__source": ""}, "judge.name"),
  "a judge of no name": (
    "rloo",
    {"judge__name": "lenght"},
    "judge.name='lenght'",
  ),
  "a judge without source": ("rloo", {"judge__source": ""}, "judge.source"),
  "a gold judge of no name": ("rloo", {"gold__name": "x"}, "gold.name='x'"),
  "greedy": ("rloo", {"rollout__temperature": 0.0}, "temperature=0"),
  "greedy ppo": ("ppo", {"rollout__temperature": 0.0}, "temperature=0"),
  "steps inside of a rollout": (
    "ppo",
    {"rollout__epochs": 4},
    "train.steps=6 ends inside of a rollout of 4 steps; use 4",
  ),
  "weights of nothing": (
    "dpo",
    {"rollout__select": "best_worst", "rollout__importance_cap": 2.0},
    "rollout.importance_cap=2.0: dpo has no advantages",
  ),
  "weights below their mean": (
    "grpo",
    {"rollout__importance_cap": 0.5},
    "rollout.importance_cap=0.5 must be 0 or >= 1",
  ),
  "long rows": (
    "rloo",
    {"batch__row_length": 47},
    "data.max_prompt_length=16 + 4 completions x data.max_completion_length=8 "
    "= 48 do not fit batch.row_length=47; set batch.row_length=48",
  ),
  "ahead of what is drawn again": (
    "dapo",
    {"rollout__ahead": 1, "rollout__max_batches": 2},
    "rollout.ahead=1 and rollout.max_batches=2",
  ),
  "token rewards": (
    "rloo",
    {"rollout__token_rewards": "run"},
    "rloo has no reward of single tokens",
  ),
  "a value model": (
    "rloo",
    {"rollout__value_source": "run"},
    "rloo has no value model",
  ),
  "a budget": ("rloo", {"rollout__kl_budget": 3.0}, "set train.eval_every"),
  "patience": ("rloo", {"rollout__patience": 2}, "set train.eval_every"),
  "samples of nothing": (
    "dpo",
    {"rollout__completions": 0, "rollout__select": "best_worst"},
    "rollout.select='best_worst' is of samples, but rollout.completions=0",
  ),
  "a judge of nothing": (
    "dpo",
    {"rollout__completions": 0},
    "judge.name='length' is of samples, but rollout.completions=0",
  ),
  "a model that compares": (
    "rm_pairwise",
    {"rollout__select": "best_worst"},
    "trains a reward model",
  ),
  # Each of these trained, on numbers that meant something else.
  "chances against another": (
    "dpo",
    AGAINST | {"rollout__completions": 2},
    "dpo compares the two samples of a prompt; use against_pair",
  ),
  "an opponent's sample as one's own": (
    "nash_md",
    PAIR | {"rollout__opponent": "mixture"},
    "nash_md would take it for the policy's; use against",
  ),
  "away from one's own sample": (
    "xpo",
    {"rollout__select": "best_worst"},
    "xpo moves away from the second sample, which must be the reference's",
  ),
  "away from the average": (
    "xpo",
    PAIR | {"rollout__opponent": "ema"},
    "rollout.opponent='ema': xpo moves away from",
  ),
  "never decided, alone": (
    "reinforce_pp",
    {"rollout__completions": 1, "rollout__max_batches": 2},
    "with rollout.completions=1 and judge.name='length' all are",
  ),
  "never decided, unjudged": (
    "ppo",
    NO_JUDGE | {"rollout__max_batches": 2},
    "and judge.name='' all are",
  ),
  "penalties on chances": (
    "nash_md",
    AGAINST | {"rollout__missing_eos_penalty": 1.0},
    "rollout.missing_eos_penalty=1.0 changes scores",
  ),
  "always too long": (
    "dapo",
    {"rollout__overlong_buffer": 9},
    "rollout.overlong_buffer=9 exceeds data.max_completion_length=8",
  ),
  "twice without a ratio": (
    "rloo",
    {"rollout__epochs": 2},
    "2 steps on one rollout: only the first is on samples of the policy that "
    "it changes, and rloo has no importance ratio here; set rollout.prompts=0 "
    "and rollout.epochs=1 or set method.clip_low and method.clip_high",
  ),
  "minibatches without a ratio": (
    "nash_md",
    AGAINST | {"rollout__prompts": 16},
    "nash_md has no importance ratio here; set rollout.prompts=0 and rollout."
    "epochs=1",
  ),
  "a share of nobody": (
    "nash_ema",
    AGAINST | {"rollout__opponent": "ema", "rollout__mix": 0.5},
    "rollout.mix=0.5 is of rollout.opponent='mixture', this is 'ema'",
  ),
  "an average of nobody": (
    "rloo",
    {"rollout__ema_decay": 0.9},
    "rollout.ema_decay=0.9 is of rollout.opponent='ema'",
  ),
  "a budget without a reference": (
    "rloo",
    {
      "method__beta": 0.0,
      "rollout__kl_budget": 3.0,
      "train__eval_every": 1,
    },
    "rollout.kl_budget=3.0: rloo uses no reference",
  ),
  "a budget without prompts": (
    "rloo",
    {
      "data__eval_source": "",
      "rollout__kl_budget": 3.0,
      "train__eval_every": 1,
    },
    "look at held-out prompts, and there are none; set data.eval_source",
  ),
  "a gold judge without prompts": (
    "rloo",
    {"data__eval_source": "", "gold__name": "length", "gold__source": "2-4"},
    "gold.name, rollout.kl_budget and rollout.patience look at held-out",
  ),
  "patience with what": (
    "rloo",
    {"rollout__patience": 2, "train__eval_every": 1},
    "rollout.patience=2 watches the gold judge; set gold.name",
  ),
  # Each of these trained, or watched, on a constant.
  "two texts of one": (
    "reinforce_pp",
    PAIRWISE | {"rollout__completions": 1},
    "judge.name='pairwise' compares two texts, and rollout.completions=1 gives "
    "it one; set rollout.completions to 2 or more, or name a judge that scores "
    "one, as rating",
  ),
  "two texts of one, with rewards of tokens": (
    "ppo",
    PAIRWISE | {"rollout__completions": 1, "rollout__token_rewards": "run"},
    "judge.name='pairwise' compares two texts",
  ),
  "gold of two texts": (
    "rloo",
    {"gold__name": "preference_model", "gold__source": "run"},
    "gold.name='preference_model' compares two texts, and gold looks at the "
    "policy's alone; name a judge that scores one, as rating",
  ),
  "patience with a constant": (
    "rloo",
    PAIRWISE | WATCHED | {"method__beta": 0.0},
    "rollout.patience=2 watches the reward, and judge.name='pairwise' gives "
    "only win rates",
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_one_line(tmp_path, name):
  method, changes, words = REFUSED[name]
  asked = changed(tmp_path, method, **{"train__eval_every": 0} | changes)
  with pytest.raises(XpoError) as error:
    config.validate(asked)
  said = str(error.value)
  assert error.value.code == Exit.USAGE
  assert words in said and "\n" not in said, said


@pytest.mark.parametrize(
  "method, changes",
  [
    ("ppo", {"rollout__prompts": 24, "rollout__epochs": 2}),
    ("ppo", {"rollout__completions": 1}),
    ("dpo", {"rollout__select": "best_worst"}),
    ("rloo", {"batch__row_length": 48}),
    ("nash_md", AGAINST | {"rollout__mix": 0.5}),
    (
      "rloo",
      {"rollout__epochs": 2, "method__clip_low": 0.2, "method__clip_high": 0.2},
    ),
    ("dapo", {"rollout__overlong_buffer": 8, "rollout__max_batches": 2}),
    # The opponent is the reference, whatever the loss needs.
    (
      "nash_md",
      AGAINST | {"method__tau": 0.0, "reference__source": "runs/sft"},
    ),
    ("xpo", PAIR | {"rollout__opponent": "reference"}),
    ("ppo", NO_JUDGE),
    # Win rates among a prompt's samples, or against an opponent's.
    ("rloo", PAIRWISE | {"method__beta": 0.0}),
    ("rloo", PAIRWISE | WATCHED),  # evaluated against the reference
    ("dpo", PAIRWISE | {"rollout__select": "best_worst"}),
    ("nash_md", PAIRWISE | AGAINST | {"rollout__completions": 1}),
    ("xpo", PAIRWISE | PAIR | {"rollout__opponent": "reference"}),
  ],
)
def test_what_has_a_meaning_is_let_through(tmp_path, method, changes):
  config.validate(changed(tmp_path, method, **changes))
