"""Masked sums, safe scalar maths, and what a loss may rely on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax import ops
from xpo_jax.types import Feedback, LossInputs

NAN = float("nan")
VALUES = jnp.asarray([[1.0, 2, 3, NAN], [4, math.inf, -math.inf, 9]])
MASK = jnp.asarray([[True, True, True, False], [True, False, False, False]])


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_reductions_of_the_specification():
  """methods.md 0.3: R_tok 2.5 and R_seq 3.0."""
  assert ops.masked_mean(VALUES, MASK) == (1 + 2 + 3 + 4) / 4
  means = ops.sequence_mean(VALUES, MASK)
  np.testing.assert_array_equal(means, [(1 + 2 + 3) / 3, 4])
  assert jnp.mean(means) == 3.0
  np.testing.assert_array_equal(ops.sequence_sum(VALUES, MASK), [6, 4])
  assert ops.masked_sum(VALUES, MASK, axis=(0, 1)) == 10
  np.testing.assert_array_equal(ops.sequence_length(MASK), [3, 1])


def test_an_empty_mask_gives_zero():
  none = jnp.zeros_like(MASK)
  assert ops.masked_mean(VALUES, none) == 0
  np.testing.assert_array_equal(ops.sequence_mean(VALUES, none), [0, 0])
  np.testing.assert_array_equal(ops.sequence_length(none), [1, 1])


def test_masked_entries_get_no_gradient():
  grad = jax.grad(lambda x: jnp.sum(ops.sequence_mean(x, MASK)))(VALUES)
  third = np.float32(1 / 3)
  np.testing.assert_allclose(grad, [[third, third, third, 0], [1, 0, 0, 0]])
  grad = jax.grad(lambda x: ops.masked_mean(x, MASK))(VALUES)
  np.testing.assert_array_equal(grad, MASK / 4)


def test_shapes_must_agree():
  with pytest.raises(AssertionError):
    ops.masked_sum(VALUES, MASK[:, :3])


def test_dtypes_never_fall_below_float32(x64):
  for given, kept in (
    (jnp.bfloat16, jnp.float32),
    (jnp.float16, jnp.float32),
    (jnp.float32, jnp.float32),
    (jnp.float64, jnp.float64),
  ):
    x = jnp.ones((2, 4), given)
    for out in (
      ops.at_least_f32(x),
      ops.frozen(x),
      ops.sequence_sum(x, MASK),
      ops.sequence_mean(x, MASK),
      ops.masked_mean(x, MASK),
      ops.logratio(x, x, MASK),
    ):
      assert out.dtype == kept


def test_bfloat16_sums_are_taken_in_float32():
  x = jnp.ones((1, 4096), jnp.bfloat16)  # bfloat16 counts to 256 only
  assert ops.sequence_sum(x, jnp.ones(x.shape, bool)) == 4096


def test_logratio():
  policy = jnp.asarray([[-1.0, -2.0, NAN]])
  reference = jnp.asarray([[-1.5, -4.0, NAN]])
  mask = jnp.asarray([[True, True, False]])
  assert ops.logratio(policy, reference, mask) == 0.5 + 2.0
  grads = jax.grad(
    lambda p, r: jnp.sum(ops.logratio(p, r, mask)), argnums=(0, 1)
  )(policy, reference)
  np.testing.assert_array_equal(grads, [[[1, 1, 0]], [[0, 0, 0]]])


def test_clipped_exp():
  x = jnp.asarray([-1e4, -20.0, 0.5, 20.0, 1e4])
  want = [math.exp(v) for v in (-20, -20, 0.5, 20, 20)]
  np.testing.assert_allclose(ops.clipped_exp(x), want, rtol=1e-6)
  slope = jax.vmap(jax.grad(ops.clipped_exp))(x)
  np.testing.assert_allclose(slope[2], math.exp(0.5), rtol=1e-6)
  np.testing.assert_array_equal(slope[jnp.asarray([0, 4])], 0)
  wide = ops.clipped_exp(jnp.asarray(1e4), ops.WIDE_EXPONENT_LIMIT)
  np.testing.assert_allclose(wide, math.exp(80), rtol=1e-5)


def test_log1mexp_values(x64):
  a = [-1e-6, -0.3, -math.log(2), -1.0, -50.0]
  want = [
    -13.8155110580,
    math.log(1 - math.exp(-0.3)),
    math.log(0.5),
    math.log(1 - math.exp(-1.0)),
    -math.exp(-50.0),
  ]
  np.testing.assert_allclose(ops.log1mexp(jnp.asarray(a)), want, rtol=1e-10)


def test_log1mexp_in_float32():
  a = jnp.asarray([-1e-6, -50.0], jnp.float32)
  want = [math.log(-math.expm1(float(a[0]))), -math.exp(-50.0)]
  np.testing.assert_allclose(ops.log1mexp(a), want, rtol=1e-6)
  assert want[1] == pytest.approx(-1.9e-22, rel=0.02)


def test_log1mexp_gradient_is_finite_on_both_branches(x64):
  a = np.array([-1e-17, -1e-8, -1e-3, -0.69, -0.70, -5.0, -50.0, -800.0])
  grad = jax.vmap(jax.grad(ops.log1mexp))(jnp.asarray(a))
  want = [-1 / math.expm1(min(-v, 700.0)) for v in a]  # -e^a / (1 - e^a)
  np.testing.assert_allclose(grad, want, rtol=1e-6, atol=1e-300)


def test_softplus(x64):
  x = jnp.asarray([-1e4, -2.0, 0.0, 3.0, 1e4])
  want = [
    0,
    math.log1p(math.exp(-2)),
    math.log(2),
    math.log1p(math.exp(3)),
    1e4,
  ]
  np.testing.assert_allclose(ops.softplus(x), want, rtol=1e-14)


def test_preference_probability():
  feedback = jnp.asarray([[0.7, 0.3], [0.2, 0.8]])
  np.testing.assert_array_equal(
    ops.preference_probability(feedback, True), feedback[:, 0]
  )
  np.testing.assert_array_equal(
    ops.preference_probability(feedback, False), [1, 1]
  )


def test_reward_and_pair_metrics():
  rewards = jnp.asarray([[2.0, -1.0], [0.5, 0.5]])
  logps = jnp.asarray(
    [[[-1.0, -2.0], [-3.0, NAN]], [[-4.0, NAN], [-5.0, -6.0]]]
  )
  mask = jnp.isfinite(logps)

  def metrics(scale):
    return ops.pair_metrics(scale * rewards, scale * logps, mask)

  want = {
    "rewards/chosen": [2, 0.5],
    "rewards/rejected": [-1, 0.5],
    "rewards/margin": [3, 0],
    "rewards/accuracy": [1, 0],  # strict: a tie is no win
    "logps/chosen": [-3, -4],
    "logps/rejected": [-3, -11],
  }
  got, slopes = metrics(1.0), jax.jacobian(metrics)(1.0)
  assert got.keys() == want.keys()
  for key in want:
    np.testing.assert_array_equal(got[key], want[key], err_msg=key)
    assert not slopes[key].any()


def test_class_mean_averages_to_the_mean_of_the_class():
  x = jnp.asarray([1.0, 3.0, 100.0, 7.0])
  member = jnp.asarray([True, True, False, False])
  live = jnp.asarray([True, True, True, False])
  spread = ops.class_mean(x, member, live)
  assert jnp.mean(spread[:3]) == pytest.approx((1 + 3) / 2)
  nobody = jnp.zeros(4, bool)
  np.testing.assert_array_equal(ops.class_mean(x, nobody, live), np.zeros(4))


def test_per_prompt_weighs_numerators_and_drops_empty_slots():
  loss = jnp.asarray([1.0, 2.0, NAN])
  out = ops.per_prompt(loss, jnp.asarray([3.0, 0.5, 0.0]), {"m": loss})
  np.testing.assert_array_equal(out.loss, [3, 1, 0])
  np.testing.assert_array_equal(out.weight, [1, 1, 0])
  assert out.metrics["m"] is loss and out.terms == {} and out.state is None


def test_settled_inputs_are_clean_wide_and_frozen():
  mask = jnp.asarray([[[True, False]], [[False, False]]])
  x = LossInputs(
    policy_logps=jnp.asarray([[[-1.0, NAN]], [[NAN, NAN]]], jnp.bfloat16),
    reference_logps=jnp.asarray([[[-2.0, math.inf]], [[NAN, NAN]]]),
    scores=jnp.asarray([[0.5], [NAN]]),
    completion_mask=mask,
    present=jnp.asarray([[True], [False]]),
    ended=jnp.asarray([[True], [False]]),
    feedback=jnp.asarray([[1.0], [NAN]]),
    weight=jnp.asarray([1.0, 0.0]),
    state={"count": jnp.asarray(3), "mean": jnp.asarray(0.25)},
    noise=jax.random.key(0),
    feedback_kind=Feedback.SCORE,
    train=False,
  )
  y = ops.settled(x)
  assert y.policy_logps.dtype == jnp.float32
  np.testing.assert_array_equal(y.policy_logps, [[[-1, 0]], [[0, 0]]])
  np.testing.assert_array_equal(y.reference_logps, [[[-2, 0]], [[0, 0]]])
  np.testing.assert_array_equal(y.scores, [[0.5], [0]])
  np.testing.assert_array_equal(y.feedback, [[1], [0]])
  for name in ("completion_mask", "present", "ended", "noise"):
    assert getattr(y, name) is getattr(x, name)
  assert (y.feedback_kind, y.train, y.values) == (Feedback.SCORE, False, None)
  assert y.state["count"].dtype == x.state["count"].dtype

  def everything(fields, mean):
    state = {**x.state, "mean": mean}
    y = ops.settled(x.replace(**fields, state=state))
    return sum(jnp.sum(getattr(y, name)) for name in fields) + y.state["mean"]

  names = ("policy_logps", "scores", "reference_logps", "feedback", "weight")
  fields = {name: getattr(x, name) for name in names}
  grads, mean_grad = jax.grad(everything, (0, 1))(fields, x.state["mean"])
  np.testing.assert_array_equal(grads["policy_logps"], mask)
  np.testing.assert_array_equal(grads["scores"], x.present)
  assert mean_grad == 0
  for name in ("reference_logps", "feedback", "weight"):
    assert not grads[name].any(), name
