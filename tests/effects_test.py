"""What methods do to a tiny policy, where theory makes the effect sure.

One policy is fine-tuned on sentences of our own; every method starts from it
and runs as `xpo train` does.
"""

import json
import math

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import config, pretrained, train
from xpo_jax.data import templates
from xpo_jax.evals import statistics

pytestmark = pytest.mark.slow

EXTRA = (
  " It is old.",
  " It was built by hand.",
  " Nobody owns it.",
  " We saw it today.",
)
PROMPTS, DRAWS = 64, 4  # 256 samples


def prompt(n: int) -> str:
  return f"Row {n % 97}: name the {runs.THINGS[n % 7]}."


def text(n: int, extras: int) -> str:
  first = f" The {runs.THINGS[n % 7]} is {runs.COLOURS[n % 6]}."
  return first + "".join(EXTRA[(n + i) % 4] for i in range(extras))


def edited(n: int) -> dict:
  """A pair that differs in one word."""
  thing = runs.THINGS[n % 7]
  good, bad = runs.COLOURS[n % 6], runs.COLOURS[(n + 1 + n % 4) % 6]
  return {
    "prompt": prompt(n),
    "chosen": f" The {thing} is {good}.",
    "rejected": f" The {thing} is {bad}.",
  }


def lengthy(n: int) -> dict:
  """Seven times of ten the longer text is chosen; nothing else tells them."""
  long, short = text(n, 2 + n % 2), text(n, n % 2)
  chosen, rejected = (short, long) if n % 10 < 3 else (long, short)
  return {"prompt": prompt(n), "chosen": chosen, "rejected": rejected}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Runs a method for some steps; returns its folder and metrics by step."""
  folder = tmp_path_factory.mktemp("effects")

  def run(name, rows, steps, rate, *, keywords=None, tag="", **changes):
    path = runs.write(folder / f"{name}{tag}.jsonl", rows)
    c = config.base("tiny").unlock()
    c.method = config.method(name, **(keywords or {}))
    c.data.source = str(path)
    c.train.steps, c.train.epochs, c.train.save_every = steps, 0.0, 1000
    c.optimizer.learning_rate = rate
    flat = {k.replace("__", "."): v for k, v in changes.items()}
    c.update_from_flattened_dict(flat)
    run = folder / f"{name}{tag}"
    train.run(c.lock(), run, jax.devices()[:1])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return run, [json.loads(line) for line in lines]

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(folder / "cache"))
    yield run


@pytest.fixture(scope="module")
def sft(start):
  rows = [
    {"prompt": prompt(n), "completion": text(n * 5 + 1, n % 3)}
    for n in range(256)
  ]
  folder, lines = start("sft", rows, 150, 1e-3)
  assert lines[-1]["loss"] < 0.5 < 4 < lines[0]["loss"]
  return str(folder)


def memorised(start, sft, name, steps, rate, schedule="constant", **keywords):
  """Metrics of every step on 16 pairs, all of them in every step."""
  return start(
    name,
    map(edited, range(16)),
    steps,
    rate,
    keywords=keywords,
    model__source=sft,
    batch__prompts=16,
    optimizer__schedule=schedule,
  )[1]


def test_ipo_stops_at_its_margin(start, sft):
  """(h - 1/2)^2 for tau = 1: every one of 16 pairs ends at h = 1/2."""
  lines = memorised(start, sft, "ipo", 150, 2e-4, "cosine", tau=1.0)
  assert lines[0]["loss"] == pytest.approx(0.25, abs=1e-4)
  assert lines[-1]["rewards/margin"] == pytest.approx(0.5, abs=0.05)
  # A mean of squares below 0.05^2 / 16 bounds every one of them.
  assert lines[-1]["loss"] < 0.05**2 / 16


def test_dpo_lowers_the_chosen_of_small_edits_and_dpop_does_not(start, sft):
  dpo = memorised(start, sft, "dpo", 40, 3e-4, beta=0.1)
  dpop = memorised(start, sft, "dpop", 40, 3e-4, beta=0.1, penalty=50.0)
  at = lambda lines, step: lines[step]["logps/chosen"]
  assert at(dpo, 0) == pytest.approx(at(dpop, 0), abs=1e-3)
  for lines in (dpo, dpop):
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert lines[-1]["rewards/margin"] > 0
  assert at(dpo, -1) < at(dpo, 0) - 1  # nats a completion
  assert at(dpop, -1) > at(dpop, 0)


def lengths(folder) -> np.ndarray:
  """Tokens a sample, [PROMPTS, DRAWS], at temperature 1."""
  policy = pretrained.load_pretrained(str(folder))
  template = templates.make_template(policy.tokenizer, "plain")
  ids = [template.prompt(prompt(500 + n)) for n in range(PROMPTS)]
  samples, _ = policy.sample(ids, 48, 1.0, 1.0, seed=1, completions=DRAWS)
  return np.asarray(samples.mask).sum(-1)


def test_r_dpo_and_simpo_write_less_than_dpo(start, sft):
  """On pairs that reward length alone; paired by prompt, 95% intervals."""
  trained = {}
  for name, rate, keywords in (
    ("dpo", 1e-4, dict(beta=0.1)),
    ("r_dpo", 1e-4, dict(beta=0.1, alpha=0.3)),
    ("simpo", 3e-5, dict(beta=2.0)),  # it asks for a lower rate
  ):
    folder, _ = start(
      name,
      map(lengthy, range(256)),
      24,
      rate,
      keywords=keywords,
      tag="-lengths",
      model__source=sft,
      optimizer__schedule="constant",
    )
    trained[name] = lengths(folder)
  before = lengths(sft)
  assert before.size == 256
  names = [str(n) for n in range(PROMPTS)]
  gap = lambda a, b: statistics.paired_bootstrap(
    a.mean(1), b.mean(1), names, seed=0
  )
  assert gap(before, trained["dpo"]).low > 0
  assert gap(trained["r_dpo"], trained["dpo"]).low > 0
  assert gap(trained["simpo"], trained["dpo"]).low > 0
