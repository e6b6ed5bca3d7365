"""A stage that merges models into one: FOLDER/model, a Hugging Face folder.

Later stages read it with model.source="stage:NAME/model". A killed merge is
made again as a whole.
"""

from collections.abc import Mapping
import difflib
import math
from pathlib import Path
import shutil
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from xpo_jax import deltas, hosts, merged, pretrained
from xpo_jax.errors import usage_error
from xpo_jax.merging import Operator, Recipe
from xpo_jax.models.weights import export
from xpo_jax.pretrained import Pretrained
from xpo_jax.stages import section as sections

MODEL = "model"  # inside of the stage's folder
DENSITY = 0.2  # of every model whose density is not given
COMMON = {
  "operator": "ties",
  "sources": (),  # runs, exports or presets, in order
  "base": "",  # the model that all of them started from
  "dtype": "float32",  # of the written weights
  "seed": 0,
}
# What an operator reads besides, as in `merging.Recipe`.
_MEAN = {"weights": (), "normalise": True}
_TRIM = {"weights": (), "scale": 1.0, "densities": (), "trim_scope": "vector"}
OPTIONS: dict[str, dict] = {
  "linear": _MEAN,
  "task_arithmetic": {"weights": (), "scale": 1.0},
  "ties": _TRIM,
  "dare_linear": _MEAN | {"drop": 0.9},
  "dare_ties": _TRIM | {"drop": 0.9},
  "slerp": {"t": 0.5, "space": "weights"},
}
_LISTS = {"weights": 1.0, "densities": DENSITY}  # what () means
_RULES = (
  sections.required("sources", "runs or folders of models"),
  sections.required("base", "the model that all sources started from"),
  sections.choice("dtype", *export.DTYPES),
  ("seed", lambda n: 0 <= n < 2**31, "in [0, 2**31)"),
  sections.choice("trim_scope", "vector", "tensor"),
  sections.choice("space", "weights", "deltas"),
  ("drop", lambda p: 0 <= p < 1, "in [0, 1)"),
  ("t", lambda t: 0 <= t <= 1, "in [0, 1]"),
)


def section(**keywords: Any) -> ConfigDict:
  """The settings with these keys and the defaults of what else is read.

  Raises:
    XpoError: as of `check`.
  """
  return ConfigDict(fill(keywords, "merge").to_dict())


def check(settings: Mapping[str, Any], where: str) -> None:
  """What can be wrong before any source is there.

  Raises:
    XpoError: (64) a key that the operator does not read, a type or a range.
  """
  fill(settings, where)


def fill(settings: Mapping[str, Any], where: str) -> ConfigDict:
  """The settings with the defaults of what is not given; raises as `check`."""
  operator = settings.get("operator", COMMON["operator"])
  if str(operator) not in OPTIONS:
    near = difflib.get_close_matches(str(operator), OPTIONS, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise usage_error(
      f"{where}.operator={operator!r}: {hint}choose {', '.join(OPTIONS)}"
    )
  defaults = COMMON | OPTIONS[operator]
  for key in settings:
    users = [name for name, own in OPTIONS.items() if key in own]
    if users and key not in defaults:
      raise usage_error(
        f"{where}.{key} is unknown to {operator}, only {', '.join(users)} read "
        "it; leave it out (configs/recipes/paft.py:merge=OPERATOR has the keys "
        "of each)"
      )
  lists = {k: settings[k] for k in _LISTS if k in settings and k in defaults}
  rest = {k: v for k, v in settings.items() if k not in lists}
  rules = tuple(rule for rule in _RULES if rule[0] in defaults)
  chosen = sections.fill(rest, defaults, rules, where).unlock()
  count = len(chosen.sources)
  if operator == "slerp" and count != 2:
    raise usage_error(
      f"{where}.sources={chosen.sources}: slerp merges two models, not {count}"
    )
  for key in _LISTS:
    if key in defaults:
      values = lists.get(key, ())
      chosen[key] = _numbers(values, count, operator, f"{where}.{key}")
  return chosen.lock()


def _numbers(values, count: int, operator: str, where: str) -> tuple:
  """One number a source."""
  key = where.rpartition(".")[2]
  fail = lambda words: usage_error(f"{where}={values!r:.80}: {words}")
  if not isinstance(values, tuple | list):
    raise fail("must be a list of numbers")
  values = tuple(values) or (_LISTS[key],) * count
  number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  if not all(number(x) and math.isfinite(x) for x in values):
    raise fail("must be a list of numbers")
  if len(values) != count:
    raise fail(f"must be one a source, {count}, or empty: all the same")
  if key == "densities" and not all(0 < x <= 1 for x in values):
    raise fail("must be in (0, 1]")
  if (
    key == "weights" and operator in ("ties", "dare_ties") and min(values) <= 0
  ):
    raise fail(f"must be > 0 for {operator}")
  if key == "weights" and "linear" in operator and sum(values) == 0:
    raise fail("must not add up to 0")
  return tuple(map(float, values))


def run(settings: Mapping, folder: Path) -> dict:
  """Merges, measures and writes FOLDER/model.

  Args:
    settings: operator (one of OPTIONS) and what it reads, sources, base, dtype,
      seed.
    folder: the stage's; an earlier try's leavings are removed.

  Returns:
    {"tables": .., "measures": {"sparsity", "norm", "cosine", "conflict"}}.

  Raises:
    XpoError: models that cannot be merged, or weights that cannot be written.
  """
  chosen = fill(settings, "merge")
  folder.mkdir(parents=True, exist_ok=True)
  hosts.first(lambda: _sweep(folder))
  base, *models = map(_load, (chosen.base, *chosen.sources))
  for name, model in zip(chosen.sources, models):
    _refuse_strangers(chosen.base, base, name, model)
  own = {k: chosen[k] for k in OPTIONS[chosen.operator]}
  how = Recipe(operator=Operator(chosen.operator), seed=chosen.seed, **own)
  merge = merged.prepare(base.params, tuple(m.params for m in models), how)
  found = deltas.measure(merge)
  hosts.first(
    lambda: export.save_folder(
      folder / MODEL,
      base.model.config,
      merged.tree(merge),
      base.tokenizer,
      chosen.dtype,
    )
  )
  return _summary(chosen, found)


def _sweep(folder: Path) -> None:
  """Removes an earlier try's leavings."""
  for old in (*folder.glob(".part-*"), folder / MODEL):
    shutil.rmtree(old, ignore_errors=True)


def _load(source: str) -> Pretrained:
  return pretrained.load_pretrained(source, unread=True)


def _refuse_strangers(
  start: str, base: Pretrained, name: str, model: Pretrained
) -> None:
  """Raises for a model that no sum with the base's weights makes sense of."""
  if model.reward_head is not None:
    raise usage_error(
      f"sources: {name} is a reward model; merge policies, or models without a "
      "head"
    )
  if model.model.config != base.model.config:
    raise usage_error(
      f"sources: {name} is of another architecture than base={start}; merge "
      "models that were trained from it"
    )
  prints = {
    m.tokenizer.fingerprint() if m.tokenizer else "" for m in (base, model)
  }
  if len(prints) > 1:
    raise usage_error(
      f"sources: {name} has another tokenizer than base={start}; merge models "
      "that were trained from it"
    )


def _summary(settings: Mapping, found: deltas.Measures) -> dict:
  names = [*map(_short, settings["sources"]), "merged"]
  show = lambda x, form: format(x, form) if math.isfinite(x) else "-"
  rows = [
    [
      name,
      show(found.norm[i], ".4g"),
      show(found.sparsity[i], ".1%"),
      *(show(x, "+.3f") for x in found.cosine[i]),
    ]
    for i, name in enumerate(names)
  ]
  conflict = show(found.conflict, ".1%")
  table = {
    "title": f"{settings['operator']} of {len(names) - 1} models: changes from "
    f"their base; signs differ on {conflict} of the weights moved by several",
    "columns": [
      "model",
      "norm",
      f"below {deltas.MOVED:g}",
      *(f"cosine, {name}" for name in names),
    ],
    "rows": rows,
  }
  measures = {key: _plain(value) for key, value in found._asdict().items()}
  return {"tables": [table], "measures": measures}


def _short(source: str) -> str:
  """A run's or stage's name."""
  path = Path(source)
  return path.parent.name if path.name == MODEL else path.name


def _plain(value):
  """For JSON: lists of numbers, None for NaN."""
  if np.ndim(value):
    return [_plain(x) for x in value]
  return float(value) if math.isfinite(value) else None
