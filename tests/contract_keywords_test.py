"""The errors, keywords and words that every registered method owes its users.

Like contract_test.py this names no method.
"""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.variants import EAGER, make, other_values, variants
from xpo_jax.errors import Exit, XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
MEND = re.compile(r"choose|convert|fill|remove|did you mean|takes|must|use ")

every_method = pytest.mark.parametrize("name", registry.names())


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def assert_raises(call, *words):
  """An XpoError of one line that says the key, the value and the mend."""
  with pytest.raises(XpoError) as caught:
    call()
  message = str(caught.value)
  assert caught.value.code == Exit.USAGE
  assert "\n" not in message and MEND.search(message), message
  for word in words:
    assert word in message, (word, message)


def with_completions(x, k):
  """x with K = k, by repeating or dropping completions."""
  place = np.arange(k) % x.completion_mask.shape[1]
  return inputs.map_prompts(x, lambda v: v if v.ndim == 1 else v[:, place])


@every_method
def test_wrong_completions_and_kinds(name):
  method = registry.get(name)
  x = make(method, dtype=jnp.float32)
  low, high = method.completions
  assert low >= 1 and (high is None or high >= low)
  for k in [low - 1] + ([] if high is None else [high + 1]):
    bad = with_completions(x, k)
    assert_raises(lambda: method.loss(bad), name, f"the batch has {k}")
  for kind in set(Feedback) - method.feedback:
    bad = x.replace(feedback_kind=kind)
    assert_raises(lambda: method.loss(bad), name, kind.name)


@every_method
def test_missing_inputs(name):
  method = registry.get(name)
  x = make(method, dtype=jnp.float32)
  fields = {need.split(":")[0] for need in method.needs({})}
  fields -= registry.FROM_DATA
  if x.policy_logps is not None:
    fields.add("policy_logps")
  if x.state is not None:
    fields.add("state")
  assert fields
  for field in fields:
    bad = x.replace(**{field: None})
    assert_raises(lambda: method.loss(bad), name, f"needs {field}")


@every_method
def test_unneeded_reference(name):
  method = registry.get(name)
  by_needs = {method.needs(h): h for h in variants(method)}
  for needs, settings in by_needs.items():
    if "reference_logps" in needs:
      continue
    x = make(method, settings=settings, dtype=jnp.float32)
    x = x.replace(reference_logps=jnp.zeros(x.completion_mask.shape))
    assert_raises(lambda: method.loss(x, **settings), name, "reference_logps")


@every_method
def test_wrong_keywords(name):
  method = registry.get(name)
  x = make(method, dtype=jnp.float32)
  if not method.keywords:
    assert_raises(lambda: method.loss(x, beta=1.0), "beta", "no keywords")
  for keyword in method.keywords:
    typo = keyword + "x"
    assert_raises(
      lambda: method.loss(x, **{typo: 1.0}), typo, f"mean {keyword!r}"
    )
    for value in ("nonsense", float("nan")):
      bad = {keyword: value}
      assert_raises(lambda: method.loss(x, **bad), keyword, str(value), name)
  for keyword, limit in method.limits.items():
    whole = type(method.keywords[keyword]) is int
    outside = [-(10**9), 0, 10**9] if whole else [-1e9, 0.0, 0.5, 1e9]
    outside = [v for v in outside if not limit.holds(v)]
    assert outside, f"the limit of {keyword} allows everything"
    for value in outside:
      bad = {keyword: value}
      assert_raises(
        lambda: method.loss(x, **bad), keyword, str(value), limit.text
      )


def observe(method, settings, case):
  """All numbers that settings can move: outputs, state, prepared columns.

  None where these settings ask for another K or kind.
  """
  x = make(method, case, settings, **EAGER)
  try:
    if method.prepare is not None:
      x = method.prepare(x, **settings)
    out = method.loss(x, **settings)
    again = None
    if x.state is not None:  # e.g. a decay shows from the second batch on
      after = x.replace(state=out.state, policy_logps=1.5 * x.policy_logps)
      again = method.loss(after, **settings)
  except XpoError:
    return None
  leaves = jax.tree.leaves((inputs.float_fields(x), out, again))
  return [np.asarray(leaf) for leaf in leaves]


def slopes(method, settings):
  """Gradients of the total: a stop_gradient moves nothing else."""
  x = make(method, settings=settings, **EAGER)
  fields = inputs.float_fields(x)
  total = lambda fields: inputs.total(
    method.loss(x.replace(**fields), **settings)
  )
  return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.grad(total)(fields))]


def same(a, b):
  return len(a) == len(b) and all(
    np.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b)
  )


@every_method
def test_every_keyword_changes_something(name, x64):
  """At the defaults, or else with one other keyword changed too.

  Read by the trio, not by the loss: CRINGE's k, among how many alternatives
  `contrast_logps` draws.
  """
  method = registry.get(name)
  bases = variants(method)
  largest_first = inputs.cases(method, method.keywords)[::-1]
  cache = {}

  def seen(settings, case):
    key = case, *sorted(settings.items())
    if key not in cache:
      cache[key] = observe(method, settings, case)
    return cache[key]

  def moves(base, changed):
    asked = lambda h: (method.needs(h), method.prepare_needs(h))
    if asked(base) != asked(changed):
      return True
    pairs = ((seen(base, case), seen(changed, case)) for case in largest_first)
    return any(None not in (a, b) and not same(a, b) for a, b in pairs)

  def matters(keyword, values):
    default = method.keywords[keyword]
    return any(
      moves(base, {**base, keyword: value})
      for value in values  # most values show, in few of the bases
      for base in bases
      if base[keyword] == default
    ) or not all(
      same(slopes(method, bases[0]), slopes(method, {**bases[0], keyword: v}))
      for v in values
    )

  for keyword, default in method.keywords.items():
    if keyword == "k" and "contrast_logps" in method.needs({}):
      continue
    values = other_values(method, keyword)
    assert values, f"{keyword} has one legal value"
    if isinstance(default, str):
      for option in values:
        assert matters(keyword, [option]), f"{keyword}={option} is {default}"
    else:
      assert matters(keyword, values), f"{keyword} changes nothing"


@every_method
def test_docstring(name):
  method = registry.get(name)
  doc = inspect.getdoc(method.loss) or ""
  for section in ("\nArgs:\n", "\nReturns:\n", "\nRaises:\n", "\nReference:"):
    assert section in doc, section
  for keyword in method.keywords:
    assert re.search(rf"^  (.*, )?{keyword}\b.*:", doc, re.M), keyword
  assert re.match(r"https://\S+$", method.paper)


@every_method
def test_config_exists(name):
  assert (CONFIGS / f"{name}.py").is_file(), f"write configs/{name}.py"


def uses_reference(method, settings):
  return any(
    need == "reference_logps" or need.startswith("token_kl")
    for need in method.needs(settings)
  )


@every_method
def test_survey_agrees(name):
  method = registry.get(name)
  survey = method.survey
  reach = {uses_reference(method, settings) for settings in variants(method)}
  if survey.reference == "yes":
    assert uses_reference(method, {})
  elif survey.reference == "no":
    assert reach == {False}
  else:
    assert reach == {True, False}
  low, high = method.completions
  takes = lambda k: low <= k and (high is None or k <= high)
  fits = {"pair": takes(2), "list": takes(3), "one": low <= 2}
  assert fits[survey.arrangement], (survey.arrangement, method.completions)
  kinds = {
    "preference": set(Feedback) - {Feedback.DEMONSTRATION},
    "binary": {Feedback.BINARY},
    "scalar": {Feedback.SCORE, Feedback.PROBABILITY},
    "ranks": {Feedback.SCORE, Feedback.ORDER},
    "demonstration": {Feedback.DEMONSTRATION},
  }
  assert kinds[survey.feedback] & method.feedback
  if method.trains_reward:
    assert survey.reward_model == "explicit"


# The registry itself.


def test_unknown_method_suggests_the_nearest():
  assert_raises(lambda: registry.get("dppo"), "dppo", "did you mean")


def test_register_refuses_what_cannot_work():
  survey = registry.get("sft").survey
  declare = dict(paper="", completions=1, feedback=set(), survey=survey)

  def sft(x):
    raise AssertionError("never called")

  def fresh(x, *, beta=1.0):
    raise AssertionError("never called")

  def prepare(x, *, gamma):
    raise AssertionError("never called")

  with pytest.raises(ValueError, match="registered twice"):
    registry.register(**declare)(sft)
  with pytest.raises(ValueError, match=r"unknown needs \['rewards'\]"):
    registry.register(**declare, needs={"rewards"})(fresh)
  with pytest.raises(ValueError, match=r"unknown keywords \['gamma'\]"):
    registry.register(**declare, prepare=prepare)(fresh)
  assert "fresh" not in registry.names()
