"""One method for each class of needs, from a file through a whole run."""

import math

import jax
import pytest

from tests import runs
from xpo_jax import train

pytestmark = pytest.mark.slow


def labelled(n: int) -> dict:
  row = runs.pair(n)
  good = bool(n % 2)
  text = row["chosen" if good else "rejected"]
  return {"prompt": row["prompt"], "completion": text, "label": good}


def scored(n: int) -> dict:
  row = runs.pair(n)
  score = (n % 5) * 0.5
  return {"prompt": row["prompt"], "completion": row["chosen"], "score": score}


LOG_2 = math.log(2)


@pytest.mark.parametrize(
  "method, rows, keywords, first",
  [
    # token_kl: at the reference K = 0.
    ("tdpo2", runs.pair, {}, LOG_2),
    # log_collision: weighted, so only finite.
    ("wpo", runs.pair, {}, None),
    # contrast_logps and noise; two denominators.
    ("cringe", labelled, {"k": 3}, None),
    # noise and running statistics.
    ("beta_dpo", runs.pair, {}, LOG_2),
    ("bco", labelled, {}, LOG_2),
    # values, by token: half the mean squared score if V = 0 at the start.
    ("dro", scored, {"value": "tokens"}, None),
    # The whole batch is sorted.
    ("aot", runs.pair, {}, LOG_2),
  ],
)
def test_trains(method, rows, keywords, first, tmp_path, monkeypatch):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  c = runs.make(
    tmp_path, method, **{f"method__{k}": v for k, v in keywords.items()}
  )
  c = c.copy_and_resolve_references().unlock()
  c.data.source = str(runs.write(tmp_path / "rows.jsonl", map(rows, range(24))))
  c.data.eval_source = ""
  c.train.steps, c.batch.microbatches = 3, 2
  summary = train.run(c.lock(), tmp_path / "run", jax.devices()[:1])
  lines = runs.lines(tmp_path / "run")
  assert len(lines) == 3 and summary["steps"] == 3
  assert all(math.isfinite(line["loss"]) for line in lines)
  assert all(line["optimizer/skipped"] == 0 for line in lines)
  if first is not None:
    assert lines[0]["loss"] == pytest.approx(first, abs=1e-4)
