"""What a rollout takes from the disk, and what it asks for again."""

from collections import Counter
import types

import numpy as np
import pytest

from tests.online import samples
from xpo_jax import config, judge_config
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges.candidates import Judgement
from xpo_jax.judges.tally import Tally
from xpo_jax.online import draw, evaluate, journal, rollout, verdicts

PROMPTS = samples.prompts(2)
TEXTS = ["p0", "p1"]


def tools(size=2, **more):
  c = config.base("tiny").unlock()
  c.rollout.completions, c.batch.prompts = 2, size
  job = types.SimpleNamespace(config=c, **more)
  nothing = dict.fromkeys(rollout.Tools._fields)
  return rollout.Tools(**nothing | {"job": job, "alive": lambda: None})


def built(judge):
  return judge_config.Built(judge, None, "counting", 0.1)


def test_new_samples_are_judged_anew(tmp_path, monkeypatch):
  """On other devices a run draws other samples than those it has on disk.

  The verdicts beside them are then of no use; those on samples that only got
  lost are still right, and are not asked for again.
  """
  seeds, asked = [1, 1, 2], []
  monkeypatch.setattr(
    draw, "policy", lambda *_: samples.drawn(2, 2, seed=seeds.pop(0))
  )

  def count(candidates):
    asked.append(candidates.texts)
    scores = np.array([[len(t) for t in row] for row in candidates.texts])
    return Judgement(scores.astype(float), scores.size, Counter(), {})

  def again(label):
    path = tmp_path / "000000.0.samples"
    drawn, _ = rollout.sample(tools(), None, PROMPTS, 0, path, label)
    texts = [
      [" ".join(map(str, drawn.ids(b, k))) for k in range(2)] for b in range(2)
    ]
    found = verdicts.score(
      built(count),
      TEXTS,
      texts,
      drawn.ended,
      Tally(),
      path.with_suffix(".judge"),
    )
    wanted = [[len(t) for t in row] for row in texts]
    np.testing.assert_array_equal(found.scores, wanted)
    return path

  again({"policy": "a"}).unlink()
  again({"policy": "a"})
  assert len(asked) == 1
  again({"policy": "a"})
  again({"policy": "b"})
  assert len(asked) == 2 and asked[0] != asked[1] and not seeds


def test_verdicts_on_what_is_unreadable_stay(tmp_path):
  path = tmp_path / "e000002.0.samples"
  others = [path.with_suffix(f".{what}") for what in ("judge", "gold")]
  for other in others:
    other.write_text("{}\n")
  journal.forget(path, {"policy": "a"})  # there are no samples
  path.write_bytes(b"torn")
  journal.forget(path, {"policy": "a"})
  journal.write(path, {"x": np.zeros(1)}, {"policy": "a"})
  journal.forget(path, {"policy": "a"})
  assert all(other.exists() for other in others)
  journal.forget(path, {"policy": "b"})
  assert not any(other.exists() for other in others) and path.exists()


def test_the_numbers_of_all_draws():
  """With rollout.max_batches: of all prompts drawn, not of the last ones."""
  parts = []
  for n, flagged in enumerate((1.0, 0.0, np.nan)):
    scores = np.full((2, 2), float(n))
    found = verdicts.Verdict(scores, [], {"judge/flagged": flagged}, Tally())
    drawn = samples.drawn(2, 2, seed=n)
    parts.append((rollout.Part([None] * 2, scores, scores, drawn, found), []))
  numbers = rollout._metrics(parts, ["a group", None])
  assert numbers["judge/flagged"] == 0.5
  assert numbers["rewards/judge"] == 1.0
  assert numbers["prompts/used"] == 1 / 6
  tokens = [p.drawn.mask.sum() for p, _ in parts]
  assert numbers["completions/tokens"] == pytest.approx(sum(tokens) / 12)


def held_out(monkeypatch, tmp_path, gold, scores):
  """Evaluates 12 prompts in draws of 4; `scores` are the judge's [12, 1]."""
  prompts = samples.prompts(12)
  held = types.SimpleNamespace(groups=prompts, texts=[p.id for p in prompts])
  own = tools(4, online=types.SimpleNamespace(held=held))._replace(gold=gold)
  parts = iter(np.split(np.array(scores, float), 3))
  monkeypatch.setattr(
    rollout, "sample", lambda *_: (samples.drawn(4, 1, new=1), None)
  )
  monkeypatch.setattr(rollout, "label_of", lambda *_: {})

  def judge(tools, prompts, texts, mine, theirs, tally, path):
    said = [[f"{path.name} {n}"] for n in range(len(texts))]
    found = verdicts.Verdict(next(parts), said, {}, tally)
    return types.SimpleNamespace(scores=found.scores, verdict=found)

  monkeypatch.setattr(rollout, "judge", judge)
  monkeypatch.setattr(
    evaluate,
    "_numbers",
    lambda tools, state, prompts, drawn, part, count: {
      "reward": evaluate._mean(part.scores)
    },
  )
  return evaluate.run(own, None, tmp_path, 2)


def test_a_gold_judge_that_never_parses_stops_the_run(monkeypatch, tmp_path):
  """4 of 4 are few; 12 of 12 are more than ten in a hundred."""
  mute = lambda c: Judgement(
    np.full(c.shape, np.nan),
    c.present.size,
    Counter(grammar=c.present.size),
    {},
  )
  with pytest.raises(XpoError, match="grammar 12") as error:
    held_out(monkeypatch, tmp_path, built(mute), [[1.0]] * 12)
  assert error.value.code == Exit.NUMERIC


def test_a_draw_without_scores_says_nothing(monkeypatch, tmp_path):
  scores = [[1.0], [2.0], [3.0], [2.0], *[[np.nan]] * 4, *[[5.0]] * 4]
  found = held_out(monkeypatch, tmp_path, None, scores)
  assert found == {"reward": (2.0 + 5.0) / 2}
