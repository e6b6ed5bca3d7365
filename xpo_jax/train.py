"""One training run: build, check, step, evaluate, checkpoint."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
import signal
import time

import jax
import numpy as np

from xpo_jax import checkpoint, metrics, parallel, pretrained, progress, startup
from xpo_jax import config as config_lib
from xpo_jax import job as jobs
from xpo_jax.data import loader, planning
from xpo_jax.errors import (
  Exit,
  XpoError,
  checkpoint_error,
  numeric_error,
  usage_error,
)
from xpo_jax.step import make_train_step
from xpo_jax.types import TrainState

HELD_OUT = "held_out.jsonl"
SHOWN = {
  "loss": ".4f",
  "rewards/margin": "+.3f",
  "rewards/accuracy": ".2f",
  "perf/tokens_per_second": ".0f",
}


@dataclasses.dataclass
class Stop:
  """Set by SIGTERM; polled once a step."""

  asked: bool = False


@contextlib.contextmanager
def on_sigterm():
  """Turns SIGTERM into a flag, so that the current step can be saved."""
  stop = Stop()

  def ask(*_):
    stop.asked = True

  try:
    before = signal.signal(signal.SIGTERM, ask)
  except ValueError:  # not the main thread (a notebook's worker)
    yield stop
    return
  try:
    yield stop
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
  with checkpoint.locked(folder), on_sigterm() as stop:
    job = jobs.build(config, devices)
    describe(job)
    model = job.objective.model
    pretrained.save_description(folder, model, job.tokenizer, config)
    with (
      parallel.use(job.mesh),
      checkpoint.open_checkpoints(folder, config.train.keep) as manager,
    ):
      return _run(job, folder, manager, stop)


def describe(job: jobs.Job) -> None:
  """Prints what is about to run: rows, packing, parameters."""
  progress.print_table(
    f"rows of {job.config.data.source}",
    ("", "count"),
    job.train.table,
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


def _run(job, folder, manager, stop) -> dict:
  state = jobs.init_state(job)
  step_fn = jax.jit(
    make_train_step(job.objective, job.tx, job.schedule), donate_argnums=0
  )
  batches = loader.make_loader(
    job.train.groups,
    job.plan,
    job.train.kind,
    columns=job.train.columns,
    trunk=job.train.trunk,
  )
  found = checkpoint.restore(manager, state)
  if found:
    state, position, _ = found
    batches.set_state(position)
    print(f"resumed at step {int(state.step)} of {job.steps}")
  first = int(state.step)
  began, last = time.monotonic(), {}
  writer = None
  if jax.process_index() == 0:
    writer = metrics.make_writer(folder, first if found else None)
  try:
    if first < job.steps:
      state, last = _loop(
        job, state, step_fn, batches, manager, writer, stop, fresh=not found
      )
    held_out = evaluate(job, state, folder)
    if held_out and writer:
      writer.write(
        int(state.step), {f"eval/{k}": v for k, v in held_out.items()}
      )
  finally:
    if writer:
      writer.close()
  summary = {
    "steps": job.steps,
    "seconds": round(time.monotonic() - began, 1),
    "metrics": last,
    "held_out": held_out,
    "rows": dict(job.train.table),
    "method": job.objective.method.id,
  }
  if jax.process_index() == 0:
    checkpoint.write_json(folder / "summary.json", summary)
  return summary


def _loop(job, state, step_fn, batches, manager, writer, stop, fresh):
  config, first = job.config.train, int(state.step)
  meta = jobs.fingerprints(job)
  scored = int(np.sum(planning.costs(job.plan.lengths)[:, 1]))
  per_step = scored * job.config.batch.prompts / len(job.train)
  values, clock = {}, time.monotonic()
  save = lambda state: checkpoint.save(
    manager, state, batches.get_state(), meta
  )
  with progress.track(
    job.steps, job.objective.method.id, SHOWN, initial=first
  ) as task:
    for number in range(first, job.steps):
      _, batch = next(batches)
      batch = parallel.put_batch(job.mesh, batch)
      if number == first:
        startup.run_checks(job, state, batch, fresh)
      state, device_values = step_fn(state, job.frozen, batch)
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
        held_out = evaluate(job, state)
        if writer:
          writer.write(done, {f"eval/{k}": v for k, v in held_out.items()})
        clock = time.monotonic()
      if stop.asked or done % config.save_every == 0 or done == job.steps:
        save(state)
      if stop.asked and done < job.steps:
        manager.wait_until_finished()
        raise XpoError(
          f"stopped by SIGTERM, saved at step {done} of {job.steps}; start the "
          "same command again to go on",
          Exit.PREEMPTED,
        )
  return state, values


def _stop_if_not_finite(job, values) -> None:
  limit = job.config.optimizer.max_skipped
  if values["optimizer/skipped"] >= limit:
    raise numeric_error(
      f"{limit} steps in a row had a loss or gradient that is not finite; "
      f"lower optimizer.learning_rate={job.config.optimizer.learning_rate} or "
      "look at the data of these steps"
    )


def evaluate(
  job: jobs.Job, state: TrainState, folder: Path | None = None
) -> dict[str, float]:
  """Held-out loss and the method's metrics; {} without held-out data.

  With a folder, the numbers of every held-out group go to `held_out.jsonl`.
  """
  if job.evaluation is None:
    return {}
  data, sizes = job.evaluation, job.mesh.shape
  multiple = sizes["data"] * sizes["fsdp"]
  prompts = min(job.config.batch.prompts, len(data))
  prompts += -prompts % multiple
  rows: dict[str, list] = {}
  indices = []
  for index, batch in loader.batches_in_order(
    data.groups,
    data.kind,
    prompts=prompts,
    row_length=job.config.batch.row_length,
    row_multiple=multiple,
    columns=data.columns,
    trunk=data.trunk,
  ):
    batch = parallel.put_batch(job.mesh, batch)
    numbers = job.evaluate(state.params, state.method_state, job.frozen, batch)
    indices.append(index[index >= 0])
    for name, value in numbers.items():
      rows.setdefault(name, []).append(parallel.to_host(value)[index >= 0])
  columns = {name: np.concatenate(parts) for name, parts in rows.items()}
  if folder is not None and jax.process_index() == 0:
    _write_held_out(folder, data, np.concatenate(indices), columns)
  loss, weight = columns.pop("loss"), columns.pop("weight")
  out = {name: float(np.mean(v)) for name, v in columns.items()}
  return out | {"loss": float(np.sum(loss) / np.sum(weight))}


def _write_held_out(folder, data, indices, columns) -> None:
  lines = []
  for row, i in enumerate(indices):
    group = data.groups[i]
    numbers = {name: float(v[row]) for name, v in columns.items()}
    lines.append(
      json.dumps({"id": group.id, "cluster": group.cluster} | numbers)
    )
  checkpoint.write_text(folder / HELD_OUT, "\n".join(lines) + "\n")


def evaluate_run(folder: str | os.PathLike) -> dict[str, float]:
  """Held-out numbers of a run's newest checkpoint.

  Raises:
    XpoError: no checkpoint, or the run has no held-out data.
  """
  folder = Path(folder)
  text = (folder / "config.json").read_text()
  config = config_lib.from_json(text, str(folder / "config.json"))
  job = jobs.build(config)
  if job.evaluation is None:
    raise usage_error(
      f"{folder}: the run has no held-out data; set data.eval_source"
    )
  with (
    parallel.use(job.mesh),
    checkpoint.open_checkpoints(folder, config.train.keep) as manager,
  ):
    found = checkpoint.restore(manager, jobs.init_state(job))
    if found is None:
      raise checkpoint_error(f"{folder}: no checkpoint in it; train it first")
    return evaluate(job, found[0], folder)
