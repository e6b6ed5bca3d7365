"""One training run: build, check, step, evaluate, checkpoint."""

from collections.abc import Callable, Collection
import os
from pathlib import Path
import time

import jax
import numpy as np

from xpo_jax import (
  checkpoint,
  held_out,
  metrics,
  parallel,
  penalties,
  placement_table,
  pretrained,
  progress,
  resume,
  run_report,
  skipped,
  startup,
  stopping,
  watchdog,
)
from xpo_jax import job as jobs
from xpo_jax.data import loader, packing, planning
from xpo_jax.online import loop as online
from xpo_jax.online import settings as online_settings
from xpo_jax.step import make_train_step
from xpo_jax.types import TrainState

SHOWN = {
  "loss": ".4f",
  "rewards/margin": "+.3f",
  "rewards/accuracy": ".2f",
  "perf/tokens_per_second": ".0f",
}


def run(
  config,
  workdir: str | os.PathLike,
  devices=None,
  allow_change: Collection[str] = (),
) -> dict:
  """Trains to the last step, resuming from the newest checkpoint.

  Args:
    config: a whole tree, see `xpo_jax.config`.
    workdir: run folder: checkpoints/, metrics.jsonl, tensorboard/, tokenizer/,
      config.json, summary.json.
    devices: the mesh's devices; all if None.
    allow_change: config keys and `resume.FINGERPRINTS` that may be others than
      those of the run's newest checkpoint.

  Returns:
    the summary: steps, seconds, last and held-out metrics, row accounting.

  Raises:
    XpoError: bad input (64, 65, 66), non-finite steps (70), another writer
      (73), storage (74), SIGTERM after saving (75).
  """
  folder = Path(workdir)
  resume.check_allowed(allow_change, config)
  with stopping.at_once(), checkpoint.locked(folder):
    resume.refuse_config(folder, config, allow_change)
    job = jobs.build(config, devices)
    if jax.process_index() == 0:
      describe(job)
    with (
      parallel.use(job.mesh),
      checkpoint.open_checkpoints(
        folder, config.train.keep, config.train.keep_best
      ) as manager,
      watchdog.watching(config.train.stall_seconds) as alive,
    ):
      return _run(job, folder, manager, alive, allow_change)


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
      *(_rollout_rows(job) if job.online else _padding_rows(job)),
      ("devices", " x ".join(f"{k} {v}" for k, v in job.mesh.shape.items())),
    ],
  )


def _padding_rows(job) -> list[tuple[str, str]]:
  report = planning.padding_report(job.plan)
  return [
    ("input slots / tokens", f"{report['trunk_ratio']:.2f}"),
    ("head slots / scored", f"{report['head_ratio']:.2f}"),
  ]


def _rollout_rows(job) -> list[tuple[str, str]]:
  own, sizes = job.config.rollout, online_settings.sizes(job.config)
  drawn = f"{sizes.prompts} prompts x {own.completions} completions"
  return [
    ("a rollout", f"{drawn}, {sizes.updates} steps"),
    ("judge", job.config.judge.name or "token rewards"),
  ]


def compile_step(job: jobs.Job, state: TrainState):
  """The jitted step; state in and out have one sharding: one compilation."""
  shardings = jax.tree.map(lambda x: x.sharding, state)
  auxiliaries = [(job.aux.objective, job.aux.coef)] if job.aux else []
  return jax.jit(
    make_train_step(job.objective, job.tx, job.schedule, auxiliaries, _l1(job)),
    donate_argnums=0,
    out_shardings=(shardings, parallel.replicated(job.mesh)),
  )


def _l1(job: jobs.Job):
  lora, model = job.config.lora, job.objective.model
  return penalties.make_l1(lora.l1, model.lora[1], lora.l1_target)


def _run(job, folder, manager, alive, allow_change) -> dict:
  state, position = jobs.init_state(job), {}
  batches = None if job.online else _loader(job)
  found, meta = checkpoint.restore(manager, state), resume.metadata(job)
  if found:
    state, position, old = found
    resume.refuse_fingerprints(
      folder,
      old.get("fingerprints", {}),
      meta["fingerprints"],
      allow_change,
    )
    if batches:
      batches.set_state(position)
    print(f"resumed at step {int(state.step)} of {job.steps}")
  if jax.process_index() == 0:
    if not job.online:  # else in one table with its judges
      placement_table.show(placement_table.models(state, job.frozen))
    pretrained.save_description(
      folder, job.objective.model, job.tokenizer, job.config
    )
  first, began = int(state.step), time.monotonic()
  writer, stopped = None, ""
  if jax.process_index() == 0:
    writer = metrics.make_writer(folder, first + 1)
  try:
    if first < job.steps:
      checkpoint.require_room(manager, state, job.config.train.keep)
    if job.online:
      loop = online.Loop(
        job, folder, compile_step(job, state), meta, manager, writer, alive
      )
      state, numbers, stopped = online.run(loop, state, position)
    else:
      if first < job.steps:
        state = _loop(job, state, batches, meta, manager, writer, alive)
      numbers = held_out.evaluate(job, state, folder, alive)
      if writer and not _evaluated(folder, job.steps):
        _write_evaluation(writer, job.steps, numbers)
  finally:
    if writer:
      writer.close()
  summary = {
    "steps": int(state.step),
    "stopped": stopped,
    "seconds": round(time.monotonic() - began, 1),
    "metrics": _last_metrics(folder),
    "held_out": numbers,
    "rows": dict(job.train.table),
    "method": job.objective.method.id,
  }
  checkpoint.write_json(folder / "summary.json", summary)
  if jax.process_index() == 0:
    run_report.write(folder)
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


def _loop(job, state, batches, meta, saver, writer, alive) -> TrainState:
  config, first = job.config.train, int(state.step)
  step_fn = compile_step(job, state)
  scored = int(np.sum(planning.costs(job.plan.lengths)[:, 1]))
  per_step = scored * job.config.batch.prompts / len(job.train)
  values, device_values, clock = {}, {}, time.monotonic()
  losses = _held_out_losses(saver.folder.parent)
  save = lambda: checkpoint.save(
    saver, state, batches.get_state(), meta, losses
  )
  with (
    stopping.after_step() as asked,
    progress.track(
      job.steps, job.objective.method.id, SHOWN, initial=first
    ) as task,
  ):
    for number in range(first, job.steps):
      _, parts = next(batches)
      batch, *more = parallel.put_batch(job.mesh, parts)
      if number == first:
        startup.run_checks(job, state, batch, fresh=not number)
      before = device_values
      state, device_values = step_fn(state, job.frozen, batch, *more)
      # Waits for the step before this one: one is always under way.
      skipped.check(job.config, number, before, _rows(job, number))
      alive()
      done = number + 1
      if done % config.log_every == 0 or done == job.steps:
        values = {k: float(v) for k, v in device_values.items()}
        now = time.monotonic()
        rate = per_step * min(config.log_every, done - first) / (now - clock)
        clock = now
        values["perf/tokens_per_second"] = rate
        if writer:
          writer.write(done, values)
      task.advance(values)
      if config.eval_every and done % config.eval_every == 0 < job.steps - done:
        numbers = held_out.evaluate(job, state, alive=alive)
        losses[done] = numbers.get("loss")
        if writer:
          _write_evaluation(writer, done, numbers)
        clock = time.monotonic()
      stop, last = asked(done), done == job.steps
      if saver.poll() or stop or last or done % config.save_every == 0:
        save()
      while (stop or last) and not saver.wait():
        save()  # until it is on the disk, or has failed too often
      if stop and not last:
        raise stopping.error(stop, f"saved at step {done} of {job.steps}")
  skipped.check(job.config, job.steps, device_values, _rows(job, job.steps))
  return state


def _held_out_losses(folder: Path) -> dict[int, float]:
  return dict(metrics.read_metrics(folder).get("eval/loss", ()))


def _rows(job, step: int) -> Callable[[], list[str]]:
  """Ids of what a step read."""
  return lambda: [job.train.groups[i].id for i in job.plan.order[step - 1]]
