"""Checks before step 1 that stop a wrong run, printed as a short table."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax import parallel, progress, trio
from xpo_jax.errors import numeric_error
from xpo_jax.models import model as lm
from xpo_jax.models.transformer import Places
from xpo_jax.rollout import sampler
from xpo_jax.types import TrainState

TOLERANCE = 1e-4  # float32, nats: the largest of all tokens
# bfloat16, nats: the mean of all tokens. On 428 tokens of SmolLM2-135M two
# right passes are 0.04 apart (0.3 at most); completions one position late make
# it 0.10, a prompt token that is not seen makes it 0.21.
LOOSE = 0.08


def run_checks(job, state: TrainState, batch, fresh: bool) -> None:
  """Prints the table; raises XpoError (70) if a row fails.

  Args:
    job: from `job.build`.
    state: the state that the run starts or resumes with.
    batch: the first batch, on the device.
    fresh: step 0 of a run whose reference is the policy's own start.
  """
  exact = job.objective.model.dtype == "float32"
  rows = _data_rows(job)
  if fresh and not job.config.reference.source:
    rows += _reference_rows(job, state, batch, exact)
  if not job.objective.method.trains_reward:
    rows.append(_sampler_row(job, state, exact))
  progress.print_checks(rows)
  failed = [row[0] for row in rows if not row[3]]
  if failed:
    raise numeric_error(
      f"checks before step 1 failed: {', '.join(failed)}; see the table above"
    )


def _data_rows(job):
  tokenizer, groups = job.tokenizer, job.train.groups
  end_ids = {
    int(c[-1])
    for g in groups
    for c, ended in zip(g.completions, g.ended, strict=True)
    if ended and len(c)
  }
  empty = sum(1 for g in groups if not any(len(c) for c in g.completions))
  cut = sum(
    1
    for g in groups
    if any(
      len(c) and not e for c, e in zip(g.completions, g.ended, strict=True)
    )
  )
  twice = 0
  once = 0
  for g in groups:
    for c, ended in zip(g.completions, g.ended, strict=True):
      if ended:
        once += 1
        twice += int(np.sum(np.isin(c, list(end_ids))) != 1)
  rows = [
    ("rows whose completions are all masked", empty, "0", empty == 0),
    ("completions ending in exactly one EOS", once - twice, once, not twice),
    ("rows with a truncated completion", f"{cut / len(groups):.1%}", "", True),
  ]
  bos = tokenizer.bos_id
  if bos is not None:
    # Some chat templates write another one before every later turn.
    starts = lambda p: int(np.argmin(np.append(p, bos - 1) == bos))
    wrong = sum(1 for g in groups if starts(g.prompt) != 1)
    rows.append(("prompts not begun by one BOS", wrong, "0", wrong == 0))
  return rows


def _gap_row(which: str, gap, mask, exact: bool):
  """The row on |differences| in nats of the tokens of mask."""
  gap = gap[mask]
  # No token at all is no gap; a NaN stays one, and fails.
  value = float(gap.max(initial=0.0) if exact else gap.sum() / max(1, gap.size))
  limit = TOLERANCE if exact else LOOSE
  name = f"{'' if exact else 'mean '}|{which}| log-prob"
  return (name, value, f"<= {limit:g}", value <= limit)


def _reference_rows(job, state, batch, exact):
  objective = job.objective
  if "reference_logps" not in objective.method.needs(objective.settings):
    return []

  @jax.jit
  def compare(params, frozen, batch):
    first = jax.tree.map(lambda a: a[0], batch)
    x = objective.score(params, frozen, first, 0, jax.random.key(0), False)
    gap = jnp.abs(x.policy_logps - x.reference_logps)
    output = objective.loss(x, state.method_state, jax.random.key(0))
    value = jnp.sum(output.loss) / jnp.maximum(jnp.sum(output.weight), 1.0)
    return gap, x.completion_mask, value, output.metrics

  gap, mask, loss, metrics = compare(state.params, job.frozen, batch)
  gap, mask = parallel.to_host(gap), parallel.to_host(mask)
  rows = [_gap_row("policy - reference", gap, mask, exact)]
  limit = TOLERANCE if exact else LOOSE / 8
  if objective.method.id == "dpo":  # others' rewards need not start at 0
    if _plain_dpo(objective.settings):
      off = abs(float(loss) - math.log(2))
      rows.append(("first loss", float(loss), "log 2", off <= 10 * limit))
    margin = float(jnp.max(jnp.abs(metrics["rewards/margin"])))
    bound = 100 * limit
    rows.append(("implicit reward margin", margin, "0", margin <= bound))
  return rows


def _plain_dpo(settings):
  return not (settings["offset"] or settings["nll_coef"])


def _sampler_row(job, state, exact, count=4, new=8):
  """Log-probs recorded while sampling against a teacher-forced pass."""
  prompts = [g.prompt for g in job.train.groups[:count]]
  width = -(-max(len(p) for p in prompts) // 16) * 16
  tokens = np.zeros((len(prompts), width), np.int32)
  for row, p in zip(tokens, prompts, strict=True):
    row[: len(p)] = p
  lengths = np.array([len(p) for p in prompts], np.int32)
  model = job.objective.model
  weights = trio.policy_weights(state.params["policy"], job.frozen)
  how = sampler.Sampling(
    completions=1, max_new_tokens=new, eos_id=job.tokenizer.eos_id
  )
  samples = sampler.generate(
    model, weights, tokens, lengths, jax.random.key(job.config.seed), how
  )
  whole = np.zeros((len(prompts), width + new), np.int32)
  whole[:, :width] = tokens
  drawn = parallel.to_host(samples.tokens)[:, 0]
  for r, n in enumerate(lengths):
    whole[r, n : n + new] = drawn[r]

  @jax.jit
  def teacher(weights, whole, place, target):
    at = jnp.broadcast_to(jnp.arange(whole.shape[1]), whole.shape)
    places = Places(at, jnp.ones_like(at), jnp.zeros_like(at))
    states = lm.hidden(model, weights, whole, places)
    return lm.logps(model, weights, states, place, target)

  place = lengths[:, None] - 1 + np.arange(new)
  logps = parallel.to_host(teacher(weights, whole, place, drawn))
  mask = parallel.to_host(samples.mask)[:, 0]
  sampled = parallel.to_host(samples.sampler_logps)[:, 0]
  return _gap_row("sampler - trainer", np.abs(logps - sampled), mask, exact)
