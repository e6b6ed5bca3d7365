"""Losses against numbers of public reference implementations.

Each `tests/golden/losses_*.json` holds what other people's code computed, run
outside of this repository, in float64 where that code allows:

  source: {repository, version, date, command}, or a list of them.
  shared: name -> inputs that several cases start from; may be absent.
  cases: a list of
    name: unique in the file.
    source: place in the list of sources; 0 if absent.
    reference: the function that was called, and how.
    method, settings: our id and the keywords that differ from the defaults.
    feedback_kind: a name of types.Feedback.
    inputs: LossInputs fields as nested lists, null for NaN; completion_mask is
      required, present, ended and weight are 1 where absent. "shared": NAME
      starts from these inputs, which the other fields then replace; "noise" is
      the seed of a key.
    prepare: true runs Method.prepare first.
    expect: what the reference returned, any of
      loss: [B], LossOutput.loss.
      total: sum(loss) / sum(weight), plus the same of each entry of `terms`.
      gradient: field -> d total / d field.
      prepared: field -> its value after Method.prepare.
    scale: ours / the reference's loss, total and gradient where the papers'
      constant is another one; 1 if absent.
    precision: float64, or float32 where the reference itself casts to it.

Inputs at masked places are junk, so that expected gradients there are 0.
"""

import datetime
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs

FOLDER = pathlib.Path(__file__).parent / "golden"
FILES = {
  path.stem.removeprefix("losses_"): json.loads(path.read_text())
  for path in sorted(FOLDER.glob("losses_*.json"))
}
CASES = {
  f"{name}-{case['name']}": (file, case)
  for name, file in FILES.items()
  for case in file["cases"]
}
ONES = ("present", "ended", "weight")
TOLERANCE = {
  "float64": {"rtol": 1e-9, "atol": 1e-12},
  "float32": {"rtol": 1e-5, "atol": 1e-7},
}
KEYS = {  # of a case: required, optional
  "required": set("name reference method settings feedback_kind".split())
  | {"inputs", "expect"},
  "optional": {"source", "prepare", "scale", "precision"},
}
EXPECTED = {"loss", "total", "gradient", "prepared"}


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def read_inputs(file, case) -> LossInputs:
  given = dict(case["inputs"])
  if "shared" in given:
    given = file["shared"][given.pop("shared")] | given
  mask = np.asarray(given.pop("completion_mask"), bool)
  state = given.pop("state", None)
  fields = {"policy_logps": None, "state": state and jax.tree.map(float, state)}
  for name in ONES:
    shape = mask.shape[:1] if name == "weight" else mask.shape[:2]
    value = np.asarray(given.pop(name, np.ones(shape)), float)
    fields[name] = jnp.asarray(value if name == "weight" else value > 0)
  if "noise" in given:
    fields["noise"] = jax.random.key(given.pop("noise"))
  for name, value in given.items():
    fields[name] = jnp.asarray(np.asarray(value, float))
  return LossInputs(
    completion_mask=jnp.asarray(mask),
    feedback_kind=Feedback[case["feedback_kind"]],
    **fields,
  )


def run(method, x, settings, fields):
  """(LossOutput, gradient of its total in the named fields)."""

  def total(values):
    out = method.loss(x.replace(**values), **settings)
    return inputs.total(out), out

  values = {name: getattr(x, name) for name in fields}
  gradient, out = jax.grad(total, has_aux=True)(values)
  return out, gradient


@pytest.mark.parametrize("name", CASES)
def test_reference(name):
  file, case = CASES[name]
  expect, scale = case["expect"], case.get("scale", 1.0)
  tolerance = TOLERANCE[case.get("precision", "float64")]

  def same(got, want, what):
    want = np.asarray(want, float)
    assert got.shape == want.shape, what
    np.testing.assert_allclose(got, want, err_msg=what, **tolerance)

  method = registry.get(case["method"])
  settings = method.settings(case["settings"])
  x = read_inputs(file, case)
  if case.get("prepare"):
    x = method.prepare(x, **settings)
  for field, want in expect.get("prepared", {}).items():
    same(getattr(x, field), want, f"{field} after prepare")
  out, gradient = run(method, x, settings, expect.get("gradient", {}))
  if "loss" in expect:
    same(out.loss, scale * np.asarray(expect["loss"]), "loss")
  if "total" in expect:
    same(inputs.total(out), scale * expect["total"], "total")
  for field, want in expect.get("gradient", {}).items():
    same(gradient[field], scale * np.asarray(want), f"gradient in {field}")


def test_references_cover_20_methods():
  assert len({case["method"] for _, case in CASES.values()}) >= 20


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_where_its_numbers_are_from(name):
  file = FILES[name]
  assert file.keys() <= {"source", "shared", "cases"}
  sources = file["source"]
  sources = sources if isinstance(sources, list) else [sources]
  for source in sources:
    assert source.keys() == {"repository", "version", "date", "command"}
    assert source["repository"].startswith("https://")
    assert source["version"] and source["command"]
    datetime.date.fromisoformat(source["date"])
  names = [case["name"] for case in file["cases"]]
  assert len(names) == len(set(names))
  for case in file["cases"]:
    assert KEYS["required"] <= case.keys(), case["name"]
    assert case.keys() <= KEYS["required"] | KEYS["optional"], case["name"]
    assert 0 <= case.get("source", 0) < len(sources), case["name"]
    assert case["expect"], case["name"]
    assert case["expect"].keys() <= EXPECTED, case["name"]
    assert "prepared" not in case["expect"] or case["prepare"], case["name"]
