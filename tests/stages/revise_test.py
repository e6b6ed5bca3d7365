"""The revise stage on a table in place of a model, and once on `tiny`."""

import types

import numpy as np
import pytest

from tests.judges.stand_ins import shown
from tests.runs import write
from tests.stages import started
from xpo_jax.data import load
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import revision, wording
from xpo_jax.judges.candidates import Reply
from xpo_jax.stages import revise
from xpo_jax.types import Feedback

TURNS = [{"role": "user", "content": "Hi é"}]
PROMPTS = ["p0?", "p1?", "p2?", TURNS, "p4?"]


class Stopped(Exception):
  """A kill."""


class Model:
  """A reader over a table that counts its calls and dies on request.

  A prompt is as many tokens as it has characters. First answers are " a" and
  the seed of the call; a critique is "c", a revision the answer and "+".
  """

  def __init__(self, dies_at=0, reply=None):
    config = types.SimpleNamespace(max_length=1000)
    model = types.SimpleNamespace(config=config)
    self.model = types.SimpleNamespace(model=model)
    self.template = types.SimpleNamespace(prompt=self.ids)
    self.calls, self.dies_at, self.seeds = 0, dies_at, []
    self.reply = reply or (lambda prompt, text: Reply(text))

  def ids(self, prompt):
    text = prompt if isinstance(prompt, str) else prompt[0].content
    return np.zeros(len(text), np.int32)

  def write(self, max_new_tokens, temperature, seed):
    assert (max_new_tokens, temperature) == (100, 0.5)

    def write(requests):
      self.calls += 1
      self.seeds.append(seed)
      if self.calls == self.dies_at:
        raise Stopped
      return [self.reply(p, self.text(p, seed)) for p, _ in requests]

    return write

  def text(self, prompt, seed):
    fields = {} if isinstance(prompt, str) else shown(prompt)
    if "Answer" not in fields:
      return f" a{seed}"
    return f"{fields['Answer']}+" if "Critique" in fields else "c"


def settings(tmp_path, **changes):
  rows = [{"prompt": p, "completion": "x"} for p in PROMPTS]
  source = str(write(tmp_path / "prompts.jsonl", rows))
  return {
    "revisions": 2,
    "policy": "some-model",
    "data": {"source": source},
    "max_new_tokens": 100,
    "temperature": 0.5,
    "prompts_at_once": 2,
    "seed": 7,
    **changes,
  }


run = started.fixture(revise, settings)


def test_chains_and_demonstrations(run):
  model = Model()
  folder, summary = run(model)
  chains = started.rows(folder / "chains.jsonl")
  assert [own["prompt"] for own in chains] == PROMPTS
  drawn = [revision.principle_indices(7, n, 2, 16) for n in range(5)]
  ids = [own.id for own in wording.principles()]
  assert [c["principles"] for c in chains] == [
    [ids[i] for i in d] for d in drawn
  ]
  first = chains[0]["answer"]
  assert first.startswith(" a") and chains[0]["critiques"] == ["c", "c"]
  own = first.strip()
  assert chains[0]["revisions"] == [f"{own}+", f"{own}++"]
  data = started.rows(folder / "data.jsonl")
  assert data[:2] == [
    {"prompt": "p0?", "completion": f" {own}+"},
    {"prompt": "p0?", "completion": f" {own}++"},
  ]
  # A conversation's answer is a turn: no space before it.
  assert data[6]["prompt"] == TURNS and data[6]["completion"][:1] == "a"
  assert not {c["answer"] for c in chains} & {d["completion"] for d in data}
  # 3 slices of 1 first answer and 2 x 2 calls, each with noise of its own.
  assert model.calls == 15 and len(set(model.seeds)) == 15
  assert summary["numbers"] == {
    "prompts": 5,
    "prompts too long": 0,
    "first answers cut": 0,
    "steps": 10,
    "steps without a critique": 0,
    "steps without a revision": 0,
    "revisions kept": 10,
    "other demonstrations": 0,
  }
  assert summary["samples"][3]["prompt"] == "user: Hi é"
  groups, _ = load.load_groups(str(folder / "data.jsonl"))
  assert len(groups) == 10 and groups[0].kind is Feedback.DEMONSTRATION


def test_only_the_last_and_others_mixed_in(run, tmp_path):
  also = write(
    tmp_path / "help.jsonl", [{"prompt": "help?", "completion": " yes"}]
  )
  folder, summary = run(Model(), keep="last", also=[str(also)])
  chains, data = (
    started.rows(folder / "chains.jsonl"),
    started.rows(folder / "data.jsonl"),
  )
  assert [d["completion"].strip() for d in data[:-1]] == [
    c["revisions"][1] for c in chains
  ]
  assert data[-1] == {"prompt": "help?", "completion": " yes"}
  assert summary["numbers"]["other demonstrations"] == 1


@pytest.mark.parametrize("dies_at", [1, 6, 9, 15])
@pytest.mark.parametrize("torn", ["", '{"prompt": "p'])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(run, dies_at, torn):
  folder, whole = run(Model(), "whole")
  with pytest.raises(Stopped):
    run(Model(dies_at), "killed")
  path = folder.parent / "killed" / "chains.jsonl"
  assert not (folder.parent / "killed" / "data.jsonl").exists()
  if torn:
    with open(path, "a") as f:
      f.write(torn)
  model = Model()
  again, summary = run(model, "killed")
  assert summary == whole
  assert model.calls == 15 - (dies_at - 1) // 5 * 5  # whole slices are kept
  for name in ("chains.jsonl", "data.jsonl"):
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_half_a_slice_is_done_again(run):
  folder, _ = run(Model())
  path = folder / "chains.jsonl"
  whole = path.read_bytes()
  lines = whole.splitlines(keepends=True)
  path.write_bytes(b"".join(lines[:3]))
  model = Model()
  run(model)
  assert model.calls == 10 and path.read_bytes() == whole
  done = Model()
  run(done)
  assert done.calls == 0 and path.read_bytes() == whole


@pytest.mark.parametrize("line", ['{"prompt": "other"}', "no json", "[]"])
def test_rows_of_another_run_are_refused(run, line):
  folder, _ = run(Model())
  path = folder / "chains.jsonl"
  kept = path.read_text().splitlines()[:1]
  path.write_text("\n".join([*kept, line]) + "\n")
  with pytest.raises(XpoError, match="chains.jsonl:2: not a row") as e:
    run(Model())
  assert e.value.code == Exit.CHECKPOINT


def test_failed_steps_are_counted_and_give_nothing(run):
  def reply(prompt, text):
    fields = {} if isinstance(prompt, str) else shown(prompt)
    if fields.get("Conversation") == "p0?":
      return None  # no critique
    if "Critique" in fields:
      return Reply(text, whole=fields["Conversation"] != "p1?")
    return Reply(text, whole=prompt != "p2?")  # a first answer that is cut

  folder, summary = run(Model(reply=reply), revisions=1)
  numbers = summary["numbers"]
  assert numbers["steps without a critique"] == 1
  assert numbers["steps without a revision"] == 1
  assert numbers["first answers cut"] == 1 and numbers["revisions kept"] == 3
  chains = started.rows(folder / "chains.jsonl")
  assert [c["problems"] for c in chains[:3]] == [
    ["no_critique"], ["no_revision"], [""],
  ]  # fmt: skip
  assert chains[0]["revisions"] == [chains[0]["answer"]]
  data = started.rows(folder / "data.jsonl")
  assert [d["prompt"] for d in data] == ["p2?", TURNS, "p4?"]


def test_no_revision_at_all(run):
  with pytest.raises(XpoError, match="no reply was a revision; raise") as e:
    run(Model(reply=lambda p, t: Reply(t, whole=False)))
  assert e.value.code == Exit.DATA


def test_prompts_too_long_are_dropped_and_counted(run, tmp_path):
  prompts = ["x" * 900, "y" * 901, "z" * 2000]  # the context is 100 + 900
  made = [{"prompt": p, "completion": "x"} for p in prompts]
  write(tmp_path / "long.jsonl", made)
  data = {"source": str(tmp_path / "long.jsonl")}
  folder, summary = run(Model(), "long", data=data)
  assert summary["numbers"]["prompts too long"] == 2
  assert [
    c["prompt"] for c in started.rows(folder / "chains.jsonl")
  ] == prompts[:1]
  with pytest.raises(XpoError, match="none of 2 prompts from number 1") as e:
    run(Model(), "none", data=data, first=1)
  assert e.value.code == Exit.DATA


def test_fewer_prompts_than_wanted_are_told(run, capsys):
  total = len(PROMPTS)
  run(Model(), "enough", prompts=total - 1, first=1)
  assert "warning" not in capsys.readouterr().out
  run(Model(), "few", prompts=total, first=1)
  said = capsys.readouterr().out
  assert f"has {total} prompts: of the prompts={total} after first=1" in said
  assert f"{total - 1} are left" in said


def test_on_a_model(tmp_path):
  changes = dict(policy="tiny", max_new_tokens=40, temperature=2.0, seed=2)
  chosen = settings(tmp_path, **changes, skip_critique=True, prompts_at_once=8)
  summary = revise.run(chosen, tmp_path / "tiny")
  path, data = (tmp_path / "tiny" / f for f in ("chains.jsonl", "data.jsonl"))
  chains, whole = started.rows(path), path.read_bytes()
  steps = [s for c in chains for s in zip(c["revisions"], c["problems"])]
  revised = [text for text, problem in steps if not problem]
  assert [d["completion"].lstrip() for d in started.rows(data)] == revised
  assert 0 < len(revised) < len(steps) == summary["numbers"]["steps"] == 10
  path.write_bytes(whole[:-5])  # killed while it wrote
  assert revise.run(chosen, tmp_path / "tiny") == summary
  assert path.read_bytes() == whole


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"revisions": 0}, "stages.x.revisions=0: must be >= 1"),
    ({"policy": ""}, "stages.x.policy='': must be given"),
    ({"data": {}}, "stages.x.data.source='': must be given"),
    ({"keep": "first"}, "stages.x.keep='first': must be one of all, last"),
    ({"prompt": 3}, "stages.x.prompt is unknown; did you mean 'prompts'"),
    ({"temperature": float("nan")}, "temperature=nan: must be a number"),
    ({"also": "a.jsonl"}, "also='a.jsonl': must be a list of texts"),
    ({"skip_critique": 1}, "skip_critique=1: must be True or False"),
    ({"template": "chatty"}, "one of auto, plain, chat"),
    ({"examples": 3}, "examples=3: must be 0, 1 or 2"),
  ],
)
def test_wrong_settings(tmp_path, changes, match):
  with pytest.raises(XpoError, match=match) as e:
    revise.check(settings(tmp_path) | changes, "stages.x")
  assert e.value.code == Exit.USAGE


def test_a_bad_file_of_principles(tmp_path):
  own = tmp_path / "own.json"
  own.write_text("[]")
  with pytest.raises(XpoError, match="no principles") as e:
    revise.check(settings(tmp_path, principles=str(own)), "stages.x")
  assert e.value.code == Exit.DATA


def test_only_demonstrations_can_be_mixed_in(run, tmp_path):
  pairs = write(
    tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]
  )
  with pytest.raises(XpoError, match="revise.also: .* holds ORDER rows") as e:
    run(Model(), also=(str(pairs),))
  assert e.value.code == Exit.DATA


@pytest.mark.parametrize(
  "prompt, answer, lead, wanted",
  [
    ("p", "A", "", "B"),
    ("p", " A", "", " B"),
    ("p", "A", " ", " B"),
    ("p", " A", "\n", "\nB"),
    (TURNS, " A", " ", "B"),
  ],
)
def test_a_text_prompt_may_want_a_space_before_the_revision(
  prompt, answer, lead, wanted
):
  row = dict(prompt=prompt, answer=answer, revisions=["B"], problems=[""])
  found = revise.completions(row, "all", lead)
  assert found == [{"prompt": prompt, "completion": wanted}]


def test_equal_requests_are_told_apart():
  """The model's noise follows the request: its number has to be another."""
  asked = []
  table = types.SimpleNamespace(write=lambda *_, seed: asked.extend)
  own = types.SimpleNamespace(seed=1, max_new_tokens=2, temperature=1.0)
  revise.writer(table, own, 0)([("p?", 3), ("p?", 3)])
  assert asked == [("p?", 0), ("p?", 1)]
