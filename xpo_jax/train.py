"""One training run: build, check, step, evaluate, checkpoint."""

import contextlib
import os
from pathlib import Path
import signal
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from xpo_jax import (
  checkpoint,
  checks,
  held_out,
  metrics,
  parallel,
  pretrained,
  progress,
  startup,
)
from xpo_jax import config as config_lib
from xpo_jax import job as jobs
from xpo_jax.data import loader, packing, planning
from xpo_jax.errors import (
  Exit,
  XpoError,
  checkpoint_error,
  numeric_error,
)
from xpo_jax.step import make_train_step
from xpo_jax.types import TrainState

# What a resumed run may change: nothing in it decides the parameters.
MAY_CHANGE = (
  "batch.microbatches",
  "optimizer.max_skipped",
  "train.eval_every",
  "train.keep",
  "train.log_every",
  "train.save_every",
)
SHOWN = {
  "loss": ".4f",
  "rewards/margin": "+.3f",
  "rewards/accuracy": ".2f",
  "perf/tokens_per_second": ".0f",
}


@contextlib.contextmanager
def on_sigterm():
  """Yields asked(step): whether to stop after this step. Poll it every step.

  SIGTERM only sets a flag, so that the current step can be saved. With several
  processes jax's own service lets all of them stop after the same step.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  received = []
  try:
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
  except ValueError:  # not the main thread (a notebook's worker)
    yield lambda step: False
    return
  try:
    yield lambda step: bool(received)
  finally:
    signal.signal(signal.SIGTERM, before)


def run(config, workdir: str | os.PathLike, devices=None) -> dict:
  """Trains to the last step, resuming from the newest checkpoint.

  Args:
    config: a whole tree, see `xpo_jax.config`.
    workdir: run folder: checkpoints/, metrics.jsonl, tensorboard/, tokenizer/,
      config.json, summary.json.
    devices: the mesh's devices; all if None.

  Returns:
    the summary: steps, seconds, last and held-out metrics, row accounting.

  Raises:
    XpoError: bad input (64, 65, 66), non-finite steps (70), another writer
      (73), storage (74), SIGTERM after saving (75).
  """
  folder = Path(workdir)
  with checkpoint.locked(folder), on_sigterm() as asked:
    refuse_change(folder, config)
    job = jobs.build(config, devices)
    model = job.objective.model
    if jax.process_index() == 0:
      describe(job)
      pretrained.save_description(folder, model, job.tokenizer, config)
    with (
      parallel.use(job.mesh),
      checkpoint.open_checkpoints(folder, config.train.keep) as manager,
    ):
      return _run(job, folder, manager, asked)


def refuse_change(folder: Path, config) -> None:
  """A run with checkpoints goes on under its own config, or not at all.

  Raises:
    XpoError: a key of `config` that decides the result has another value than
      in the folder's config.json (exit code 66).
  """
  path = folder / "config.json"
  if not checkpoint.saved_steps(folder) or not path.is_file():
    return
  old = checks.leaves(config_lib.from_json(path.read_text(), str(path)))
  new = checks.leaves(config)
  for key in sorted({*old, *new}):
    free = key in MAY_CHANGE or key.startswith(("mesh.", "data.eval_"))
    if not free and old.get(key) != new.get(key):
      raise checkpoint_error(
        f"{folder} was trained with {key}={old.get(key)!r}, now it is "
        f"{new.get(key)!r}; use the old value or another --workdir"
      )


def describe(job: jobs.Job) -> None:
  """Prints what is about to run: rows, packing, parameters."""
  progress.print_table(
    f"rows of {job.config.data.source}",
    ("", "count"),
    job.train.table,
  )
  if job.aux:
    progress.print_table(
      f"rows of {job.config.aux.source}, {job.config.aux.coef:g} x "
      f"{job.aux.objective.method.id}",
      ("", "count"),
      job.aux.data.table,
    )
  report = planning.padding_report(job.plan)
  size = sum(x.size for x in jax.tree.leaves(job.start))
  shape = job.plan.shape
  progress.print_table(
    "run",
    ("", ""),
    [
      ("method", job.objective.method.id),
      ("trained parameters", f"{size:,}"),
      ("steps", job.steps),
      ("prompts a step", job.config.batch.prompts),
      ("rows x length", f"{shape.rows} x {shape.row_length}"),
      ("input slots / tokens", f"{report['trunk_ratio']:.2f}"),
      ("head slots / scored", f"{report['head_ratio']:.2f}"),
      ("devices", " x ".join(f"{k} {v}" for k, v in job.mesh.shape.items())),
    ],
  )


def compile_step(job: jobs.Job, state: TrainState):
  """The jitted step; state in and out have one sharding: one compilation."""
  shardings = jax.tree.map(lambda x: x.sharding, state)
  auxiliaries = [(job.aux.objective, job.aux.coef)] if job.aux else []
  return jax.jit(
    make_train_step(job.objective, job.tx, job.schedule, auxiliaries),
    donate_argnums=0,
    out_shardings=(shardings, parallel.replicated(job.mesh)),
  )


def _run(job, folder, manager, asked) -> dict:
  state = jobs.init_state(job)
  batches = _loader(job)
  found = checkpoint.restore(manager, state)
  if found:
    state, position, meta = found
    _refuse_data(job, folder, meta)
    batches.set_state(position)
    print(f"resumed at step {int(state.step)} of {job.steps}")
  first, began = int(state.step), time.monotonic()
  writer = None
  if jax.process_index() == 0:
    writer = metrics.make_writer(folder, first + 1)
  try:
    if first < job.steps:
      state = _loop(
        job, state, batches, manager, writer, asked, fresh=not found
      )
    numbers = held_out.evaluate(job, state, folder)
    if writer and not _evaluated(folder, job.steps):
      _write_evaluation(writer, job.steps, numbers)
  finally:
    if writer:
      writer.close()
  summary = {
    "steps": job.steps,
    "seconds": round(time.monotonic() - began, 1),
    "metrics": _last_metrics(folder),
    "held_out": numbers,
    "rows": dict(job.train.table),
    "method": job.objective.method.id,
  }
  checkpoint.write_json(folder / "summary.json", summary)
  return summary


def _loader(job):
  """Iterates over (step, [the method's batch, the auxiliary loss's])."""
  parts = [(job.train, job.plan)]
  if job.aux:
    parts.append((job.aux.data, job.aux.plan))
  return loader.iterate(
    lambda step: [
      packing.pack_step(
        data.groups,
        plan,
        step,
        data.kind,
        columns=data.columns,
        trunk=data.trunk,
      )
      for data, plan in parts
    ],
    job.steps,
  )


def _refuse_data(job, folder, meta) -> None:
  now = jobs.fingerprints(job)
  for name in ("data", "tokenizer"):
    if meta.get(name) != now[name]:
      raise checkpoint_error(
        f"{folder}: {name} has changed since the last step (fingerprint "
        f"{meta.get(name)}, now {now[name]}); bring it back or choose another "
        "--workdir"
      )


def _write_evaluation(writer, step, numbers) -> None:
  if numbers:
    writer.write(step, {f"eval/{k}": v for k, v in numbers.items()})


def _evaluated(folder, step) -> bool:
  """Whether a finished run has been started again."""
  written = metrics.read_metrics(folder).get("eval/loss", [])
  return bool(written) and written[-1][0] == step


def _last_metrics(folder) -> dict[str, float]:
  series = metrics.read_metrics(folder)
  return {k: v[-1][1] for k, v in series.items() if not k.startswith("eval/")}


def _loop(job, state, batches, manager, writer, asked, fresh) -> TrainState:
  config, first = job.config.train, int(state.step)
  step_fn = compile_step(job, state)
  scored = int(np.sum(planning.costs(job.plan.lengths)[:, 1]))
  per_step = scored * job.config.batch.prompts / len(job.train)
  values, clock = {}, time.monotonic()
  meta = jobs.fingerprints(job)
  with progress.track(
    job.steps, job.objective.method.id, SHOWN, initial=first
  ) as task:
    for number in range(first, job.steps):
      _, parts = next(batches)
      batch, *more = parallel.put_batch(job.mesh, parts)
      if number == first:
        startup.run_checks(job, state, batch, fresh)
      state, device_values = step_fn(state, job.frozen, batch, *more)
      done = number + 1
      if done % config.log_every == 0 or done == job.steps:
        values = {k: float(v) for k, v in device_values.items()}
        now = time.monotonic()
        rate = per_step * min(config.log_every, done - first) / (now - clock)
        clock = now
        values["perf/tokens_per_second"] = rate
        if writer:
          writer.write(done, values)
        _stop_if_not_finite(job, values)
      task.advance(values)
      if config.eval_every and done % config.eval_every == 0 < job.steps - done:
        numbers = held_out.evaluate(job, state)
        if writer:
          _write_evaluation(writer, done, numbers)
        clock = time.monotonic()
      stop = asked(done)
      if stop or done % config.save_every == 0 or done == job.steps:
        checkpoint.save(manager, state, batches.get_state(), meta)
      if stop and done < job.steps:
        manager.wait_until_finished()
        raise XpoError(
          f"stopped by SIGTERM, saved at step {done} of {job.steps}; start the "
          "same command again to go on",
          Exit.PREEMPTED,
        )
  return state


def _stop_if_not_finite(job, values) -> None:
  limit = job.config.optimizer.max_skipped
  if values["optimizer/skipped"] >= limit:
    raise numeric_error(
      f"{limit} steps in a row had a loss or gradient that is not finite; "
      f"lower optimizer.learning_rate={job.config.optimizer.learning_rate} or "
      "look at the data of these steps"
    )
