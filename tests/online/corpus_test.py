"""C8 to C23 of the corpus of bad inputs, and what sampling adds to them.

Each gives one line before data and weights are opened; where only the model's
sizes can tell (ON_MODEL), before the first step. C1 to C7 and C24 on are those
of any flag: `tests/cli_test.py`. What a user's own reward function may do wrong
is in `tests/online/refusals_test.py`, which lends `judged`.
"""

from collections import Counter
import functools
import types

import numpy as np
import pytest

from tests import runs
from tests.online import refusals_test, samples, settings_test
from xpo_jax import config, examples, judge_config, methods, parallel, placement
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import function, written
from xpo_jax.judges.candidates import Reply
from xpo_jax.judges.tally import Tally
from xpo_jax.models import model as model_lib
from xpo_jax.models import presets
from xpo_jax.online import prompts, verdicts
from xpo_jax.rollout import agreement
from xpo_jax.rollout.steps import Sampling

# Number, place -> (method, flags, words of the line).
CONFIGS = {
  "C8": ("dpo", ["method.beta=0"], "method.beta=0.0 of dpo must be > 0"),
  "C9": ("dpo", ["method.label_smoothing=.5"], "must be in [0, 0.5)"),
  "C10": ("rloo", ["data.source="], "data.source is required"),
  "C11 microbatches": (
    "rloo",
    ["batch.microbatches=3"],
    "batch.prompts=8 is no multiple of 3",
  ),
  "C11 devices": ("rloo", ["batch.prompts=12"], "use 8 or 16"),
  "C11 rollout": ("ppo", ["rollout.prompts=20"], "use 16"),
  "C12 rloo": ("rloo", ["rollout.completions=1"], "rloo takes 2 to any"),
  "C12 grpo": ("grpo", ["rollout.completions=1"], "grpo takes 2 to any"),
  "C14 row": ("dpo", ["batch.row_length=20"], "= 24 do not fit"),
  "C14 samples": ("rloo", ["batch.row_length=47"], "set batch.row_length=48"),
  "C14 context": ("rloo", ["model.max_length=20"], "> model.max_length=20"),
  "C15": ("rloo", ["train.save_every=0"], "train.save_every=0 must be >= 1"),
  "C16": (
    "rloo",
    ["optimizer.warmup_steps=7"],
    "optimizer.warmup_steps=7 is longer than the run of 6 steps",
  ),
  "C17": ("rloo", ["train.epochs=1"], "are both set"),
  "C18": ("rloo", ["mesh.data=2"], "does not make the 8 devices here"),
  "C18 two open": ("rloo", ["mesh.fsdp=-1"], "more than one axis is -1"),
  "C21 simpo": (
    "simpo",
    ["reference.source=runs/x"],
    "simpo uses no reference",
  ),
  "C21 orpo": ("orpo", ["reference.source=runs/x"], "orpo uses no reference"),
  "C21 rloo": (
    "rloo",
    ["method.beta=0", "reference.source=runs/x"],
    "rloo uses no reference with these keywords",
  ),
  "C22 ppo": ("ppo", ["rollout.temperature=0"], "temperature=0 draws no"),
  "C22 rloo": ("rloo", ["rollout.temperature=0"], "temperature=0 draws no"),
  # Samplers of the policy cut nothing off: there is no key for it.
  "C23": ("ppo", ["rollout.top_p=0.9"], "unknown"),
}
ON_MODEL = {
  "C13": (["mesh.tensor=4"], "mesh.tensor=4 does not divide the model's kv_"),
  "C14 model": (
    ["data.max_prompt_length=505", "batch.row_length=1024"],
    "= 513 > the model's context=512",
  ),
}
# Decided otherwise, or of no config: a test below.
OTHERS = {"C19", "C20"}


def test_every_number_is_here():
  named = {name.split()[0] for name in [*CONFIGS, *ON_MODEL]} | OTHERS
  assert named == {f"C{n}" for n in range(8, 24)}


def refused(xpo, tmp_path, method, flags):
  """The line that ends `xpo train`."""
  offline = methods.get(method).survey.policy == "off"
  base = {"rollout__completions": 0, "judge__name": "", "judge__source": ""}
  changes = settings_test.BASE | (base if offline else {})
  path = runs.save(
    runs.make(tmp_path, method, **changes), tmp_path / "config.json"
  )
  run = tmp_path / "run"
  code, out, err = xpo(
    "train",
    f"--config={path}",
    f"--workdir={run}",
    *(f"--config.{flag}" for flag in flags),
  )
  assert code == Exit.USAGE and len(err) == 1, err
  assert not (run / "checkpoints").exists()
  return err[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config(xpo, tmp_path, monkeypatch, name):
  def opened(*_):
    raise AssertionError("something was opened before the config was checked")

  monkeypatch.setattr(parallel, "start", lambda cache: None)
  for module, what in (
    (examples, "read"),
    (prompts, "read"),
    (placement, "load_policy"),
  ):
    monkeypatch.setattr(module, what, opened)
  method, flags, words = CONFIGS[name]
  assert words in refused(xpo, tmp_path, method, flags)


@pytest.mark.parametrize("name", ON_MODEL)
def test_a_config_against_the_model(xpo, tmp_path, monkeypatch, name):
  sizes = presets.PRESETS["tiny"].config
  base = types.SimpleNamespace(model=model_lib.Model(sizes))  # and no weights
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  monkeypatch.setattr(placement, "load_policy", lambda *_: base)
  flags, words = ON_MODEL[name]
  assert words in refused(xpo, tmp_path, "rloo", flags)


def test_nothing_to_resume(xpo, tmp_path):  # C19
  """A run goes on by itself where it can; what must be there is exit 66."""
  code, _, err = xpo("verify", str(tmp_path))
  assert code == Exit.CHECKPOINT and "no checkpoint in it" in err[0]
  asked = ("--config=configs/rloo.py:tiny", f"--workdir={tmp_path / 'run'}")
  code, _, err = xpo("train", *asked, "--resume=required")
  assert code == Exit.USAGE and "unknown flag --resume" in err[0]


def test_no_reference_is_the_policys_start(tmp_path):  # C20
  """So none can be missing; a batch of one's own without it is refused."""
  c = runs.make(tmp_path, "dpo")
  assert c.reference.source == ""
  config.validate(c)
  mask = np.ones((1, 2, 3), bool)
  x = types.SimpleNamespace(
    completion_mask=mask,
    feedback_kind=settings_test.Feedback.ORDER,
    policy_logps=mask * -1.0,
    reference_logps=None,
  )
  with pytest.raises(XpoError, match="dpo needs reference_logps"):
    methods.get("dpo").check(x, {})


@pytest.mark.parametrize(
  "how, words",
  [
    (Sampling(temperature=0.0), "temperature=0 draws no samples"),  # C22
    (Sampling(top_p=0.9), "top_p=0.9 cuts the policy's distribution"),  # C23
    (Sampling(top_k=5), "top_k=5 cuts the policy's distribution"),
  ],
)
def test_a_ratio_to_another_distribution(how, words):
  with pytest.raises(XpoError, match=words) as error:
    agreement.check_ratio(how)
  assert error.value.code == Exit.USAGE
  agreement.check_ratio(Sampling())


@pytest.mark.parametrize(
  "name, code, words",
  [
    ("nothing", Exit.NUMERIC, "12 of 12 replies are invalid (nan 12)"),  # W2
    ("short", Exit.USAGE, "returned shape (11,) for 12 completions"),  # W4
    ("raises", Exit.USAGE, "ZeroDivisionError at prompt 0, completion 0"),  # W6
    ("hangs", Exit.USAGE, "no answer within 0.1 s for 12 completions"),  # W7
    ("absent", Exit.USAGE, "absent"),
  ],
)
def test_a_reward_function(monkeypatch, name, code, words):
  seconds = 0.1 if name == "hangs" else function.SECONDS
  quick = functools.partial(function.from_function, seconds=seconds)
  monkeypatch.setattr(function, "from_function", quick)
  with pytest.raises(XpoError) as error:
    refusals_test.judged(name, [["x", "b"]] * 6)
  assert error.value.code == code
  assert words in str(error.value) and "\n" not in str(error.value)


def test_a_judge_that_never_parses():
  """No score by default: it is counted, and soon stops the run."""
  talks = lambda asked: [Reply("I like both of them.") for _ in asked]
  judge = written.rating(talks)
  built = judge_config.Built(judge, None, "verdict_rating", 0.1)
  score = lambda count, tally: verdicts.score(
    built, ["p"] * count, [["a"]] * count, np.ones((count, 1), bool), tally
  )
  few = score(10, Tally())
  assert np.isnan(few.scores).all() and few.tally == Tally(
    10, tuple(Counter(grammar=10).items())
  )
  with pytest.raises(XpoError, match="11 of 11 replies are invalid") as error:
    score(1, few.tally)
  assert error.value.code == Exit.NUMERIC


def test_a_reward_model_of_another_vocabulary_reads_texts():  # K14
  """No id of the policy reaches it; where ids must, see `refusals_test`."""
  drawn = samples.drawn(1, 2)
  drawn = drawn._replace(tokens=drawn.tokens + 10**6)
  words = {int(n): f"w{n - 10**6}" for n in drawn.tokens.flat}
  policy = types.SimpleNamespace(
    decode=lambda ids: " ".join(words[int(n)] for n in ids)
  )
  texts = verdicts.texts_of(drawn, ["p"], policy, "plain")
  for k, text in enumerate(texts[0]):
    ids = drawn.ids(0, k) - 10**6
    ids = ids[:-1] if drawn.ended[0, k] else ids
    assert text == " ".join(f"w{n}" for n in ids)
