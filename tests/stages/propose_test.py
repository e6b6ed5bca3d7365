"""The propose stage on a table in place of a model, and once on `tiny`."""

import numpy as np
import pytest

from tests.runs import write
from tests.stages import started
from xpo_jax import pipeline
from xpo_jax.data import load
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges.candidates import Reply
from xpo_jax.stages import propose

KNOWN = [
  f"Film: The {word} Boat\nCritic:" for word in "red old big wet".split()
]
# What the table answers, in turn; nine slices of two.
TEXTS = [
  " A Sea of Salt", " the RED boat!", " Two Rivers", " ", " A sea of salt",
  " -", " Long Way Home", " The Video", " Cut Off Her", " North", " South",
  " 9. East", " West", " Up", " Down", " Left", " Right", " Back",
]  # fmt: skip
NEW = ["A Sea of Salt", "Two Rivers", "Long Way Home", "North", "South", "East"]
REASONS = {
  "similar": 2, "empty": 1, "start": 1, "keyword": 1, "cut off": 1,
}  # fmt: skip


class Stopped(Exception):
  """A kill."""


class Model:
  """A reader over a table that counts its calls and dies on request."""

  def __init__(self, texts=TEXTS, dies_at=0):
    self.texts, self.dies_at = list(texts), dies_at
    self.calls, self.seeds, self.asked = 0, [], []

  def write(self, max_new_tokens, temperature, top_p, seed, stop):
    assert (max_new_tokens, temperature, top_p) == (30, 0.5, 0.9)
    assert stop == ("\n",)

    def write(requests):
      self.calls += 1
      self.seeds.append(seed)
      if self.calls == self.dies_at:
        raise Stopped
      assert [n for _, n in requests] == list(range(len(requests)))  # own noise
      self.asked += [prompt for prompt, _ in requests]
      found = [self.texts.pop(0) for _ in requests]
      return [t if t is None else Reply(t, "Cut" not in t) for t in found]

    return write


def settings(tmp_path, **changes):
  made = [{"prompt": p} for p in KNOWN]
  source = str(write(tmp_path / "prompts.jsonl", made))
  return {
    "shots": 2,
    "policy": "some-model",
    "data": {"source": source},
    "heading": "Films:",
    "lead": "Film: ",
    "suffix": "\nCritic:",
    "prompts": 5,
    "requests": 18,
    "max_new_tokens": 30,
    "temperature": 0.5,
    "top_p": 0.9,
    "prompts_at_once": 2,
    "min_words": 1,
    "seed": 7,
    **changes,
  }


run = started.fixture(propose, settings)


def test_new_prompts_in_the_form_of_the_examples(run):
  model = Model()
  folder, summary = run(model)
  data = started.rows(folder / "data.jsonl")
  assert data == [{"prompt": f"Film: {t}\nCritic:"} for t in NEW[:5]]
  # The sixth slice has the fifth and the sixth new one: nothing is asked after.
  assert model.calls == 6 and len(set(model.seeds)) == 6
  assert summary["numbers"] == {
    "example prompts": 4,
    "of them in one line, to be shown": 4,
    "requests": 12,
    "new prompts": 5,
    **{f"dropped: {k}": n for k, n in REASONS.items()},
    "dropped: not wanted": 1,
  }
  replies = started.rows(folder / "replies.jsonl")
  assert [r["text"] for r in replies] == TEXTS[:12]
  assert [n for n, r in enumerate(replies) if not r["ended"]] == [8]
  shown = summary["samples"][1]
  assert shown["texts"] == {"new prompt": "Two Rivers"}
  assert shown["prompt"] == replies[2]["prompt"]
  groups, _ = load.load_groups(str(folder / "data.jsonl"))
  assert [g.prompt for g in groups] == [d["prompt"] for d in data]
  assert not groups[0].completions


def test_every_request_has_examples_of_its_own(run):
  model = Model()
  run(model, requests=12)
  for n, own in enumerate(model.asked):
    noise = np.random.default_rng([7, n])
    one, two = (
      KNOWN[i][len("Film: ") : -len("\nCritic:")]
      for i in noise.choice(4, 2, replace=False)
    )
    assert one != two and own == f"Films:\n\n1. {one}\n2. {two}\n3."
  assert len(set(model.asked)) > 4


def test_all_requests_are_made_where_too_few_are_new(run):
  model = Model([*TEXTS[:12], *[None] * 6])
  match = "6 of prompts=7 wanted ones came of 18 replies .*no room 6, .*raise"
  with pytest.raises(XpoError, match=match) as e:
    run(model, prompts=7)
  assert e.value.code == Exit.DATA and model.calls == 9
  folder, summary = run(Model([]), prompts=6)  # nothing is drawn again
  assert (
    started.rows(folder / "data.jsonl")[5]["prompt"] == "Film: East\nCritic:"
  )
  assert summary["numbers"]["dropped: no room"] == 6


@pytest.mark.parametrize("dies_at", [1, 2, 6])
@pytest.mark.parametrize("torn", ["", '{"prompt": "Fi'])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(run, dies_at, torn):
  folder, whole = run(Model(), "whole")
  with pytest.raises(Stopped):
    run(Model(dies_at=dies_at), "killed")
  path = folder.parent / "killed" / "replies.jsonl"
  assert not (folder.parent / "killed" / "data.jsonl").exists()
  if torn:
    with open(path, "a") as f:
      f.write(torn)
  model = Model(TEXTS[2 * (dies_at - 1) :])
  again, summary = run(model, "killed")
  assert summary == whole and model.calls == 7 - dies_at
  for name in ("replies.jsonl", "data.jsonl"):
    assert (again / name).read_bytes() == (folder / name).read_bytes()
  done = Model([])
  assert run(done, "killed")[1] == whole and done.calls == 0


def test_rows_of_another_run_are_refused(run):
  run(Model())
  with pytest.raises(XpoError, match="replies.jsonl:1: not a row") as e:
    run(Model(), heading="Other films:")
  assert e.value.code == Exit.CHECKPOINT


def test_conversations(run, tmp_path):
  prompts = [
    [{"role": "user", "content": "Name a sea"}],
    [{"role": "user", "content": "Count to ten\nor more"}],
    [{"role": "system", "content": "x"}, {"role": "user", "content": "Sing"}],
    [{"role": "user", "content": "Spell my name"}],
  ]
  texts = [" count to ten or more", " Name a bird", " Name two seas", " Hum"]
  own = write(tmp_path / "turns.jsonl", [{"prompt": p} for p in prompts])
  folder, summary = run(
    Model(texts), prompts=3, requests=4, lead="", suffix="", heading="",
    data={"source": str(own)},
  )  # fmt: skip
  assert started.rows(folder / "data.jsonl") == [
    {"prompt": [{"role": "user", "content": text}]}
    for text in ("Name a bird", "Name two seas", "Hum")
  ]
  numbers = summary["numbers"]
  assert numbers["example prompts"] == 4 and numbers["dropped: similar"] == 1
  assert numbers["of them in one line, to be shown"] == 2


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"lead": "Movie: "}, "0 of 4 prompts can be shown .one line, of the form"),
    ({"shots": 5}, "4 of 4 prompts can be shown .*fewer than shots=5"),
  ],
)
def test_too_few_examples(run, changes, match):
  with pytest.raises(XpoError, match=match) as e:
    run(Model(), **changes)
  assert e.value.code == Exit.DATA


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"shots": 0}, "stages.x.shots=0: must be >= 1"),
    ({"policy": ""}, "stages.x.policy='': must be given"),
    ({"data": {}}, "stages.x.data.source='': must be given"),
    ({"prompts": 19}, "stages.x.requests=18: must be >= prompts=19"),
    ({"min_words": 151}, "stages.x.max_words=150: must be >= min_words=151"),
    ({"shot": 3}, "stages.x.shot is unknown; did you mean 'shots'"),
    ({"top_p": 0.0}, "stages.x: top_p=0.0: must be in"),
    ({"overlap": 0.0}, "stages.x.overlap=0.0: must be in"),
    ({"keywords": "map"}, "keywords='map': must be a list of texts"),
    ({"template": "chatty"}, "one of auto, plain, chat"),
  ],
)
def test_wrong_settings(tmp_path, changes, match):
  with pytest.raises(XpoError, match=match) as e:
    pipeline.check("x", settings(tmp_path) | changes)
  assert e.value.code == Exit.USAGE


@pytest.mark.slow
def test_on_a_model(tmp_path, monkeypatch):
  """Bytes at random: a line ends by chance; killed in the second slice."""
  changes = dict(policy="tiny", max_new_tokens=40, temperature=1.0, top_p=1.0)
  chosen = settings(tmp_path, **changes, prompts=8, requests=96)
  chosen |= {"prompts_at_once": 16}
  monkeypatch.setattr(propose.new_prompts, "fault", lambda text, rules: "")
  found = propose.run(chosen, tmp_path / "whole")
  replies = started.rows(tmp_path / "whole" / "replies.jsonl")
  ended = [r["text"] for r in replies if r["ended"]]
  assert 8 <= len(ended) < len(replies) == found["numbers"]["requests"]
  assert not any("\n" in text for text in ended)
  append, calls = propose.slices.append, []

  def dies(*given):
    calls.append(given)
    if len(calls) == 2:
      raise Stopped
    append(*given)

  monkeypatch.setattr(propose.slices, "append", dies)
  with pytest.raises(Stopped):
    propose.run(chosen, tmp_path / "killed")
  assert propose.run(chosen, tmp_path / "killed") == found
  # The first slice is not drawn again, and the second had to be.
  assert len(calls) == len(replies) // 16 + 1 > 2
  for name in ("replies.jsonl", "data.jsonl"):
    one, two = ((tmp_path / w / name).read_bytes() for w in ("whole", "killed"))
    assert one == two
