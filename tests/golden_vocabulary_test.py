"""Statistics of logits against numbers of public reference implementations.

`tests/golden/vocabulary.json`: logits of a policy and a reference [N, V],
targets [N], and what the named functions made of them in float64 (repository,
version, date and command stand beside each).
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.models import vocabulary

FILE = pathlib.Path(__file__).parent / "golden" / "vocabulary.json"
GOLDEN = json.loads(FILE.read_text())
WANT = {k: np.asarray(v["value"]) for k, v in GOLDEN["expect"].items()}
POLICY, REFERENCE = (
  np.asarray(GOLDEN[k], np.float32)
  for k in ("policy_logits", "reference_logits")
)
TARGETS = np.asarray(GOLDEN["targets"], np.int32)


def same(got, want, what):
  np.testing.assert_allclose(got, want, 1e-5, 1e-6, err_msg=what)


def test_statistics():
  rows = lambda logits: jnp.asarray(logits)[None]  # states of width V
  kernel = jnp.eye(POLICY.shape[-1])
  found = vocabulary.statistics(
    rows(POLICY),
    kernel,
    rows(TARGETS),
    vocabulary.STATISTICS | {"reference_logps"},
    reference=(rows(REFERENCE), kernel),
    uniform=jnp.zeros((1, len(TARGETS))),
    alternatives=1,
  )
  found = {name: np.asarray(value[0]) for name, value in found.items()}
  for name in found.keys() & WANT.keys():
    same(found[name], WANT[name], name)
  assert len(found.keys() & WANT.keys()) == 5
  surprise = found["logps"] - found["log_collision"]
  weight = np.minimum(np.exp(2 * surprise), 1.0)  # WPO clamps it
  same(weight, WANT["weight"], "weight")
  assert (weight < 1).sum() >= 3
  gap = found["logps"] - found["contrast_logps"]
  same(np.logaddexp(0.0, gap), WANT["penalty"], "penalty")


def test_chances_of_the_alternatives():
  steps = 1000
  logp = jax.nn.log_softmax(jnp.asarray(POLICY))
  spread = lambda a: jnp.repeat(a[:, None], steps, axis=1)
  uniform = (jnp.arange(steps) + 0.5) / steps
  drawn = vocabulary.contrast(
    spread(logp), spread(TARGETS), jnp.tile(uniform, (len(TARGETS), 1)), 3
  )
  share = jax.nn.one_hot(drawn, POLICY.shape[-1]).mean(1)
  np.testing.assert_allclose(share, WANT["chances"], atol=1.01 / steps)
