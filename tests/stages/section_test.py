"""Settings of a stage."""

from ml_collections import ConfigDict
import pytest

from xpo_jax.errors import Exit, XpoError
from xpo_jax.stages import section

DEFAULTS = {
  "steps": 4,
  "rate": 1.0,
  "files": (),
  "name": "",
  "loud": False,
  "data": section.DATA,
}
RULES = (
  section.at_least("steps", 1),
  section.choice("data.on_bad_row", "error", "skip"),
)


def fill(settings):
  return section.fill(settings, DEFAULTS, RULES, "stages.a")


@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_defaults_fill_what_is_not_given(kind):
  given = {"rate": 2, "files": ["b"], "data": {"source": "films"}}
  found = fill(kind(given))
  assert found.to_dict() == {
    "steps": 4,
    "rate": 2.0,
    "files": ("b",),
    "name": "",
    "loud": False,
    "data": {
      "source": "films",
      "split": "train",
      "format": "auto",
      "on_bad_row": "error",
    },
  }
  assert isinstance(found.rate, float) and found.is_locked
  assert section.DATA["source"] == ""


@pytest.mark.parametrize(
  "given, message",
  [
    ({"step": 1}, "stages.a.step is unknown; did you mean 'steps'?"),
    (
      {"q": 1},
      "stages.a.q is unknown; it has steps, rate, files, name, loud, data",
    ),
    ({"steps": 0}, "stages.a.steps=0: must be >= 1"),
    ({"steps": 1.0}, "stages.a.steps=1.0: must be an integer"),
    ({"steps": True}, "stages.a.steps=True: must be an integer"),
    ({"rate": True}, "stages.a.rate=True: must be a number"),
    ({"rate": float("inf")}, "stages.a.rate=inf: must be a number"),
    ({"files": (1,)}, "stages.a.files=(1,): must be a list of texts"),
    ({"loud": 0}, "stages.a.loud=0: must be True or False"),
    ({"name": None}, "stages.a.name=None: must be a text"),
    ({"data": "films"}, "stages.a.data='films': must be a section"),
    (
      {"data": {"on_bad_row": "drop"}},
      "stages.a.data.on_bad_row='drop': must be one of error, skip",
    ),
    ({"data": {"src": ""}}, "stages.a.data.src is unknown; did you mean 'sou"),
  ],
)
def test_what_is_wrong_is_said_on_one_line(given, message):
  with pytest.raises(XpoError) as e:
    fill(given)
  assert e.value.code == Exit.USAGE and str(e.value).startswith(message)


def test_a_number_that_no_float_holds():
  with pytest.raises(XpoError, match="must be a number"):
    fill({"rate": 10**400})
