"""`xpo run` on two processes: stages that draw, judge, merge and measure."""

import json
import pprint
import signal

import pytest

from tests import runs, two_hosts
from tests.online import scripted
from tests.pipeline_test import evaluation
from xpo_jax.stages import generate

pytestmark = pytest.mark.slow


def save(folder):
  """A config file of three stages, on 18 prompts: two slices of a journal."""
  data = str(runs.write(folder / "held.jsonl", map(runs.pair, range(18))))
  drawn = generate.section(
    policies=("tiny",),
    data={"source": data},
    completions=2,
    max_new_tokens=8,
    judge={"name": "function", "source": "tests.online.scripted:score"},
  ).to_dict()
  merged = dict(operator="linear", base="tiny", sources=("tiny", "tiny"))
  measured = evaluation(
    folder,
    policies=dict(before="tiny", after="stage:merge/model"),
    columns=("before", "after"),
    baseline="before",
    final="after",
    reference="",
    judge={"name": "rating", "source": "tiny", "max_invalid": 1.0},
    harmless={"name": "additive", "source": "tiny", "max_invalid": 1.0},
  )
  whole = dict(
    title="t",
    model="tiny",
    data="ours",
    notes=(),
    order=("draw", "merge", "measure"),
    stages=dict(draw=drawn, merge=merged, measure=measured),
  )
  path = folder / "stages.py"
  path.write_text(
    "from ml_collections import ConfigDict\n\n\n"
    f"def get_config():\n  return ConfigDict({pprint.pformat(whole)})\n"
  )
  return path


def test_they_leave_what_one_process_leaves(tmp_path, monkeypatch):
  """Killed where the second half of the samples is judged, and again begun."""
  config, cache = save(tmp_path), tmp_path / "cache"
  args = ("run", f"--config={config}", f"--workdir={tmp_path / 'two'}")
  both = lambda **more: two_hosts.start(
    *args, cache=cache, log=tmp_path / "log", **more
  )
  codes = [code for code, _ in both(told="judging:2")]
  assert codes[0] == -signal.SIGKILL and codes[1] != 0
  ended = both()
  assert [code for code, _ in ended] == [0, 0], ended
  asked = []
  for number in range(2):
    monkeypatch.setenv(scripted.LOG, str(tmp_path / f"log.{number}"))
    asked.append(scripted.asked())
  first, again = asked[0]
  assert len(first) == len(again) == 1 and first != again
  assert asked[1] == [[], []]
  one = tmp_path / "one"
  code, _, err = runs.script(
    two_hosts.SCRIPT,
    "run",
    f"--config={config}",
    f"--workdir={one}",
    env=runs.environment(cache, XPO_TEST_LOG=str(tmp_path / "log")),
  )
  assert code == 0, err
  files = ("draw/data.jsonl", "draw/samples.jsonl", "draw/generate.json",
           "measure/samples-before.jsonl", "merge/model/model.safetensors",
           "merge/model/config.json")  # fmt: skip
  for name in files:
    mine, other = (tmp_path / w / name for w in ("two", "one"))
    assert mine.read_bytes() == other.read_bytes(), name
  found, wanted = (
    json.loads((tmp_path / w / "measure/evaluation.json").read_text())
    for w in ("two", "one")
  )
  assert found["samples"] == wanted["samples"]
  # The judge's mesh has another shape: other last bits.
  assert found["numbers"].keys() == wanted["numbers"].keys()
  for name, numbers in wanted["numbers"].items():
    assert found["numbers"][name] == pytest.approx(
      numbers, abs=1e-4, nan_ok=True
    )
  assert (tmp_path / "two" / "report.html").is_file()
