"""Held-out prompts of a run whose judge compares two texts."""

from collections import Counter
import dataclasses
import types

import numpy as np
import pytest

from tests import tiny
from tests.online import samples
from xpo_jax import config, judge_config
from xpo_jax.judges.candidates import Judgement
from xpo_jax.online import columns, draw, evaluate, rollout, trunk

MINE, THEIRS = samples.drawn(4, 2), samples.drawn(4, 2, seed=2)


@dataclasses.dataclass(frozen=True)
class Job:
  """What of a job an evaluation looks at."""

  config: object
  objective: object
  online: object
  plan: object
  tokenizer: object


class Numbers:
  """A text is its tokens' numbers."""

  def decode(self, ids):
    return " ".join(map(str, ids))


def total(text):
  return sum(map(int, text.split()))


def shares(candidates):
  """P(i beats j): the share of the larger sum of tokens in both."""
  sums = np.array([[1 + total(t) for t in own] for own in candidates.texts])
  wins = sums[:, :, None] / (sums[:, :, None] + sums[:, None, :])
  return Judgement(wins, wins.size, Counter(), {})


def evaluated(monkeypatch, folder, **keywords):
  """Numbers of 6 prompts in draws of 4, and the opponents that were drawn."""
  c = config.base("tiny").unlock()
  c.rollout.completions, c.batch.prompts = 2, 4
  c.judge.name, c.judge.source = "pairwise", "run"
  prompts = samples.prompts(6)
  held = types.SimpleNamespace(groups=prompts, texts=[p.id for p in prompts])
  job = Job(
    c.lock(),
    tiny.objective("rloo", **keywords),
    types.SimpleNamespace(held=held),
    types.SimpleNamespace(shape=types.SimpleNamespace(completions=2)),
    Numbers(),
  )
  drawn = []

  def opponent(drawer, *_):
    drawn.append(drawer.job.config.rollout.opponent)
    return THEIRS

  monkeypatch.setattr(draw, "policy", lambda *_: MINE)
  monkeypatch.setattr(draw, "opponent", opponent)
  monkeypatch.setattr(rollout, "label_of", lambda *_: {})
  monkeypatch.setattr(trunk, "states", lambda *_: None)
  nothing = types.SimpleNamespace(reference_logps=None)
  monkeypatch.setattr(columns, "score", lambda *_: nothing)
  tools = rollout.Tools(
    **dict.fromkeys(rollout.Tools._fields)
    | {"job": job, "drawer": draw.Drawer(job, None, 16, None)}
    | {"judge": judge_config.Built(None, shares, "pairwise", 0.1)}
    | {"alive": lambda: None}
  )
  state = types.SimpleNamespace(params=None)
  return evaluate.run(tools, state, folder, 2), drawn


def test_a_pair_judge_meets_the_references_samples(monkeypatch, tmp_path):
  found, drawn = evaluated(monkeypatch, tmp_path, beta=0.1)
  assert drawn == ["reference", "reference"]
  ids = lambda own, b, k: own.ids(b, k)[: -1 if own.ended[b, k] else None]
  wanted = []
  for b in (0, 1, 2, 3, 0, 1):
    for k in range(2):
      one = 1 + int(ids(MINE, b, k).sum())
      other = 1 + int(ids(THEIRS, b, k).sum())
      wanted.append(one / (one + other))
  assert found["reward"] == pytest.approx(np.mean(wanted), rel=1e-9)
  assert abs(found["reward"] - 0.5) > 0.01 and found["scored"] == 1


def test_without_a_reference_a_pair_judge_says_nothing(monkeypatch, tmp_path):
  """Among a prompt's samples half of all pairs are won, whoever wrote them."""
  found, drawn = evaluated(monkeypatch, tmp_path, beta=0.0)
  assert drawn == [] and "reward" not in found and found["tokens"] > 0
