"""config.optimizer -> an optax transformation and its schedule."""

import jax
import optax

from xpo_jax.errors import usage_error

OPTIMIZERS = ("adamw", "sgd", "rmsprop", "lion", "adafactor")
SCHEDULES = ("cosine", "linear", "constant")


def make_schedule(config, steps: int) -> optax.Schedule:
  """Linear warm-up, then cosine or linear decay to 0, or constant."""
  peak, warmup = config.learning_rate, config.warmup_steps
  rest = max(1, steps - warmup)
  after = {
    "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    "constant": lambda: optax.constant_schedule(peak),
  }
  if config.schedule not in after:
    raise usage_error(
      f"optimizer.schedule={config.schedule!r}: choose {', '.join(SCHEDULES)}"
    )
  if not warmup:
    return after[config.schedule]()
  # The first step already moves: step 0 has peak / warmup.
  ramp = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
  return optax.join_schedules([ramp, after[config.schedule]()], [warmup])


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
  """Clip by global norm, then the named optimizer.

  Weight decay spares vectors (norms, biases): optimizers see matrices only.
  """
  schedule = make_schedule(config, steps)
  decay = dict(weight_decay=config.weight_decay, mask=_decayed)
  make = {
    "adamw": lambda: optax.adamw(schedule, b1=config.b1, b2=config.b2, **decay),
    "lion": lambda: optax.lion(schedule, b1=config.b1, b2=config.b2, **decay),
    "sgd": lambda: optax.sgd(schedule),
    "rmsprop": lambda: optax.rmsprop(schedule, decay=0.99),
    "adafactor": lambda: optax.adafactor(schedule),
  }
  if config.name not in make:
    raise usage_error(
      f"optimizer.name={config.name!r}: choose {', '.join(OPTIMIZERS)}"
    )
  if config.weight_decay and config.name not in ("adamw", "lion"):
    raise usage_error(
      f"optimizer.weight_decay={config.weight_decay} is not used by "
      f"{config.name}; set it to 0 or choose adamw or lion"
    )
  tx = make[config.name]()
  if config.grad_clip:
    tx = optax.chain(optax.clip_by_global_norm(config.grad_clip), tx)
  return tx


def _decayed(params):
  """True for kernels. Stacked norms are [N, D], so names decide, not ranks."""

  def rule(path, leaf):
    names = {getattr(p, "key", None) for p in path}
    vector = any(str(n).endswith(("scale", "bias")) for n in names)
    return not vector and leaf.ndim > 1

  return jax.tree_util.tree_map_with_path(rule, params)
