"""Every kind of data trains from its file: `xpo train`, two steps each.

The first loss is known by hand wherever policy and reference start equal;
reward and value heads are made to start at zero, so that theirs is known too.
"""

import math

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import parallel
from xpo_jax.models import heads

pytestmark = pytest.mark.slow

COUNT = 8  # rows, all of them in every batch
LOG2 = math.log(2)


def softplus(x: float) -> float:
  return math.log1p(math.exp(x))


def steps(n: int) -> dict:
  row = runs.pair(n)
  texts = [row["chosen"], "So it is.", f"Answer {n}."]
  return {
    "prompt": row["prompt"],
    "completions": texts[: 1 + n % 3],
    "labels": [n % 2 == 0, None, 0.75][: 1 + n % 3],
  }


def samples(n: int) -> dict:
  row = runs.pair(n)
  own = [f"{row['chosen']} ({k})" for k in range(1 + n % 3)]
  return {"prompt": row["prompt"], "samples": own, "rejected": row["rejected"]}


def scalar(n: int) -> dict:
  row = runs.pair(n)
  return {
    "prompt": row["prompt"],
    "completion": row["chosen"],
    "score": n / 4 - 1,
  }


def ranks(n: int) -> dict:
  row = runs.pair(n)
  texts = [row["chosen"], row["rejected"], f" {n}?", " No."][: 2 + n % 3]
  return {
    "prompt": row["prompt"],
    "completions": texts,
    "ranks": [1, 2, 2, 4][: len(texts)],
  }


def won(n: int) -> dict:
  row = ranks(n)
  rates = [0.75, 0.5, 0.25, 0.5][: len(row.pop("ranks"))]
  return row | {"win_rates": rates}


def rated(n: int) -> dict:
  row = runs.pair(n)
  return {
    "prompt": row["prompt"],
    "completions": [row["chosen"], row["rejected"]],
    "ratings": [[5, 4, 4 - n % 2], [1, 2, 4]],
  }


def margin(n: int) -> dict:
  return {**runs.pair(n), "margin": n / 2}


def forget(n: int) -> dict:
  row = runs.pair(n)
  return {
    "prompt": row["prompt"],
    "completion": row["rejected"],
    "label": False,
  }


def document(n: int) -> dict:
  return {"text": f"{runs.pair(n)['chosen'].strip()} Read on {n} times."}


# name: (method, rows, changes of the config, first loss by hand)
RUNS = {
  "step labels": ("rm_prm", steps, {}, LOG2),
  "self samples": ("d2o", samples, {}, LOG2),
  "self samples, rewards": ("rm_negative", samples, {}, LOG2),
  "comparisons": (
    "rm_pairwise",
    runs.pair,
    dict(
      data__max_prompt_length=250,
      data__max_completion_length=6,
      batch__row_length=256,
    ),
    None,
  ),
  # Log-ratio and value are 0: half the mean squared score.
  "scalars": (
    "dro",
    scalar,
    {},
    sum((n / 4 - 1) ** 2 for n in range(COUNT)) / COUNT / 2,
  ),
  "ranks": ("rm_kwise", ranks, {}, LOG2),
  # Log-ratios are 0: the mean of (1000 (P - 1/2))^2 over lists of 2, 3, 4.
  "win rates": (
    "sppo",
    won,
    {},
    sum(250**2 * (1 / 2, 2 / 3, 2 / 4)[n % 3] for n in range(COUNT)) / COUNT,
  ),
  "ratings, soft pairs": ("rm_bt", rated, dict(data__format="soft"), LOG2),
  "ratings, thumbs": (
    "kto",
    rated,
    dict(data__format="binary", data__threshold=3.0, batch__prompts=2 * COUNT),
    0.5,
  ),
  # Both scores are 0 and the margin is subtracted.
  "margins": (
    "rm_bt",
    margin,
    {},
    sum(softplus(n / 2) for n in range(COUNT)) / COUNT,
  ),
  "documents": ("sft", document, {}, None),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture
def train(xpo, tmp_path, monkeypatch, cache):
  """Runs `xpo train` on rows; (what it printed, lines of metrics.jsonl)."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
  start = heads.init_reward_head
  monkeypatch.setattr(
    heads,
    "init_reward_head",
    lambda *args: jax.tree.map(np.zeros_like, start(*args)),
  )

  def run(method, rows, **changes):
    plain = dict(
      train__steps=2,
      train__eval_every=0,
      data__source=str(
        runs.write(tmp_path / "rows.jsonl", map(rows, range(COUNT)))
      ),
      data__eval_source="",
    )
    config = runs.make(tmp_path, method, **plain | changes)
    path = runs.save(config, tmp_path / "config.json")
    code, out, err = xpo(
      "train", f"--config={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert code == 0, err
    return out, runs.lines(tmp_path / "run")

  return run


@pytest.mark.parametrize("kind", RUNS)
def test_a_kind_of_data_trains(train, kind):
  method, rows, changes, first = RUNS[kind]
  _, lines = train(method, rows, **changes)
  assert [line["step"] for line in lines] == [1, 2]
  for line in lines:
    assert np.isfinite(list(line.values())).all()
    assert line["optimizer/gradient_norm"] > 0
    assert line["optimizer/skipped"] == 0
  if first is not None:
    assert lines[0]["loss"] == pytest.approx(first, rel=1e-5, abs=1e-5)
  assert lines[1]["loss"] != lines[0]["loss"]


def test_a_retain_set_of_plain_text(train, tmp_path):
  keep = runs.write(tmp_path / "keep.jsonl", map(document, range(30, 36)))
  out, lines = train(
    "npo", forget, aux__method="sft", aux__source=str(keep), aux__prompts=4
  )
  assert "rows of " in out and "keep.jsonl" in out.replace("\n", "")
  # (2 / beta) log 2 at the start, beta = 0.1.
  assert lines[0]["loss/main"] == pytest.approx(20 * LOG2, rel=1e-5)
  total = lines[0]["loss/main"] + lines[0]["loss/aux"]
  assert lines[0]["loss"] == pytest.approx(total, rel=1e-6)
  assert lines[1]["loss/aux"] < lines[0]["loss/aux"]
