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


def made(monkeypatch, tmp_path, number, scores):
  """(groups, draws) of a rollout of 2 prompts in up to 3 draws.

  A draw's prompts are its own two; `scores` are the judge's by draw.
  """
  own = tools()
  own.job.config.rollout.max_batches = 3
  own.job.train = types.SimpleNamespace(groups=[f"p{n}" for n in range(12)])
  own.job.plan = types.SimpleNamespace(order=np.arange(12).reshape(6, 2))
  texts = types.SimpleNamespace(texts=[f"text {n}" for n in range(12)])
  own.job.online = types.SimpleNamespace(train=texts)
  draws, written = [], []

  def sample(tools, state, prompts, at, path, label):
    draws.append((at, path.name, label["draw"]))
    return samples.drawn(2, 2, seed=at), None

  def judge(tools, prompts, texts, drawn, other, tally, path):
    assert [t.replace("text ", "p") for t in texts] == prompts
    found = np.array(scores[draws[-1][0]], float)
    verdict = verdicts.Verdict(found, [["", ""]] * 2, {}, tally)
    return rollout.Part(list(prompts), found, found, drawn, verdict)

  score = lambda tools, state, chosen, metrics: rollout.Rollout(
    chosen, metrics, None, None
  )
  monkeypatch.setattr(rollout, "sample", sample)
  monkeypatch.setattr(rollout, "judge", judge)
  monkeypatch.setattr(rollout, "_score", score)
  monkeypatch.setattr(
    rollout, "label_of", lambda tools, state, order, at: {"draw": at}
  )
  monkeypatch.setattr(
    rollout, "_write_texts", lambda run, number, parts: written.extend(parts)
  )
  own = own._replace(told=lambda: None)
  found, _ = rollout.make(own, None, number, Tally(), tmp_path)
  assert len(written) == len(draws)
  return found, draws


EQUAL, APART, ALONE = [1, 1], [0, 1], [np.nan, 3]


def test_undecided_prompts_are_replaced(monkeypatch, tmp_path):
  """DAPO: from draw to draw until there are 2 prompts whose scores differ."""
  scores = {3: [EQUAL, APART], 4: [ALONE, EQUAL], 5: [APART, APART]}
  found, draws = made(monkeypatch, tmp_path, 1, scores)
  assert found.groups == ["p7", "p10"]
  names = [f"000001.{n}.samples" for n in range(3)]
  assert draws == list(zip((3, 4, 5), names, (3, 4, 5), strict=True))
  assert found.metrics["prompts/used"] == 2 / 6
  assert found.metrics["judge/equal"] == 2 / 6


def test_nothing_is_drawn_once_there_is_enough(monkeypatch, tmp_path):
  found, draws = made(monkeypatch, tmp_path, 0, {0: [APART, APART]})
  assert found.groups == ["p0", "p1"] and len(draws) == 1


def test_places_stay_empty_when_the_draws_end(monkeypatch, tmp_path):
  """Never a prompt that teaches nothing in their stead."""
  scores = {0: [EQUAL, EQUAL], 1: [EQUAL, APART], 2: [ALONE, EQUAL]}
  found, draws = made(monkeypatch, tmp_path, 0, scores)
  assert found.groups == ["p3", None] and len(draws) == 3


def judged(drawn, other, scores, select="keep_all", **keys):
  """The part of a rollout whose judge answers `scores`."""
  own = tools(
    tokenizer=types.SimpleNamespace(decode=lambda ids: "x" * sum(ids))
  )
  c = own.job.config
  c.data.max_completion_length, c.rollout.select = 5, select
  c.rollout.update(keys)
  answer = np.array(scores, float)
  judge = lambda _: Judgement(answer, answer.size, Counter(), {})
  own = own._replace(judge=built(judge))
  return rollout.judge(own, PROMPTS, TEXTS, drawn, other, Tally(), None)


def test_scores_are_shaped_before_the_loss_sees_them():
  """Each option by itself, then all; the raw scores stay for the log."""
  tokens = np.zeros((2, 2, 5), np.int32)
  mask = np.arange(5) < np.array([[2, 5], [4, 1]])[..., None]
  tokens[mask] = 2
  ended = np.array([[True, False], [False, True]])
  drawn = draw.Drawn(tokens, mask, 0.0 * tokens, ended)
  raw = np.array([[3.0, 0.5], [-2.0, -0.25]])
  cut, clipped = [[0, 1], [1, 0]], [[1, 0.5], [-1, -0.25]]
  # Two letters a token, but for the end; 4 of 5 tokens are half of the buffer.
  letters, late = [[2, 10], [8, 0]], [[0, 1], [0.5, 0]]
  wanted = {
    "clip_scores": (1.0, np.array(clipped)),
    "missing_eos_penalty": (0.75, raw - 0.75 * np.array(cut)),
    "length_penalty": (0.125, raw - 0.125 * np.array(letters)),
    "overlong_buffer": (2, raw - np.array(late)),
  }
  for name, (value, feedback) in wanted.items():
    part = judged(drawn, None, raw, **{name: value})
    np.testing.assert_allclose(part.feedback, feedback, err_msg=name)
    np.testing.assert_array_equal(part.scores, raw)
    found = [group.feedback for group in part.groups]
    np.testing.assert_allclose(found, feedback, err_msg=name)
  part = judged(drawn, None, raw, **{k: v for k, (v, _) in wanted.items()})
  every = clipped - 0.75 * np.array(cut) - 0.125 * np.array(letters) - late
  np.testing.assert_allclose(part.feedback, every)


def test_the_same_text_twice_is_no_pair():
  """XPO masks both terms; a text that is pushed down alone gets unlikely."""
  mine, theirs = samples.drawn(2, 1), samples.drawn(2, 1, seed=2)
  for name in draw.Drawn._fields:
    getattr(theirs, name)[0] = getattr(mine, name)[0]
  wins = [[0.0, 0.0], [1.0, 0.0]]  # the two of a prompt, as scores
  part = judged(mine, theirs, wins, "against_pair")
  assert part.groups[0] is None and part.groups[1] is not None


def test_win_rates_among_samples_are_no_reward():
  """Their mean is 1/2; their spread says how sure the judge is."""
  scores = np.array([[0.75, 0.25], [0.5, 0.5]])
  found = verdicts.Verdict(scores, [], {}, Tally(), True)
  part = rollout.Part([None] * 2, scores, scores, samples.drawn(2, 2), found)
  numbers = rollout._metrics([(part, [])], [None, None])
  assert not {"rewards/judge", "rewards/shaped"} & numbers.keys()
  assert numbers["rewards/judge_std"] == pytest.approx(0.125**0.5 / 2)
  assert numbers["judge/equal"] == 0.5  # the share of ties


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
