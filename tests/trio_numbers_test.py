"""What the trio fills, against the plain model in numpy: statistics of whole
distributions, values from their own weights, scores of every token."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from tests.tiny import QUICK
from xpo_jax import methods, trio
from xpo_jax.models.model import Model
from xpo_jax.trio import Frozen

CONFIG = dataclasses.replace(tiny.CONFIG, layers=2)
MODEL = Model(CONFIG)
POLICY, REFERENCE, VALUE = (tiny.params(CONFIG, seed) for seed in (0, 1, 2))
KERNEL = np.random.default_rng(9).normal(size=CONFIG.width).astype(np.float32)
HEAD = {"kernel": KERNEL, "bias": np.float32(0.3)}
MEMBERS = ((2, 0), (2, 1), (0, 1), (4, 0))  # prompt, completion


@pytest.fixture(scope="module")
def groups():
  return tiny.pairs(5)


def scored(name, needs, batch, params):
  """LossInputs of a method that asks for `needs`."""
  method = dataclasses.replace(
    methods.get(name), needs_of=lambda h: set(needs.split())
  )
  frozen = Frozen(reference=REFERENCE)
  key = jax.random.key(0)
  run = lambda params, frozen, batch: trio.score(
    MODEL, method, {}, params, frozen, batch, noise=(key, 0)
  )
  return jax.jit(run, compiler_options=QUICK)(params, frozen, batch)


def log_softmax(x):
  x = x.astype(np.float64)
  return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def distributions(params, group, k):
  """log p [n, V] before each of the completion's n tokens."""
  ids = np.concatenate([group.prompt, group.completions[k]])
  start = len(group.prompt)
  return log_softmax(plain_model.logits(CONFIG, params, ids)[start - 1 : -1])


def states(params, group, k):
  """States [n + 1, D]: before the first token, then after every one."""
  ids = np.concatenate([group.prompt, group.completions[k]])
  return plain_model.states(CONFIG, params, ids)[len(group.prompt) - 1 :]


def kl(a, b):
  return np.sum(np.exp(a) * (a - b), axis=-1)


def check(field, groups, wanted):
  """A field [B, K, T] against wanted(group, k) [n]; nothing is behind it."""
  field = np.asarray(field)
  assert np.std(field) > 0.01
  for b, k in MEMBERS:
    numbers = wanted(groups[b], k)
    n = len(groups[b].completions[k])
    assert numbers.shape == (n,)
    np.testing.assert_allclose(field[b, k, :n], numbers, rtol=2e-5, atol=2e-5)
    assert not field[b, k, n:].any()


def best_other(group, k):
  logp = distributions(POLICY, group, k)
  np.put_along_axis(logp, group.completions[k][:, None], -np.inf, axis=-1)
  return logp.max(-1)


def chosen(params):
  def logps(group, k):
    logp = distributions(params, group, k)
    return np.take_along_axis(logp, group.completions[k][:, None], -1)[:, 0]

  return logps


def both(measure):
  """measure(log policy, log reference) of every token."""
  return lambda group, k: measure(
    distributions(POLICY, group, k), distributions(REFERENCE, group, k)
  )


def to_the_middle(p, r):
  middle = np.log((np.exp(p) + np.exp(r)) / 2)
  return (kl(p, middle) + kl(r, middle)) / 2


def test_statistics_and_values(groups):
  """Everything at once; the value model has weights of its own."""
  params = {"policy": {"top": POLICY}, "value": {"top": VALUE, "head": HEAD}}
  needs = (
    "reference_logps token_kl:forward entropy log_collision contrast_logps "
    "values"
  )
  x = scored("tdpo1", needs, tiny.pack(groups), params)
  check(x.policy_logps, groups, chosen(POLICY))
  check(x.reference_logps, groups, chosen(REFERENCE))
  check(x.token_kl, groups, both(lambda p, r: kl(r, p)))
  check(x.entropy, groups, both(lambda p, r: -np.sum(np.exp(p) * p, -1)))
  squares = lambda p, r: np.log(np.sum(np.exp(2 * p), axis=-1))
  check(x.log_collision, groups, both(squares))
  check(x.contrast_logps, groups, best_other)
  value = lambda group, k: states(VALUE, group, k)[:-1] @ KERNEL + 0.3
  check(x.values, groups, value)
  # V(x): the same for all completions of a prompt.
  np.testing.assert_allclose(x.values[:, 0, 0], x.values[:, 1, 0], rtol=1e-5)


@pytest.mark.parametrize(
  "kind, measure", [("reverse", kl), ("js", to_the_middle)]
)
def test_other_divergences(kind, measure, groups):
  params = {"policy": {"top": POLICY}}
  x = scored("tdpo1", f"token_kl:{kind}", tiny.pack(groups), params)
  check(x.token_kl, groups, both(measure))
  assert x.reference_logps is None and x.entropy is None


def test_a_cached_column_is_taken_as_it_is(groups):
  """Also beside a KL to the live reference."""
  column = lambda group: [10.0 + 0.5 * c for c in group.completions]
  batch = tiny.pack(groups, columns={"reference_logps": column})
  needs = "reference_logps token_kl:forward"
  x = scored("tdpo1", needs, batch, {"policy": {"top": POLICY}})
  check(x.reference_logps, groups, lambda g, k: column(g)[k])
  check(x.token_kl, groups, both(lambda p, r: kl(r, p)))


def test_scores_of_every_token(groups):
  params = {"policy": {"top": POLICY, "reward_head": HEAD}}
  x = scored("rm_token", "token_scores", tiny.pack(groups), params)
  score = lambda group, k: states(POLICY, group, k)[1:] @ KERNEL + 0.3
  check(x.token_scores, groups, score)
  assert x.policy_logps is None and x.scores is None
