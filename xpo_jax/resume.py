"""What a run is: fingerprints that every checkpoint carries, and refusals.

A run goes on under its own config, data and weights. What has changed must be
allowed by its name (`--allow-change`), or the run is refused.
"""

from collections.abc import Collection
import json
from pathlib import Path

from ml_collections import ConfigDict

from xpo_jax import checks, stored, versions
from xpo_jax import config as config_lib
from xpo_jax import job as jobs
from xpo_jax.errors import checkpoint_error, usage_error

# What a resumed run may change: nothing in it decides the parameters.
MAY_CHANGE = (
  "batch.microbatches",
  "optimizer.max_skipped",
  "rollout.show_every",
  "train.eval_every",
  "train.keep",
  "train.keep_best",
  "train.log_every",
  "train.save_every",
  "train.stall_seconds",
)
# What the config only points at. base: frozen weights that are not in the
# checkpoint; order: which rows come at which step.
FINGERPRINTS = (
  "base",
  "data",
  "order",
  "reference",
  "template",
  "tokenizer",
)


def metadata(job: jobs.Job) -> dict:
  """The JSON that goes into every checkpoint; `xpo verify` prints it."""
  return {
    "config": json.loads(config_lib.to_json(job.config)),
    "fingerprints": jobs.fingerprints(job),
    "rows": dict(job.train.table),
    "versions": versions.installed(),
    "code": versions.revision(),
  }


def check_allowed(names: Collection[str], config: ConfigDict) -> None:
  """Every name of `--allow-change` is a config key or a fingerprint.

  Raises:
    XpoError: one that is neither.
  """
  known = {*checks.leaves(config), *FINGERPRINTS}
  for name in names:
    if name not in known:
      raise usage_error(
        f"--allow-change={name} names no config key and none of "
        f"{', '.join(FINGERPRINTS)}"
      )


def refuse_config(
  folder: Path, config: ConfigDict, allowed: Collection[str] = ()
) -> None:
  """A run with checkpoints goes on under its own config, or not at all.

  Raises:
    XpoError: a key of `config` that decides the result has another value than
      in the newest checkpoint (exit code 66).
  """
  meta = stored.read_meta(folder)
  if not meta or "config" not in meta:
    return
  where = str(folder / stored.FOLDER)
  old = checks.leaves(config_lib.from_json(json.dumps(meta["config"]), where))
  new = checks.leaves(config)
  for key in sorted({*old, *new}):
    free = key in MAY_CHANGE or key.startswith(("mesh.", "data.eval_"))
    if free or old.get(key) == new.get(key):
      continue
    change = f"{key}={old.get(key)!r}, now it is {new.get(key)!r}"
    if key not in allowed:
      raise checkpoint_error(
        f"{folder} was trained with {change}; use the old value or another "
        f"--workdir (or --allow-change={key})"
      )
    print(f"warning: {folder} was trained with {change}; allowed")


def refuse_fingerprints(
  folder: Path, old: dict, now: dict, allowed: Collection[str] = ()
) -> None:
  """The same for `FINGERPRINTS`.

  Args:
    folder: the run's, for the message.
    old: those of the checkpoint.
    now: `job.fingerprints`.
    allowed: names that may differ; a warning then says so.

  Raises:
    XpoError: a fingerprint of `now` is another one in `old` (exit code 66).
  """
  for name in FINGERPRINTS:
    if old.get(name) == now[name]:
      continue
    change = f"(fingerprint {old.get(name)}, now {now[name]})"
    if name not in allowed:
      raise checkpoint_error(
        f"{folder}: {name} has changed since the last step {change}; bring it "
        f"back or choose another --workdir (or --allow-change={name})"
      )
    print(f"warning: {folder}: {name} has changed {change}; allowed")
