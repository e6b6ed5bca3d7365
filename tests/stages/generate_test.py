"""The stage end to end on the tiny model: rows, numbers, kills, refusals."""

from collections import Counter
import json

import numpy as np
import pytest

from tests import runs
from xpo_jax import judge_config
from xpo_jax.data import load
from xpo_jax.data.records import Group, Message
from xpo_jax.errors import XpoError
from xpo_jax.judges.candidates import Judgement
from xpo_jax.stages import drawing, generate, verdicts
from xpo_jax.types import Feedback

COUNT = 18  # prompts: two slices of a journal
asked: list[str] = []  # prompts that the judge saw


def letters(prompts, texts):
  """The share of letters: another number for nearly every random text."""
  if "stop" in asked and "Row 17" in prompts[-1]:
    raise RuntimeError("killed")
  asked.extend(prompts)
  return [sum(c.isalpha() for c in t) / (1 + len(t)) for t in texts]


def score(text: str) -> float:
  return letters([""], [text])[0]


JUDGE = {"name": "function", "source": f"{__name__}:letters"}


@pytest.fixture(autouse=True)
def nothing_asked():
  asked.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  return runs.write(folder / "rows.jsonl", map(runs.pair, range(COUNT)))


@pytest.fixture
def settings(data):
  def make(**changes):
    plain = dict(
      policies=("tiny",),
      data={"source": str(data)},
      completions=3,
      max_new_tokens=8,
      prompts_at_once=8,
      accept=3,
      judge=JUDGE,
    )
    return generate.section(**plain | changes)

  return make


def lines(path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def left(folder) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """(folder, what `run` returned) of a run that nobody disturbs."""
  folder = tmp_path_factory.mktemp("whole")
  chosen = generate.section(
    policies=("tiny",),
    data={"source": str(data)},
    completions=3,
    max_new_tokens=8,
    prompts_at_once=8,
    accept=3,
    judge=JUDGE,
  )
  return folder, generate.run(chosen, folder)


# A whole run.


def test_rows_are_the_best_and_the_worst_of_the_samples(whole):
  folder, _ = whole
  assert sorted(left(folder)) == [
    "data.jsonl",
    "generate.json",
    "samples.jsonl",
  ]
  samples = lines(folder / "samples.jsonl")
  assert len(samples) == COUNT
  wanted = []
  for n, row in enumerate(samples):
    assert row["prompt"] == runs.pair(n)["prompt"]
    assert row["policy"] == [0, 0, 0] and len(row["ended"]) == 3
    assert row["scores"] == [score(t) for t in row["texts"]]
    high, low = np.argmax(row["scores"]), np.argmin(row["scores"])
    if row["scores"][high] > row["scores"][low]:
      chosen, rejected = row["texts"][high], row["texts"][low]
      wanted.append(
        {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
      )
      ended = [row["ended"][high], row["ended"][low]]
      if not all(ended):  # else there is no such column
        wanted[-1]["ended"] = ended
  assert lines(folder / "data.jsonl") == wanted
  groups, account = load.load_groups(str(folder / "data.jsonl"))
  found = [tuple(row.get("ended", ())) for row in wanted]
  assert [g.ended for g in groups] == found
  assert {True, False} <= set(sum(found, ()))
  assert len(groups) == account.read == len(wanted)
  assert {g.kind for g in groups} == {Feedback.ORDER}


def test_the_numbers_are_those_of_the_samples(whole):
  folder, result = whole
  samples, numbers = lines(folder / "samples.jsonl"), result["numbers"]
  scores = np.array([row["scores"] for row in samples])
  texts = [[t.strip() for t in row["texts"]] for row in samples]
  wanted = {
    "prompts": COUNT,
    "kept": len(lines(folder / "data.jsonl")),
    "rows": len(lines(folder / "data.jsonl")),
    "rows_before": 0,
    "score": scores.mean(),
    "best": scores.max(1).mean(),
    "worst": scores.min(1).mean(),
    "gap": np.ptp(scores, axis=1)[np.ptp(scores, axis=1) > 0].mean(),
    "unique": np.mean([len(set(own)) / 3 for own in texts]),
    "ended": np.mean([row["ended"] for row in samples]),
    "characters": np.mean([len(t) for r in samples for t in r["texts"]]),
    "judge": "function",
    "asked": 3 * COUNT,
    "invalid": 0.0,
  }
  for name, value in wanted.items():
    if isinstance(value, str):
      assert numbers[name] == value
    else:
      np.testing.assert_allclose(numbers[name], value, rtol=1e-6, err_msg=name)
  (table,) = result["tables"]
  assert ["prompts sampled from", str(COUNT)] in table["rows"]
  assert all(len(row) == len(table["columns"]) for row in table["rows"])
  first = result["samples"][0]
  assert (
    score(first["texts"]["highest score"])
    == (first["scores"]["highest score"]["function"])
  )
  assert result == json.loads((folder / "generate.json").read_text())


def test_a_finished_stage_is_left_alone(whole, settings, monkeypatch):
  folder, result = whole
  before = left(folder)
  monkeypatch.setattr(drawing, "draw", None)
  assert generate.run(settings(), folder) == result
  assert left(folder) == before


# Kills.


def test_a_killed_run_ends_with_the_same_bytes(
  whole, settings, tmp_path, monkeypatch
):
  real, drawn = drawing.draw_slice, []

  def once(sampler, part):
    if len(drawn) == 1 and "again" not in drawn:
      raise KeyboardInterrupt
    drawn.append(part[0].number)
    return real(sampler, part)

  monkeypatch.setattr(drawing, "draw_slice", once)
  with pytest.raises(KeyboardInterrupt):
    generate.run(settings(), tmp_path)
  part = tmp_path / drawing.FILE
  assert len(lines(part)) == 8
  torn = json.dumps({"prompt": runs.pair(8)["prompt"], "texts": []})
  part.write_text(part.read_text() + f"{torn}\n{torn[:-9]}")
  drawn.append("again")
  asked.append("stop")
  with pytest.raises(XpoError, match="raised RuntimeError"):
    generate.run(settings(), tmp_path)
  assert drawn == [0, "again", 8, 16]
  assert len(lines(tmp_path / verdicts.FILES[0])) == 1  # 16 prompts
  asked.clear()
  generate.run(settings(), tmp_path)
  assert drawn == [0, "again", 8, 16]
  assert set(asked) == {runs.pair(n)["prompt"] for n in (16, 17)}
  assert left(tmp_path) == left(whole[0])


def test_samples_of_other_prompts_are_refused(settings, tmp_path):
  row = {"prompt": "Another?", "texts": ["a"] * 3, "ended": [True] * 3}
  runs.write(tmp_path / drawing.FILE, [row] * 8)
  with pytest.raises(XpoError, match=r"part.jsonl:1: not a row of this stage"):
    generate.run(settings(), tmp_path)


def test_samples_follow_the_number_of_the_prompt(whole, settings, tmp_path):
  """Other slices, other prompts around them: the same texts."""
  every = lines(whole[0] / "samples.jsonl")
  generate.run(settings(first=5, prompts=9), tmp_path)
  assert lines(tmp_path / "samples.jsonl") == every[5:14]


def test_another_seed_and_a_shuffle(whole, settings, tmp_path):
  every = {r["prompt"]: r["texts"] for r in lines(whole[0] / "samples.jsonl")}
  generate.run(settings(seed=1, prompts=8), tmp_path / "seed")
  for row in lines(tmp_path / "seed" / "samples.jsonl"):
    assert row["texts"] != every[row["prompt"]]
  source = settings(shuffle_seed=3, prompts=7)
  order = [a.prompt for a in drawing.read_prompts(source, False)]
  later = settings(shuffle_seed=3, first=7)
  order += [a.prompt for a in drawing.read_prompts(later, False)]
  assert sorted(order) == sorted(every) and order != list(every)


def test_fewer_prompts_than_wanted_are_told(settings, data, capsys):
  assert len(drawing.read_prompts(settings(prompts=9, first=9), False)) == 9
  assert len(drawing.read_prompts(settings(first=9), False)) == 9
  assert not capsys.readouterr().out
  assert len(drawing.read_prompts(settings(prompts=9, first=16), False)) == 2
  assert capsys.readouterr().out == (
    f"warning: {data} has 18 prompts: of the prompts=9 after first=16, 2 are "
    "left\n"
  )
  with pytest.raises(XpoError, match="none is left after the first=18"):
    drawing.read_prompts(settings(prompts=9, first=18), False)


# Other selections.


def test_rejection_with_a_pair_judge_asks_the_accepted_only(
  settings, tmp_path, monkeypatch
):
  """Judged by P = sigma(5 (letters_i - letters_j)), a and its complement."""
  sizes = []

  def pairs(candidates):
    sizes.append(candidates.shape[1])
    r = np.array([[score(t) for t in own] for own in candidates.texts])
    both = candidates.present[:, :, None] & candidates.present[:, None]
    p = 1 / (1 + np.exp(-5 * (r[:, :, None] - r[:, None, :])))
    return Judgement(np.where(both, p, np.nan), int(both.sum()), Counter())

  built = judge_config.Built(None, pairs, "table", 0.1)
  monkeypatch.setattr(judge_config, "build", lambda *_: built)
  chosen = settings(
    select="rejection_tournament", accept=2, select_beta=0.0, prompts=8
  )
  result = generate.run(chosen, tmp_path)
  assert set(sizes) == {2}  # with the first sample, then among the accepted
  samples = {r["prompt"]: r for r in lines(tmp_path / "samples.jsonl")}
  rows = lines(tmp_path / "data.jsonl")
  assert rows and result["numbers"]["passes"] >= 1
  for row in rows:
    texts = dict.fromkeys(samples[row["prompt"]]["texts"])
    best = sorted(texts, key=score, reverse=True)[:2]  # ties in order
    assert {row["chosen"], row["rejected"]} == set(best)
    assert score(row["chosen"]) >= score(row["rejected"])


def test_win_rates_over_two_policies(settings, tmp_path):
  """P = sigma(r_i - r_j); equal policies draw with noise of their own."""
  chosen = settings(
    select="win_rates", policies=("tiny", "tiny"), completions=6, prompts=8
  )
  numbers = generate.run(chosen, tmp_path)["numbers"]
  samples = lines(tmp_path / "samples.jsonl")
  scores = np.array([row["scores"] for row in samples], float)
  blank = [[not t.strip() for t in row["texts"]] for row in samples]
  np.testing.assert_array_equal(np.isnan(scores), blank)
  assert all(row["policy"] == [0, 0, 0, 1, 1, 1] for row in samples)
  assert all(len(set(row["texts"])) == 6 for row in samples)
  wanted = [np.nanmean(scores[:, :3]), np.nanmean(scores[:, 3:])]
  np.testing.assert_allclose(numbers["score_by_policy"], wanted)
  wins = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))
  made = {row["prompt"]: row for row in lines(tmp_path / "data.jsonl")}
  assert len(made) == numbers["kept"] == 8
  for n, own in enumerate(samples):
    row = made[own["prompt"]]
    kept = [own["texts"].index(t) for t in row["completions"]]
    assert len(kept) == 6 - sum(blank[n])
    wanted = wins[n][kept][:, kept].mean(1)
    np.testing.assert_allclose(row["win_rates"], wanted)


def test_the_data_s_own_best_is_a_candidate(settings, tmp_path):
  chosen = settings(select="large_margin", min_margin=0.2, gold=True, prompts=8)
  numbers = generate.run(chosen, tmp_path)["numbers"]
  samples = lines(tmp_path / "samples.jsonl")
  golds = {runs.pair(n)["prompt"]: runs.pair(n)["chosen"] for n in range(8)}
  for row in samples:
    assert row["policy"] == [0, 0, 0, -1]
    assert row["texts"][3] == golds[row["prompt"]]
  scores = np.array([row["scores"] for row in samples])
  own, gold = scores[:, :3], scores[:, 3:]
  np.testing.assert_allclose(numbers["score_gold"], gold.mean())
  np.testing.assert_allclose(numbers["score"], own.mean())
  np.testing.assert_allclose(numbers["wins_over_gold"], (own > gold).mean())
  wins = [r for r in lines(tmp_path / "data.jsonl")
          if r["chosen"] in golds.values()]  # fmt: skip
  assert len(wins) == (gold - own >= 0.2).sum() > 0


def test_self_samples_need_no_judge(settings, tmp_path):
  chosen = settings(select="self_samples", judge={}, prompts=8)
  result = generate.run(chosen, tmp_path)
  for n, row in enumerate(lines(tmp_path / "data.jsonl")):
    assert row["rejected"] == runs.pair(n)["rejected"]
    assert 1 <= len(row["samples"]) <= 3
  assert "judge" not in result["numbers"]


def test_earlier_rows_come_first(whole, settings, tmp_path):
  folder, _ = whole
  also = (str(folder / "data.jsonl"), settings().data.source)
  generate.run(settings(also=also, prompts=8), tmp_path)
  rows = lines(tmp_path / "data.jsonl")
  earlier = lines(folder / "data.jsonl")
  assert rows[: len(earlier)] == earlier
  assert rows[len(earlier) : len(earlier) + COUNT] == [
    runs.pair(n) for n in range(COUNT)
  ]
  assert len(rows) > len(earlier) + COUNT
  with pytest.raises(XpoError, match="also: .* holds ORDER rows with 2 compl"):
    generate.run(settings(also=also, select="best_of_n"), tmp_path / "other")


def test_prompts_that_are_too_long_are_counted(settings, tmp_path):
  long = runs.pair(99) | {"prompt": "word " * 2000}
  rows = [runs.pair(0), long, *map(runs.pair, range(1, 8))]
  source = runs.write(tmp_path / "rows.jsonl", rows)
  chosen = settings(data={"source": str(source)})
  numbers = generate.run(chosen, tmp_path / "out")["numbers"]
  assert numbers["dropped"]["prompt_too_long"] == 1
  assert numbers["prompts"] == 9 and numbers["kept"] <= 8
  samples = lines(tmp_path / "out" / "samples.jsonl")
  assert [s["prompt"] for s in samples] == [
    runs.pair(n)["prompt"] for n in range(8)
  ]
  only = runs.write(tmp_path / "long.jsonl", [long])
  with pytest.raises(XpoError, match="none of 1 prompts leaves room"):
    generate.run(settings(data={"source": str(only)}), tmp_path / "none")


def test_no_row_at_all_says_why(settings, tmp_path):
  chosen = settings(
    select="large_margin", judge={"name": "sentiment"}, prompts=8
  )
  with pytest.raises(XpoError) as caught:
    generate.run(chosen, tmp_path)
  assert "none of 8 prompts left a row (small_margin 8)" in str(caught.value)
  with pytest.raises(XpoError, match="18 prompts, none is left after the fir"):
    generate.run(settings(first=COUNT), tmp_path / "first")


# Who draws what.


def test_completions_are_shared_by_policies_and_instructions(settings):
  chosen = settings(policies=("a", "b"), completions=5, instructions=("x", "y"))
  assert drawing.policy_of(5, 2) == [0, 0, 0, 1, 1]
  assert drawing.make_calls(chosen) == (
    (0, "x", (0, 2)),
    (0, "y", (1,)),
    (1, "y", (3,)),
    (1, "x", (4,)),
  )


def test_every_call_has_its_temperature_and_numbers(settings):
  """A stand-in writes what it was asked."""

  class Policy:
    def __init__(self, name):
      self.name = name

    @property
    def model(self):
      class Config:
        max_length = 40

      return type("M", (), {"config": Config})

    def sample(self, ids, *, temperature, rows, completions, **_):
      texts = [
        [
          f" {self.name} {text} {temperature:g} {row} {j}"
          for j in range(completions)
        ]
        for text, row in zip(map(written, ids), rows, strict=True)
      ]
      ended = np.arange(len(ids) * completions).reshape(len(ids), -1) == 0
      return type("S", (), {"ended": ended}), texts

  written = lambda ids: bytes(ids.tolist()).decode()

  class Form:
    end_id = 0

    @staticmethod
    def prompt(prompt):
      text = prompt if isinstance(prompt, str) else prompt[-1].content
      return list(text.encode())

  chosen = settings(
    policies=("a", "b"),
    temperatures=(1.0, 0.5),
    completions=3,
    instructions=("", "Be kind."),
    prompts_at_once=4,
  )
  sampler = drawing.Sampler(
    chosen,
    drawing.make_calls(chosen),
    (Policy("a"), Policy("b")),
    (Form(), Form()),
    (True, False),
  )
  chat = (Message("user", "hi"),)
  part = [
    drawing.Asked(7, "go"),
    drawing.Asked(8, "too long for them all, by far"),
    drawing.Asked(9, chat),
  ]
  rows = drawing.draw_slice(sampler, part)
  assert rows[1]["texts"] == []
  assert rows[0]["texts"] == [
    " a go 1 21 0",
    " a Be kind.\n\ngo 1 22 0",
    " b go 0.5 23 0",
  ]
  assert rows[0]["ended"] == [True] * 3
  assert rows[2] == {
    "prompt": [{"role": "user", "content": "hi"}],
    "texts": ["a hi 1 27 0", "a Be kind.\n\nhi 1 28 0", " b hi 0.5 29 0"],
    "ended": [False] * 3,
  }


def test_an_instruction_stands_in_the_first_user_turn():
  chat = (
    Message("system", "s"),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
  )
  found = drawing.instructed(chat, "Be kind.")
  assert found[1] == Message("user", "Be kind.\n\none")
  assert (found[:1], found[2:]) == (chat[:1], chat[2:])
  assert drawing.instructed("Q:", "") == "Q:"


EXTREMES = [
  (Feedback.ORDER, (1.0, 0.0), ("a", "b")),
  (Feedback.PROBABILITY, (0.2, 0.8), ("b", "a")),
  (Feedback.PROBABILITY, (0.5, 0.5), (None, None)),
  (Feedback.SCORE, (1.0, 3.0, 0.0), ("b", "c")),
  (Feedback.SCORE, (1.0,), (None, None)),
  (Feedback.BINARY, (1.0,), ("a", None)),
  (Feedback.BINARY, (-1.0,), (None, "a")),
  (Feedback.BINARY, (1.0, 1.0, -1.0), (None, "c")),
  (Feedback.DEMONSTRATION, (1.0,), ("a", None)),
]


@pytest.mark.parametrize("kind, feedback, wanted", EXTREMES)
def test_the_data_s_own_best_and_worst(kind, feedback, wanted):
  texts = tuple("abc"[: len(feedback)])
  group = Group("f:1", "Q:", texts, feedback, kind)
  assert drawing.own_extremes(group) == wanted


def test_of_rows_with_scores_the_best_of_all_counts(tmp_path):
  row = lambda texts, scores: {
    "prompt": "Q:",
    "completions": list(texts),
    "scores": scores,
  }
  both = [row("ab", [1, 0]), row("cde", [2, 5, -1]), row("fg", [5, -1])]
  data = generate.section(
    data={"source": str(runs.write(tmp_path / "r.jsonl", both))}
  ).data
  assert drawing._own_texts(data) == ({"Q:": "d"}, {"Q:": "e"})
  # Pairs do not say how far apart they are from others: the first one's.
  pairs = [
    {"prompt": "Q:", "chosen": a, "rejected": b} for a, b in ("ab", "cd")
  ]
  runs.write(tmp_path / "r.jsonl", pairs)
  assert drawing._own_texts(data) == ({"Q:": "a"}, {"Q:": "b"})


# Refusals, before anything starts.

BAD = [
  (dict(select="best"), "s.select='best': must be one of best_worst, "),
  (dict(policies=()), r"s.policies=\(\): must be given"),
  (dict(data={"source": ""}), "s.data.source='': must be given"),
  (dict(completions=1), "completions=1: best_worst takes at least 2"),
  (
    dict(select="large_margin", completions=0, gold=True),
    "s: completions=0: must be an int >= 1",
  ),
  (
    dict(select="soft_pairs", completions=3),
    "completions=3: soft_pairs takes exactly 2",
  ),
  (
    dict(select="rejection_tournament", accept=4),
    "completions=3: accept=4 of them cannot be accepted",
  ),
  (
    dict(policies=("a",) * 4),
    "completions=3: there are 4 policies to share them",
  ),
  (
    dict(policies=("a",) * 3, temperatures=(1.0, 0.7)),
    r"temperatures=\(1.0, 0.7\): give one, or one for each of the 3 policies",
  ),
  (dict(temperatures=(-1.0,)), "s: temperature=-1.0: must be >= 0"),
  (dict(top_p=0.0), r"s: top_p=0.0: must be in \(0, 1\]"),
  (dict(judge={}), "s.judge.name='': select='best_worst': name a judge"),
  (dict(judge={"name": "sentimental"}), "judge.name='sentimental': did you"),
  (
    dict(select="self_samples"),
    "s.judge.name='function': .* leave it empty",
  ),
  (dict(gold=True), "s.gold: best_worst takes no gold; choose large_margin"),
  (dict(min_margin=0.0), "s.min_margin=0.0: must be > 0"),
  (
    dict(select="self_samples", judge={}, length_penalty=0.1),
    "s.length_penalty=0.1: self_samples has no scores",
  ),
]  # fmt: skip


@pytest.mark.parametrize("changes, words", BAD, ids=range(len(BAD)))
def test_wrong_settings_are_refused(settings, changes, words):
  with pytest.raises(XpoError, match=words):
    generate.check(settings(**changes), "s")


def test_unknown_keys_and_types(settings):
  generate.check(settings(), "s")
  with pytest.raises(
    XpoError, match="completion is unknown; did you mean 'com"
  ):
    generate.section(completion=3)
  with pytest.raises(XpoError, match="temperatures=.*must be a list of numb"):
    generate.section(temperatures=("hot",))
  with pytest.raises(XpoError, match="s.data.sources is unknown"):
    generate.check({"data": {"sources": "a"}}, "s")
