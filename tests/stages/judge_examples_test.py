"""Examples of judging out of people's ratings."""

import json

import pytest

from tests.runs import write
from xpo_jax.data import film_join, films, load
from xpo_jax.data.records import Group
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import parsers, wording
from xpo_jax.judges.candidates import Reply
from xpo_jax.stages import judge_examples
from xpo_jax.types import Feedback

LISTS = {
  "prompt": "Film: Boat\nCritic:",
  "completions": [" a dull boat", " fine", " superb"],
  "ratings": [[-4, -3], [1, 2, 0], [4, 4]],
}


@pytest.mark.parametrize(
  "score, points",
  [(-4, 0), (-3.3, 0), (-3.1, 1), (0, 3), (0.79, 3), (0.8, 3), (2.4, 4),
   (4, 5), (9, 5), (-9, 0)],
)  # fmt: skip
def test_points_are_linear_and_rounded(score, points):
  """5 (score + 4) / 8: -3.3 -> 0.4375, -3.1 -> 0.5625, 0 -> 2.5, 2.4 -> 4."""
  assert judge_examples.points_of(score, -4, 4) == points


def test_points_at_halves():
  assert [judge_examples.points_of(s, 0, 10) for s in (1, 3, 5, 7, 9)] == [
    1, 2, 3, 4, 5,
  ]  # fmt: skip


def examples(scores, seed=0):
  texts = tuple(f"text {n}" for n in range(len(scores)))
  group = Group("g", "p?", texts, tuple(scores), Feedback.SCORE)
  return judge_examples.evaluation_examples([group], 0, 5, seed)


def test_the_reply_is_what_the_judges_parser_reads():
  found = examples([0, 1, 2, 3, 4, 5])
  for n, own in enumerate(found):
    reply = Reply(own.completions[0])
    assert parsers.additive_score(reply).value == n
    assert reply.text.count("\n") == 1 and len(reply.text.split()) < 100
    assert own.prompt == wording.ask(
      "additive", prompt="p?", answer=f"text {n}"
    )
    assert own.kind is Feedback.DEMONSTRATION and own.cluster == "g"


def test_every_number_of_points_has_sentences_of_its_own():
  said = {}
  for seed in range(20):
    for n, own in enumerate(examples([0, 1, 2, 3, 4, 5], seed)):
      said.setdefault(n, set()).add(own.completions[0])
  assert [len(said[n]) for n in range(6)] == [2] * 6
  sentences = [text.partition("\n")[0] for own in said.values() for text in own]
  assert len(set(sentences)) == 12
  assert examples([3] * 9, 1) == examples([3] * 9, 1)


def test_at_most_so_many_of_a_kind():
  found = examples([5, 5, 1, 5, 1, 0])
  assert judge_examples.at_most(found, 0) == found
  assert judge_examples.at_most(found, 1) == [found[0], found[2], found[5]]
  assert judge_examples.at_most(found, 2) == [*found[:3], *found[4:]]


def settings(tmp_path, rows, **changes):
  rated = {"source": str(write(tmp_path / "rated.jsonl", rows))}
  return {"rated": rated, "low": -4.0, "high": 4.0, **changes}


def test_the_stage_leaves_demonstrations(tmp_path):
  chosen = settings(tmp_path, [LISTS])
  judge_examples.check(chosen, "stages.eft")
  found = judge_examples.run(chosen, tmp_path / "eft")
  # Means -3.5, 1, 4 -> 0.3125, 3.125, 5.
  assert found["numbers"] == {"0": 1, "1": 0, "2": 0, "3": 1, "4": 0, "5": 1}
  assert found["tables"][0]["rows"][3] == ["3", "1"]
  path = tmp_path / "eft" / "data.jsonl"
  groups, _ = load.load_groups(str(path))
  assert [g.kind for g in groups] == [Feedback.DEMONSTRATION] * 3
  assert groups[2].completions[0].endswith("\nScore: 5")
  assert '"superb"' in groups[2].prompt[0].content
  before = path.read_bytes()
  judge_examples.run(chosen, tmp_path / "eft")
  assert path.read_bytes() == before


def test_single_scores_will_do(tmp_path):
  rows = [{"prompt": "p?", "completion": "a", "score": s} for s in (0, 1, 1)]
  chosen = settings(tmp_path, rows, low=0.0, high=1.0, each=1)
  found = judge_examples.run(chosen, tmp_path / "eft")
  assert found["numbers"] == {"0": 1, "1": 0, "2": 0, "3": 0, "4": 0, "5": 1}
  lines = (tmp_path / "eft" / "data.jsonl").read_text().splitlines()
  assert [json.loads(x)["completion"][-8:] for x in lines] == [
    "Score: 0",
    "Score: 5",
  ]


def test_films_are_rated(tmp_path, monkeypatch):
  rated = {"dull": (-4, -2), "fine": (1, 1), "superb": (4, 2)}
  snippets = tuple(film_join.Snippet("boat", t, r) for t, r in rated.items())
  monkeypatch.setattr(films, "snippets", lambda split: snippets)
  chosen = {"rated": {"source": "films"}, "low": -3, "high": 3}
  found = judge_examples.run(chosen, tmp_path / "eft")
  # Means -3, 1, 3 -> 0, 3.33, 5.
  assert found["numbers"] == {"0": 1, "1": 0, "2": 0, "3": 1, "4": 0, "5": 1}
  groups, _ = load.load_groups(str(tmp_path / "eft" / "data.jsonl"))
  said = {g.prompt[0].content.partition('Answer: "')[2][:4]: g for g in groups}
  assert {k: g.completions[0][-1] for k, g in said.items()} == {
    "dull": "0", "fine": "3", "supe": "5",
  }  # fmt: skip
  assert 'Request: "Film: Boat\\nCritic:"' in groups[0].prompt[0].content


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"low": 4.0}, r"stages.eft.low=4, high=4: .* low < high"),
    ({"each": -1}, "stages.eft.each=-1: must be >= 0"),
    ({"rated": {}}, "stages.eft.rated.source='': must be given"),
    ({"rated": {"sauce": "x"}}, "eft.rated.sauce is unknown; did you mean"),
    ({"high": "4"}, "stages.eft.high='4': must be a number"),
    ({"seed": True}, "stages.eft.seed=True: must be an integer"),
    ({"rated": "films"}, "stages.eft.rated='films': must be a section"),
  ],
)
def test_wrong_settings(tmp_path, changes, match):
  with pytest.raises(XpoError, match=match) as e:
    judge_examples.check(settings(tmp_path, [LISTS], **changes), "stages.eft")
  assert e.value.code == Exit.USAGE


def test_rows_without_ratings(tmp_path):
  rows = [{"prompt": "p?", "chosen": "a", "rejected": "b"}]
  with pytest.raises(XpoError, match="rated.jsonl:1: ORDER feedback") as e:
    judge_examples.run(settings(tmp_path, rows), tmp_path / "eft")
  assert e.value.code == Exit.DATA
