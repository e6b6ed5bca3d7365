"""A tabular policy over a few one-token completions, with exact gradients.

A `Table` lists every outcome of a draw of data (all ordered pairs, all lists,
all tuples of samples) with its probability as the prompt's weight, so the loss
of the batch is the expected loss: no sampling, no noise. `settle` descends
until no slope is left; the tests compare where it stopped with a closed form.

What a comparison may be off by: a stopped run has slopes below SLOPE = 1e-12 in
the logits (of the natural gradient where that is followed). In all cases here
the curvature, but for the free constant of the logits, is above 1e-4, so logits
and log-probs are within 1e-8 of the fixed point: TOLERANCE. Where an arm gets
rarer than that allows, probabilities are compared.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods.outputs import QUICK
from tests.optima.tables import REFERENCE, Table
from xpo_jax.methods import registry
from xpo_jax.types import LossInputs

SLOPE = 1e-12
DECAYED = 2_000
TOLERANCE = 1e-8

Params = dict[str, jax.Array]


def observe(
  table: Table, log_policy: jax.Array, reference=None, lengths=1, **fields
) -> LossInputs:
  """LossInputs of the whole table.

  Args:
    table: the outcomes.
    log_policy: [V].
    reference: [V] probabilities, if the method reads a reference.
    lengths: tokens of each arm [V] or of all; they share its log-prob evenly.
    **fields: of LossInputs, on the table: [B], [B, K], [B, K, T].
  """
  arms = jnp.asarray(table.arms)
  tokens = np.broadcast_to(lengths, log_policy.shape)[table.arms][..., None]
  mask = np.arange(tokens.max()) < tokens
  spread = lambda table: table[arms][..., None] * (mask / tokens)
  if reference is not None:
    fields["reference_logps"] = spread(jnp.log(jnp.asarray(reference)))
  fields = {
    "policy_logps": spread(log_policy),
    "feedback": jnp.asarray(table.feedback),
    "weight": jnp.asarray(table.weight),
    **fields,
  }
  everywhere = jnp.ones(arms.shape, bool)
  return LossInputs(
    **fields,
    completion_mask=jnp.asarray(mask),
    present=everywhere,
    ended=everywhere,
    feedback_kind=table.kind,
  )


def rollout(table: Table, log_policy, reference, **fields) -> LossInputs:
  """`observe`, with samples of the policy itself: weights and sampler_logps."""
  sampler = lax.stop_gradient(log_policy)[jnp.asarray(table.arms)]
  fields = {
    "sampler_logps": sampler[..., None],
    "weight": jnp.exp(jnp.sum(sampler, axis=-1)),
    **fields,
  }
  return observe(table, log_policy, reference, **fields)


def expected(name: str, x: LossInputs, **keywords) -> jax.Array:
  """The expected loss of a draw: what a step differentiates, times its B."""
  method = registry.get(name)
  if method.prepare is not None:
    x = method.prepare(x, **method.settings(keywords))
  return inputs.total(method.loss(x, **keywords)) * jnp.sum(x.weight > 0)


def settle(
  loss: Callable[[Params], jax.Array],
  start: Params,
  *,
  rate: float,
  decay: float = 1.0,
  natural: bool = False,
  limit: int = 20_000,
) -> dict[str, np.ndarray]:
  """Gradient descent until every slope is below SLOPE.

  Args:
    loss: of the parameters; what it samples is frozen (`stop_gradient`).
    start: "policy" are logits; anything else is a parameter too.
    rate: step size.
    decay: of the step size, a step; below 1 there are DECAYED steps.
    natural: follow the natural gradient of the logits: slope / probability.
    limit: of the steps; a run that needs more fails.

  Returns:
    where it stopped; "policy" as log-probs.
  """

  def slopes(params):
    found = jax.grad(loss)(params)
    if natural:
      found["policy"] = found["policy"] / jax.nn.softmax(params["policy"])
    return found

  def body(carry):
    params, step, _ = carry
    found = slopes(params)
    size = rate * decay**step
    params = jax.tree.map(lambda p, g: p - size * g, params, found)
    steepest = jnp.max(jnp.stack([abs(g).max() for g in found.values()]))
    return params, step + 1, steepest

  def more(carry):
    _, step, steepest = carry
    if decay < 1:
      return step < DECAYED
    return (step < limit) & (steepest > SLOPE)

  run = lambda p: lax.while_loop(more, body, (p, 0, jnp.inf))
  params, steps, steepest = compiled(run)(start)
  assert decay < 1 or steepest <= SLOPE, f"slope {steepest} after {steps} steps"
  return log_probs(params)


def follow(
  loss: Callable[[Params], jax.Array],
  start: Params,
  *,
  rate: float,
  steps: tuple[int, ...],
) -> list[dict[str, np.ndarray]]:
  """Gradient descent, seen after these numbers of steps."""

  def body(_, params):
    return jax.tree.map(
      lambda p, g: p - rate * g, params, jax.grad(loss)(params)
    )

  def run(params):
    seen, done = [], 0
    for step in steps:
      params = lax.fori_loop(done, step, body, params)
      done = step
      seen.append(params)
    return seen

  return [log_probs(params) for params in compiled(run)(start)]


def compiled(run):
  return jax.jit(run, compiler_options=QUICK)


def log_probs(params: Params) -> dict[str, np.ndarray]:
  if "policy" in params:
    params = params | {"policy": jax.nn.log_softmax(params["policy"])}
  return {k: np.asarray(v) for k, v in params.items()}


def logits(start=REFERENCE) -> Params:
  return {"policy": jnp.log(jnp.asarray(start))}


def objective(
  name: str,
  table: Table,
  *,
  reference=REFERENCE,
  fields=lambda log_policy: {},
  **keywords,
) -> Callable[[Params], jax.Array]:
  """The expected loss on a table, of the policy's logits.

  Args:
    name: the method.
    table: the data.
    reference: [V], where the method reads one.
    fields: more of LossInputs (and `lengths`) from the log-probs.
    **keywords: of the method.
  """
  reads = "reference_logps" in registry.get(name).needs(keywords)

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    anchor = reference if reads else None
    x = observe(table, log_policy, anchor, **fields(log_policy))
    return expected(name, x, **keywords)

  return loss


def optimum(
  name: str,
  table: Table,
  *,
  rate: float,
  decay: float = 1.0,
  reference=REFERENCE,
  start=None,
  **options,
) -> np.ndarray:
  """[V]: log-probs where an offline method stops on a table.

  Args:
    name: the method.
    table: the data.
    rate, decay: of `settle`.
    reference: [V]; also where the policy starts, unless `start` is given.
    start: [V] probabilities.
    **options: of `objective`.
  """
  loss = objective(name, table, reference=reference, **options)
  begin = logits(reference if start is None else start)
  return settle(loss, begin, rate=rate, decay=decay)["policy"]


def near(got, want, atol=TOLERANCE):
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)
