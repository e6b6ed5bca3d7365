"""Held-out data of a training run: its loss, the method's metrics, by group."""

from collections.abc import Callable
import json
import os
from pathlib import Path

import jax
import numpy as np

from xpo_jax import checkpoint, parallel
from xpo_jax import config as config_lib
from xpo_jax import job as jobs
from xpo_jax.data import loader
from xpo_jax.errors import checkpoint_error, usage_error
from xpo_jax.types import TrainState

FILE = "held_out.jsonl"


def evaluate(
  job: jobs.Job,
  state: TrainState,
  folder: Path | None = None,
  alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Held-out loss and the method's metrics; {} without held-out data.

  With a folder, the numbers of every held-out group go to `FILE`. `alive` is
  called after every batch.
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
    alive()
  columns = {name: np.concatenate(parts) for name, parts in rows.items()}
  if folder is not None and jax.process_index() == 0:
    _write_held_out(folder, data, np.concatenate(indices), columns)
  sums = {name: float(np.sum(v)) for name, v in columns.items()}
  loss = sums["loss"] / sums["weight"]
  terms = [name.removesuffix(":sum") for name in sums if name.endswith(":sum")]
  for name in terms:
    loss += sums[f"{name}:sum"] / max(sums[f"{name}:count"], 1.0)
  parts = {f"{name}:{part}" for name in terms for part in ("sum", "count")}
  numbers = {k: v / len(data) for k, v in sums.items() if k not in parts}
  del numbers["weight"]
  return numbers | {"loss": loss}


def _write_held_out(folder, data, indices, columns) -> None:
  lines = []
  for row, i in enumerate(indices):
    group = data.groups[i]
    numbers = {name: float(v[row]) for name, v in columns.items()}
    lines.append(
      json.dumps({"id": group.id, "cluster": group.cluster} | numbers)
    )
  checkpoint.write_text(folder / FILE, "\n".join(lines) + "\n")


def evaluate_run(folder: str | os.PathLike) -> dict[str, float]:
  """Held-out numbers of a run's newest checkpoint.

  Raises:
    XpoError: no checkpoint, or the run has no held-out data.
  """
  folder, path = Path(folder), Path(folder) / "config.json"
  if not path.is_file() or not checkpoint.saved_steps(folder):
    raise checkpoint_error(f"{folder}: no checkpoint in it; train it first")
  with checkpoint.locked(folder):
    config = config_lib.from_json(path.read_text(), str(path))
    if not (config.data.eval_source or config.data.source == "films"):
      raise usage_error(
        f"{folder}: the run has no held-out data; set data.eval_source"
      )
    job = jobs.build(config)
    with (
      parallel.use(job.mesh),
      checkpoint.open_checkpoints(folder, config.train.keep) as manager,
    ):
      found = checkpoint.restore(manager, jobs.init_state(job))
      return evaluate(job, found[0], folder)
