"""The on-policy loop: sample, judge, score, and train on what came of it."""

from collections.abc import Callable
import itertools
from pathlib import Path
import time
from typing import NamedTuple

import jax
import numpy as np

from xpo_jax import (
  checkpoint,
  metrics,
  parallel,
  placement_table,
  progress,
  rollout_view,
  skipped,
  stopping,
)
from xpo_jax.data import packing
from xpo_jax.errors import checkpoint_error
from xpo_jax.judges.tally import Tally
from xpo_jax.online import (
  columns,
  evaluate,
  journal,
  limits,
  rollout,
  sealed,
  trunk,
)
from xpo_jax.online import settings as settings_lib
from xpo_jax.online import tools as tools_lib
from xpo_jax.rollout import agreement
from xpo_jax.types import TrainState

SHOWN = {
  "rewards/judge": "+.3f",
  "rewards/token_sum": "+.3f",
  "kl/k1": ".2f",
  "completions/tokens": ".0f",
  "loss": ".4f",
}


class Loop(NamedTuple):
  """What `train` hands over."""

  job: object
  folder: Path
  step_fn: Callable
  meta: dict
  saver: object
  writer: metrics.Writer | None
  alive: Callable[[], None]


def run(loop: Loop, state: TrainState, position: dict) -> tuple:
  """Trains to the last step.

  Args:
    loop: see there.
    state: to start from.
    position: what the checkpoint noted, {} at the start.

  Returns:
    (state, held-out numbers of the last evaluation, why it ended early or "").
  """
  job, first = loop.job, int(state.step)
  own, sizes = job.config.rollout, settings_lib.sizes(job.config)
  models = placement_table.models(state, job.frozen)
  tools, tally = tools_lib.make(job, loop.alive, models), _tally(position)
  history = _history(loop.folder, first)
  average, polls = _make_average(own.ema_decay), itertools.count()
  current, values = None, dict(position.get("metrics", {}))
  note, stopped = position.get("rollout", ""), position.get("stopped", "")
  _check_ahead(job, loop.folder, -(-first // sizes.updates))
  if job.config.train.eval_every and not history:  # where the curves begin
    history.append(_evaluate(loop, tools, state, first))
  with (
    stopping.after_step() as asked,
    progress.track(
      job.steps, job.objective.method.id, _shown(job.config), initial=first
    ) as task,
  ):
    collecting = tools_lib.interruptible(tools, lambda: asked(next(polls)))
    for step in range(first, first if stopped else job.steps):
      number, update = divmod(step, sizes.updates)
      if not update:
        try:
          state, current, values, note, tally = _collect(
            collecting, state, number, tally, loop.folder
          )
        except stopping.Told as told:
          if step > first:  # else nothing is new
            where = _position(step, note, "", {}, tally)
            _save(loop, state, where, True, False)
          raise _end(told.number, step, job) from None
      elif current is None:
        groups = sealed.read(loop.folder, number, job.train.groups, note)
        current = groups, trunk.states(job, tools.trunk, groups)
      state, found = _timed_update(loop, state, current, number, update)
      state = _averaged(state, average, found)
      spent = values.get("perf/seconds_update", 0.0)
      found["perf/seconds_update"] += spent
      values |= found
      names = lambda read=current: [g.id for g in read[0] if g]
      skipped.check(job.config, step + 1, values, names)
      loop.alive()
      done, last = step + 1, step + 1 == job.steps
      if loop.writer and (done % job.config.train.log_every == 0 or last):
        loop.writer.write(done, values)
      task.advance(values)
      whole = not done % sizes.updates
      if last or (whole and _evaluation_is_due(job, done, sizes.updates)):
        history.append(_evaluate(loop, tools, state, done))
        stopped = limits.reached(history, own.kl_budget, own.patience)
      values = {} if whole else values
      stop = asked(next(polls))
      where = _position(done, note, stopped, values, tally)
      _save(loop, state, where, bool(stop), last or bool(stopped))
      if stop and not (last or stopped):
        raise _end(stop, done, job)
      if stopped:
        break
  if stopped:
    print(f"ended early at step {int(state.step)}: {stopped}")
  return state, history[-1] if history else {}, stopped


def _shown(config) -> dict[str, str]:
  """Of the reward the kind that there is; no judge gives only zeros."""
  other = "rewards/token_sum" if config.judge.name else "rewards/judge"
  return {name: form for name, form in SHOWN.items() if name != other}


def _position(step: int, note: str, stopped: str, values, tally: Tally) -> dict:
  """What a checkpoint notes; `values` are of the rollout that it is within."""
  return {
    "next_step": step,
    "rollout": note,
    "stopped": stopped,
    "metrics": values,
    "tally": [tally.asked, tally.reasons],
  }


def _end(number: int, step: int, job) -> BaseException:
  done = f"saved at step {step} of {job.steps}"
  return stopping.error(number, done if step else "before the first step")


def _collect(tools, state, number: int, tally: Tally, folder: Path):
  """A new rollout: (state, samples, numbers, digest of its file, tally)."""
  job = tools.job
  _draw_ahead(tools, state, number, folder)
  made, tally = rollout.make(tools, state, number, tally, folder)
  if made.method_state is not None:
    one = parallel.replicated(job.mesh)
    state = state.replace(method_state=jax.device_put(made.method_state, one))
  note = sealed.write(folder, number, job.train.groups, made.groups)
  if not job.config.rollout.ahead:
    _check_gap(made.metrics, job.objective.model.dtype)
  every = job.config.rollout.show_every
  if every and jax.process_index() == 0:
    rollout_view.view_file(
      number, journal.file_of(folder, number, "jsonl"), every
    )
  samples = made.groups, made.trunk
  return state, samples, dict(made.metrics), note, tally


def _tally(position: dict) -> Tally:
  """The judge's replies up to the checkpoint."""
  asked, reasons = position.get("tally", (0, ()))
  return Tally(asked, tuple((name, count) for name, count in reasons))


def _timed_update(loop: Loop, state, samples, number: int, update: int):
  began = time.monotonic()
  state, found = _update(loop, state, *samples, number, update)
  found = {k: float(v) for k, v in found.items()}
  config = loop.job.config
  size, ahead = settings_lib.sizes(config).updates, config.rollout.ahead
  if ahead or size > 1:
    found["sampler/staleness"] = float(staleness(number, update, size, ahead))
  return state, found | {"perf/seconds_update": time.monotonic() - began}


def staleness(number: int, update: int, updates: int, ahead: int) -> int:
  """Optimizer steps between the policy that drew the samples and this one.

  Args:
    number: of the rollout.
    update: of the steps on it, 0 the first.
    updates: steps a rollout.
    ahead: rollouts drawn before their turn; fewer are at the start.
  """
  return min(number, ahead) * updates + update


def _evaluation_is_due(job, done: int, updates: int) -> bool:
  """At the first whole rollout after every train.eval_every steps."""
  every = job.config.train.eval_every
  return bool(every) and done // every > (done - updates) // every


def _evaluate(loop: Loop, tools, state, done: int) -> dict[str, float]:
  numbers = evaluate.run(tools, state, loop.folder, done)
  if loop.writer and numbers:
    loop.writer.write(done, {f"eval/{k}": v for k, v in numbers.items()})
  return numbers


def _update(loop: Loop, state, groups, states, number: int, update: int):
  """One optimizer step on minibatch `update` of a rollout."""
  job, sizes = loop.job, settings_lib.sizes(loop.job.config)
  epoch, part = divmod(update, sizes.minibatches)
  noise = np.random.default_rng([job.config.seed, 7, number, epoch])
  order, size = noise.permutation(sizes.prompts), job.config.batch.prompts
  order = order[part * size : (part + 1) * size]
  pick = lambda every: every and [every[i] for i in order]
  own, names = pick(groups), columns.names(job.objective)
  batch = columns.pack(job, own, names, pick(states))
  parts = [batch]
  if job.aux:
    data = job.aux.data
    parts.append(
      packing.pack_step(
        data.groups,
        job.aux.plan,
        number * sizes.updates + update,
        data.kind,
        columns=data.columns,
        trunk=data.trunk,
      )
    )
  batch, *more = parallel.put_batch(job.mesh, parts)
  return loop.step_fn(state, job.frozen, batch, *more)


def _make_average(decay: float):
  """ema <- decay ema + (1 - decay) policy, donated."""
  step = lambda a, b: decay * a + (1 - decay) * b
  return jax.jit(lambda ema, p: jax.tree.map(step, ema, p), donate_argnums=0)


def _averaged(state, average: Callable, found: dict[str, float]):
  """The state whose average follows a step; a skipped one changes nothing."""
  if state.ema_params is None or found["optimizer/skipped"]:
    return state
  ema = average(state.ema_params, state.params["policy"])
  return state.replace(ema_params=ema)


def _check_gap(values: dict[str, float], dtype: str) -> None:
  warning = agreement.check(values, dtype)
  if warning and jax.process_index() == 0:
    print(f"warning: {warning}")


def _draw_ahead(tools, state, number: int, folder: Path) -> None:
  """Samples of the next rollout.ahead rollouts, if they are not there yet."""
  job = tools.job
  for n in range(number, number + job.config.rollout.ahead + 1):
    if job.config.rollout.ahead and n < len(job.plan.order):
      order = job.plan.order[n]
      rollout.sample(
        tools,
        state,
        [job.train.groups[i] for i in order],
        n,
        journal.file_of(folder, n, "0.samples"),
        rollout.label_of(tools, state, order, n),
      )


def _check_ahead(job, folder: Path, number: int) -> None:
  """Samples that an earlier policy drew cannot be drawn again.

  `number` is of the first rollout that is still to be judged.
  """
  ahead = job.config.rollout.ahead if number else 0
  for n in range(number, min(number + ahead, len(job.plan.order))):
    path = journal.file_of(folder, n, "0.samples")
    if not path.exists():
      raise checkpoint_error(
        f"{path}: missing; it was drawn before the checkpoint by an earlier "
        "policy (rollout.ahead), bring it back or use another --workdir"
      )


def _history(folder: Path, step: int) -> list[dict[str, float]]:
  """Evaluations up to `step`, in order."""
  series = metrics.read_metrics(folder)
  found: dict[int, dict[str, float]] = {}
  for name, pairs in series.items():
    for at, value in pairs if name.startswith("eval/") else ():
      if at <= step:
        found.setdefault(at, {})[name.removeprefix("eval/")] = value
  return [found[at] for at in sorted(found)]


def _save(loop: Loop, state, where: dict, stop: bool, last: bool) -> None:
  due = where["next_step"] % loop.job.config.train.save_every == 0
  save = lambda: checkpoint.save(
    loop.saver, state, where, loop.meta, _losses(loop.folder)
  )
  due = loop.saver.poll() or stop or last or due
  if due:
    save()
  while (stop or last) and not loop.saver.wait():
    save()
  if due:
    _prune(loop)


def _losses(folder: Path) -> dict[int, float]:
  """step -> what `best` goes by: the gold score if there is one, negated."""
  series = metrics.read_metrics(folder)
  found = series.get("eval/gold") or series.get("eval/reward") or ()
  return {step: -value for step, value in found}


def _prune(loop: Loop) -> None:
  steps = checkpoint.saved_steps(loop.folder)
  if steps:
    updates = settings_lib.sizes(loop.job.config).updates
    journal.prune(loop.folder, steps[0] // updates, steps[0])
