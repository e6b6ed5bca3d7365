"""The jitted train and evaluation steps, with exact microbatches.

A batch has a leading microbatch axis n on every array. Of a single microbatch
the loss is differentiated as it is. Of several, methods that are additive over
prompts accumulate numerators, denominators and gradients of the numerator, and
divide once. Methods that couple the batch (or have further terms with their own
denominators) take two passes: all microbatches are scored without gradient, the
loss and its cotangents are taken on the global LossInputs, and each microbatch
is then run backward with its cotangent. So 1 x 32 = 4 x 8 = 8 devices for every
method.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp
import optax

from xpo_jax import trio
from xpo_jax.methods.registry import Method
from xpo_jax.models.model import Model
from xpo_jax.types import (
  LIVE_INPUTS,
  Array,
  Batch,
  LossInputs,
  LossOutput,
  PyTree,
  TrainState,
)


@dataclasses.dataclass(frozen=True)
class Objective:
  """A method with its settings, over one model."""

  model: Model
  method: Method
  settings: dict
  temperature: float = 1.0  # of the samples that it learns from

  @property
  def draws(self) -> bool:
    return "noise" in self.method.needs(self.settings)

  @property
  def two_pass(self) -> bool:
    return self.method.couples_batch(self.settings) or self.draws

  def score(self, params, frozen, batch, first, key, train) -> LossInputs:
    """`first`: number of the microbatch's first slot in the global batch."""
    return trio.score(
      self.model,
      self.method,
      self.settings,
      params,
      frozen,
      batch,
      train=train,
      noise=(key, first),
      temperature=self.temperature,
    )

  def loss(self, x: LossInputs, state=None, key=None) -> LossOutput:
    """With the method's running statistics and, if it draws, its key."""
    x = x.replace(state=state, noise=key if self.draws else None)
    return self.method.loss(x, **self.settings)


def total(output: LossOutput) -> Array:
  """sum(loss) / sum(weight) plus the terms: what is reported and minimised."""
  value = jnp.sum(output.loss) / jnp.maximum(jnp.sum(output.weight), 1e-8)
  for numerator, denominator in output.terms.values():
    value += jnp.sum(numerator) / jnp.maximum(jnp.sum(denominator), 1e-8)
  return value


def metric_means(output: LossOutput, weight: Array) -> dict[str, Array]:
  """Means over prompts of weight > 0."""
  live = weight > 0
  prompts = jnp.maximum(jnp.sum(live), 1)
  return {
    k: jnp.sum(jnp.where(live, v, 0.0)) / prompts
    for k, v in output.metrics.items()
  }


def numbered(batches: Batch) -> tuple[Batch, Array]:
  """Microbatches with the global number of their first slot, to scan over."""
  count, *sizes = batches.completion_mask.shape
  return batches, jnp.arange(count) * math.prod(sizes)


def flatten(x: LossInputs) -> LossInputs:
  """[n, b, ...] -> [n * b, ...], the batch's prompt order."""
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), x)


def _live(x: LossInputs) -> dict[str, Array]:
  named = {name: getattr(x, name) for name in LIVE_INPUTS}
  return {name: v for name, v in named.items() if v is not None}


def _whole(objective, params, frozen, batches, method_state, key):
  """One microbatch is the batch: its loss is differentiated as it is."""
  batch = jax.tree.map(lambda a: a[0], batches)

  def whole(params):
    x = objective.score(params, frozen, batch, 0, key, True)
    output = objective.loss(x, method_state, key)
    return total(output), (output, metric_means(output, x.weight))

  (loss, (output, metrics)), grads = jax.value_and_grad(whole, has_aux=True)(
    params
  )
  return grads, loss, metrics, output.state


def _one_pass(objective, params, frozen, batches, method_state, key):
  """Accumulates gradients of numerators; numbers come from the whole batch."""

  def numerator(params, batch):
    x = objective.score(params, frozen, *batch, key, True)
    return jnp.sum(objective.loss(x, method_state).loss), x

  def add(grads, batch):
    more, x = jax.grad(numerator, has_aux=True)(params, batch)
    return jax.tree.map(jnp.add, grads, more), x

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, inputs = lax.scan(add, zeros, numbered(batches))
  # A mean over a class of prompts is no sum of its microbatches' means.
  x = flatten(inputs)
  output = objective.loss(x, method_state)
  weight = jnp.maximum(jnp.sum(output.weight), 1e-8)
  grads = jax.tree.map(lambda g: g / weight, grads)
  return grads, total(output), metric_means(output, x.weight), output.state


def _two_pass(objective, params, frozen, batches, method_state, key):
  """Global loss and cotangents first, then each microbatch's backward."""
  batches = numbered(batches)
  score = lambda p, batch: objective.score(p, frozen, *batch, key, True)
  _, inputs = lax.scan(
    lambda _, batch: (None, score(params, batch)), None, batches
  )
  count, x = inputs.completion_mask.shape[0], flatten(inputs)

  def whole(live):
    output = objective.loss(x.replace(**live), method_state, key)
    return total(output), output

  cotangents, output = jax.grad(whole, has_aux=True)(_live(x))
  split = lambda a: a.reshape(count, -1, *a.shape[1:])

  def back(grads, xs):
    batch, cotangent = xs
    _, pull = jax.vjp(lambda p: _live(score(p, batch)), params)
    return jax.tree.map(jnp.add, grads, pull(cotangent)[0]), None

  grads, _ = lax.scan(
    back,
    jax.tree.map(jnp.zeros_like, params),
    (batches, jax.tree.map(split, cotangents)),
  )
  metrics = metric_means(output, x.weight)
  return grads, total(output), metrics, output.state


def has_terms(objective, params, frozen, batches, method_state) -> bool:
  """Whether the loss has terms with denominators of their own (static)."""
  first = jax.tree.map(lambda a: a[0], batches)

  def terms():
    key = jax.random.key(0)
    x = objective.score(params, frozen, first, 0, key, True)
    return objective.loss(x, method_state, key).terms

  return bool(jax.eval_shape(terms))


def _gradients(objective, params, frozen, batches, method_state, key):
  """(gradients, loss, metrics, new method state), in as few passes as can be.

  A single microbatch needs no second pass, whatever the method.
  """
  everything = objective, params, frozen, batches, method_state
  if batches.weight.shape[0] == 1:
    return _whole(*everything, key)
  if objective.two_pass or has_terms(*everything):
    return _two_pass(*everything, key)
  return _one_pass(*everything, key)


def _updates(state: TrainState) -> Array:
  """Updates made so far: a skipped step is none, the schedule waits."""
  counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")
  return counts[-1][1] if counts else state.step


def make_train_step(
  objective: Objective,
  tx: optax.GradientTransformation,
  schedule,
  auxiliaries: Sequence[tuple[Objective, float]] = (),
  l1: Callable[[PyTree], Array] | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
  """(state, frozen, batch [n, ...], *more) -> (state, metrics); jit, donate.

  The loss is that of `objective` plus coefficient x loss of every auxiliary
  on its own batch out of `more`, in their order; each is a mean with its own
  denominator, and "loss/main", "loss/aux" report them apart. `l1` of the
  parameters, if given, is added once a step and reported as "loss/l1". A step
  whose loss or gradient is not finite leaves parameters, moments and method
  state bitwise unchanged and counts in `state.skipped`.
  """

  def step(state: TrainState, frozen, batches, *more):
    key = jax.random.fold_in(state.key, state.step)
    grads, loss, metrics, method_state = _gradients(
      objective, state.params, frozen, batches, state.method_state, key
    )
    if auxiliaries or l1:
      metrics["loss/main"] = loss
    pairs = zip(auxiliaries, more, strict=True)
    for number, ((extra, coef), batch) in enumerate(pairs, 1):
      name = "aux" if len(auxiliaries) == 1 else f"aux{number}"
      own = jax.random.fold_in(key, number)
      added, value, _, _ = _gradients(
        extra, state.params, frozen, batch, None, own
      )
      grads = jax.tree.map(lambda g, a, c=coef: g + c * a, grads, added)
      loss += coef * value
      metrics[f"loss/{name}"] = value
    if l1:
      value, added = jax.value_and_grad(l1)(state.params)
      grads = jax.tree.map(jnp.add, grads, added)
      loss += value
      metrics["loss/l1"] = value
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    safe = jax.tree.map(lambda g: jnp.where(finite, g, 0.0), grads)
    updates, opt_state = tx.update(safe, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if method_state is None:
      method_state = state.method_state
    keep = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(finite, a, b), new, old
    )
    new = state.replace(
      step=state.step + 1,
      params=keep(params, state.params),
      opt_state=keep(opt_state, state.opt_state),
      method_state=keep(method_state, state.method_state),
      skipped=jnp.where(finite, 0, state.skipped + 1),
    )
    metrics = metrics | {
      "loss": loss,
      "optimizer/gradient_norm": norm,
      "optimizer/learning_rate": schedule(_updates(state)),
      "optimizer/skipped": new.skipped,
    }
    return new, metrics

  return step


def make_evaluate(objective: Objective) -> Callable:
  """(params, method_state, frozen, batch [n, ...]) -> numbers by prompt.

  Returns {"loss", "weight", every metric: [B]}; the held-out loss is
  sum(loss) / sum(weight), a metric the mean over prompts of Batch.weight > 0. A
  term adds "NAME:sum" and "NAME:count", to be divided likewise. Batch-coupled
  statistics are those of each batch, and state never moves.
  """

  def evaluate(params, method_state, frozen, batches) -> dict[str, Array]:
    key = jax.random.key(0)

    def one(_, batch):
      return None, objective.score(params, frozen, *batch, key, False)

    _, inputs = lax.scan(one, None, numbered(batches))
    output = objective.loss(flatten(inputs), method_state, key)
    numbers = output.metrics | {"loss": output.loss, "weight": output.weight}
    for name, (numerator, denominator) in output.terms.items():
      numbers |= {f"{name}:sum": numerator, f"{name}:count": denominator}
    return numbers

  return evaluate
