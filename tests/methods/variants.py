"""A method's keywords set to other legal values, and inputs to try them on."""

import inspect

import jax.numpy as jnp

from tests.methods import inputs
from xpo_jax.errors import XpoError

PROMPTS, TOKENS = 8, 6  # where one compilation serves many tests
EAGER = dict(prompts=6, tokens=8)  # without jit
NUMBERS = (0.0, 0.05, 0.3, 0.45, 0.7, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0, 40.0)


def make(
  method,
  case=None,
  settings=None,
  *,
  prompts=PROMPTS,
  tokens=TOKENS,
  dtype=jnp.float64,
  seed=0,
):
  """LossInputs; `case` is (feedback kind, K), the method's first if None."""
  settings = method.keywords if settings is None else settings
  kind, k = case or inputs.cases(method, settings)[0]
  return inputs.make_inputs(
    method,
    settings,
    prompts=prompts,
    completions=k,
    tokens=tokens,
    seed=seed,
    dtype=dtype,
    feedback_kind=kind,
  )


def other_values(method, keyword):
  """Legal values of the keyword that differ from its default."""
  default = method.keywords[keyword]
  parameters = inspect.signature(inspect.unwrap(method.loss)).parameters
  annotation = parameters[keyword].annotation
  options = getattr(annotation, "__args__", ())
  if isinstance(default, bool):
    return [not default]
  if isinstance(default, str):
    return [option for option in options if option != default]
  whole = annotation is int or int in options
  scale = default or 1.0
  found = []
  for value in (2.0 * scale, 0.5 * scale, -scale, *NUMBERS):
    if whole and value != round(value):
      continue
    value = int(value) if whole else float(value)
    try:
      method.settings({keyword: value})
    except XpoError:
      continue
    if value != default and value not in found:
      found.append(value)
  return found


def variants(method):
  """The defaults, then the defaults with one keyword changed in every way."""
  changed = [
    {**method.keywords, keyword: value}
    for keyword in method.keywords
    for value in other_values(method, keyword)
  ]
  return [dict(method.keywords), *changed]
