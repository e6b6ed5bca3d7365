"""Policy, reference and reward over one model: Batch -> LossInputs.

Nothing that the method does not need is computed.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.methods.registry import Method
from xpo_jax.models import heads, vocabulary
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.types import Array, Batch, LossInputs, PyTree


@struct.dataclass
class Frozen:
  """What a step reads and never changes."""

  trunk: PyTree = struct.field(default_factory=dict)  # {} = nothing frozen
  top: PyTree | None = None  # base weights under LoRA
  reference: PyTree | None = None  # live reference's top (without LoRA)


def policy_weights(params: PyTree, frozen: Frozen) -> Weights:
  """Trainable parameters {"top" | "lora"} + frozen parts -> Weights."""
  if "lora" in params:
    return Weights(frozen.trunk, frozen.top, params["lora"])
  return Weights(frozen.trunk, params["top"])


def reference_weights(params: PyTree, frozen: Frozen) -> Weights:
  """The reference; under LoRA it is the base, without a second copy."""
  if "lora" in params:
    return Weights(frozen.trunk, frozen.top)
  return Weights(frozen.trunk, frozen.reference)


def places(batch: Batch) -> Places:
  return Places(batch.positions, batch.group, batch.branch)


def scatter(values: Array, batch: Batch) -> Array:
  """Row scalars [R, M] -> [B, K, T]; padding is dropped, the rest is 0."""
  shape = batch.completion_mask.shape
  flat = jnp.zeros((batch.completion_mask.size,), values.dtype)
  slots = batch.target_slot.reshape(-1)
  flat = flat.at[slots].set(values.reshape(-1), mode="drop")
  return flat.reshape(shape)


def token_logps(
  model: Model,
  weights: Weights,
  batch: Batch,
  head_is_frozen: bool,
  temperature: float = 1.0,
) -> Array:
  """Log-probs of every completion token, float32 [B, K, T]."""
  states = lm.hidden(model, weights, batch.tokens, places(batch), batch.trunk)
  return scatter(
    lm.logps(
      model,
      weights,
      states,
      batch.target_place,
      batch.target_token,
      head_is_frozen,
      temperature,
    ),
    batch,
  )


def token_scores(
  model: Model, weights: Weights, head: PyTree, batch: Batch
) -> Array:
  """The reward head's value after every completion token, [B, K, T]."""
  states = lm.hidden(model, weights, batch.tokens, places(batch), batch.trunk)
  return scatter(
    heads.reward(head, heads.gather(states, batch.token_place)), batch
  )


def last_token(values: Array, mask: Array) -> Array:
  """[B, K, T] -> [B, K]: the value at the last token with mask True, else 0."""
  steps = jnp.arange(mask.shape[-1])
  last = jnp.max(jnp.where(mask, steps, -1), axis=-1)
  at = jnp.take_along_axis(values, jnp.maximum(last, 0)[..., None], axis=-1)
  return jnp.where(last >= 0, at[..., 0], 0.0)


def score(
  model: Model,
  method: Method,
  settings: dict,
  params: PyTree,
  frozen: Frozen,
  batch: Batch,
  *,
  train: bool = True,
  noise: tuple[Array, Array] | None = None,
  temperature: float = 1.0,
) -> LossInputs:
  """One microbatch -> what `method.needs(settings)` names, and no more.

  `reference_logps` come from the batch's column when it is cached there, else
  from the live reference.

  Args:
    model: sizes.
    method: whose needs are filled.
    settings: its keywords.
    params: {"policy": .., "value": ..}, trainable.
    frozen: what goes with them.
    batch: packed rows.
    train: for LossInputs.
    noise: (key, number of the batch's first flat slot) for contrast_logps;
      a token's noise depends on the key and its slot in the global batch only.
    temperature: of the distributions of policy and reference; that of the
      sampler for what it has drawn.
  """
  needs = method.needs(settings)
  policy = params["policy"]
  if model.trunk_blocks and batch.trunk is None:
    # Once for policy, reference and value.
    trunk = lm.trunk_states(model, frozen.trunk, batch.tokens, places(batch))
    batch = batch.replace(trunk=trunk)
  if method.trains_reward:
    filled = _reward_numbers(model, needs, policy, frozen, batch)
  else:
    filled = _policy_numbers(
      model, needs, settings, policy, frozen, batch, noise, temperature
    )
  if "values" in needs:
    filled["values"] = values(model, params["value"], frozen, batch)
  for name in ("sampler_logps", "old_values", "advantages", "token_feedback"):
    if name in needs:
      filled[name] = batch.columns.get(name)
  return LossInputs(
    policy_logps=filled.pop("policy_logps", None),
    completion_mask=batch.completion_mask,
    present=batch.present,
    ended=batch.ended,
    feedback=batch.feedback,
    weight=batch.weight,
    feedback_kind=batch.feedback_kind,
    train=train,
    **filled,
  )


def _reward_numbers(model, needs, policy, frozen, batch) -> dict[str, Array]:
  weights = policy_weights(policy, frozen)
  per_token = token_scores(model, weights, policy["reward_head"], batch)
  filled = {"token_scores": per_token}
  if "scores" in needs:
    filled["scores"] = last_token(per_token, batch.completion_mask)
  return {name: filled[name] for name in filled if name in needs}


def _policy_numbers(
  model, needs, settings, policy, frozen, batch, noise, temperature
) -> dict[str, Array]:
  """Log-probs and whole-vocabulary statistics of policy and reference."""
  weights = policy_weights(policy, frozen)
  column = batch.columns.get("reference_logps")
  live = "reference_logps" in needs and column is None
  wants = needs & vocabulary.STATISTICS
  compares = any(name.startswith("token_kl") for name in wants)
  reference = None
  if compares or live:
    base = reference_weights(lax.stop_gradient(policy), frozen)
    states = _target_states(model, base, batch)
    reference = (states, lm.head_kernel(model, base))
  if compares and live:  # out of the same logits
    wants |= {"reference_logps"}
  if wants:
    found = _statistics(
      model, wants, settings, weights, reference, batch, noise, temperature
    )
    filled = {name.split(":")[0]: x for name, x in found.items()}
    filled["policy_logps"] = filled.pop("logps")
  else:
    head_is_frozen = model.trunk_blocks > 0 or "lora" in policy
    logps = token_logps(model, weights, batch, head_is_frozen, temperature)
    filled = {"policy_logps": logps}
  if "reference_logps" in needs - wants:
    if live:
      logps = heads.token_logps(
        *reference,
        batch.target_token,
        kernel_is_frozen=True,
        cap=model.config.logit_cap,
        temperature=temperature,
      )
      column = scatter(logps, batch)
    filled["reference_logps"] = lax.stop_gradient(column)
  return filled


def _target_states(model, weights, batch) -> Array:
  """States [R, M, D] before every target."""
  states = lm.hidden(model, weights, batch.tokens, places(batch), batch.trunk)
  return heads.gather(states, batch.target_place)


def _statistics(
  model, wants, settings, weights, reference, batch, noise, temperature
):
  uniform = None
  if "contrast_logps" in wants:
    key, first = noise
    draw = lambda slot: jax.random.uniform(jax.random.fold_in(key, slot))
    slots = first + batch.target_slot
    uniform = jax.vmap(draw)(slots.reshape(-1)).reshape(slots.shape)
  found = vocabulary.statistics(
    _target_states(model, weights, batch),
    lm.head_kernel(model, weights),
    batch.target_token,
    wants,
    reference=reference,
    uniform=uniform,
    alternatives=int(settings.get("k", 1)),
    cap=model.config.logit_cap,
    temperature=temperature,
  )
  return {name: scatter(x, batch) for name, x in found.items()}


def values(model: Model, value: PyTree, frozen: Frozen, batch: Batch) -> Array:
  """The value head at the state BEFORE every token, [B, K, T].

  Its backbone is its own ({"top" | "lora", "head"}), the trunk is shared; the
  value of the prompt is values[:, :, 0].
  """
  weights = policy_weights(value, frozen)
  return scatter(
    heads.reward(value["head"], _target_states(model, weights, batch)), batch
  )
