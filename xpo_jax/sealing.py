"""Sealed folders: every byte is hashed, and the folder moves into place whole.

A step is written to `.saving-STEP`, hashed into its `manifest.json`, synced to
the disk, and renamed to `STEP`: a folder whose name is a number is whole or
has been damaged later, never half written. Removing renames first, too
(`.trash-STEP`). Nothing here knows what the files mean; nothing needs jax.
"""

from collections.abc import Iterator, Mapping
from concurrent import futures
import hashlib
import json
import math
import os
from pathlib import Path
import re
import shutil

from xpo_jax.errors import first_line
from xpo_jax.fetch import sha256_of

MANIFEST = "manifest.json"
FORMAT = 1
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_SAVING, _TRASH, _DAMAGED = ".saving-", ".trash-", "damaged-"
_THREADS = 4  # hashing waits for the disk and frees the interpreter
_LARGE = 2**24  # bytes for which threads pay


def seal(folder: Path, step: int) -> None:
  """Writes the manifest of a finished folder and syncs all of it."""
  (folder / MANIFEST).unlink(missing_ok=True)
  files, folders = _entries(folder)
  body = {
    "format": FORMAT,
    "step": step,
    "folders": folders,
    "files": _hashes(folder, files, sync=True),
  }
  with open(folder / MANIFEST, "w", encoding="utf-8") as f:
    f.write(_text(body))
    f.flush()
    os.fsync(f.fileno())
  for name in (*reversed(folders), ""):
    sync_folder(folder / name)


def commit(folder: Path, final: Path) -> None:
  """Moves a sealed folder to its name; what is in the way is set aside."""
  if final.is_symlink() or final.exists():
    set_aside(final)
  folder.rename(final)
  sync_folder(final.parent)


def read_manifest(folder: Path) -> dict:
  """The manifest of a folder, after checking it against its own hash.

  Raises:
    ValueError: none, another format, or one that has changed; says which.
  """
  path = folder / MANIFEST
  if folder.is_symlink() or path.is_symlink():
    raise ValueError("is a link; a checkpoint is a folder of its own")
  try:
    text = path.read_bytes().decode("utf-8")
    found = json.loads(text)
  except FileNotFoundError:
    raise ValueError(
      f"has no {MANIFEST} (unsealed: of an earlier version, or damaged)"
    ) from None
  except (OSError, ValueError, RecursionError) as e:
    raise ValueError(f"{MANIFEST} is unreadable ({first_line(e)})") from e
  if not isinstance(found, dict) or "seal" not in found:
    raise ValueError(f"{MANIFEST} is no manifest")
  if _text({k: v for k, v in found.items() if k != "seal"}) != text:
    raise ValueError(f"{MANIFEST} has changed")
  if found.get("format") != FORMAT:
    raise ValueError(
      f"{MANIFEST} has format {found.get('format')}, this version reads "
      f"{FORMAT}"
    )
  if not _well_formed(found):
    raise ValueError(f"{MANIFEST} is no manifest")
  if str(found["step"]) != folder.name:
    raise ValueError(f"{MANIFEST} is of step {found['step']}")
  return found


def _well_formed(found: dict) -> bool:
  files, folders = found.get("files"), found.get("folders")
  return (
    found.keys() == {"format", "step", "folders", "files", "seal"}
    and isinstance(folders, list)
    and isinstance(files, dict)
    and all(
      isinstance(f, dict) and {*f} == {"bytes", "sha256"}
      for f in files.values()
    )
  )


def damage(folder: Path) -> str:
  """What is wrong with a sealed folder; "" if not a byte has changed."""
  try:
    manifest = read_manifest(folder)
    files, folders = _entries(folder)
    wanted = manifest["files"]
    for name in sorted({*files, *wanted} - {MANIFEST}):
      if name not in wanted:
        return f"{name} does not belong to it"
      if name not in files:
        return f"{name} is gone"
      size = (folder / name).stat().st_size
      if size != wanted[name]["bytes"]:
        return f"{name} has {size} bytes, not {wanted[name]['bytes']}"
    if folders != manifest["folders"]:
      odd = sorted({*folders} ^ {*manifest["folders"]})
      return f"folder {odd[0]} is new or gone"
    found = _hashes(folder, list(wanted), sync=False)
  except (OSError, ValueError) as e:
    return first_line(e)
  changed = [name for name in sorted(wanted) if found[name] != wanted[name]]
  return f"{changed[0]} has changed (SHA-256)" if changed else ""


def read_file(folder: Path, name: str) -> bytes:
  """One file of a sealed folder, checked against the manifest.

  Raises:
    ValueError: the manifest or this file is not what was sealed.
  """
  wanted = read_manifest(folder)["files"].get(name)
  try:
    found = (folder / name).read_bytes()
  except OSError as e:
    raise ValueError(f"{name}: {e.strerror}") from e
  if wanted is None or hashlib.sha256(found).hexdigest() != wanted["sha256"]:
    raise ValueError(f"{name} has changed (SHA-256)")
  return found


# The steps of a folder of checkpoints.


def steps(folder: Path) -> list[int]:
  """Steps that have been sealed, ascending; not verified."""
  return [n for n in numbered(folder) if (folder / str(n) / MANIFEST).is_file()]


def numbered(folder: Path) -> list[int]:
  """Everything that is named like a step, ascending, links left out."""
  if not folder.is_dir():
    return []
  return sorted(
    int(p.name)
    for p in folder.iterdir()
    if _NUMBER.fullmatch(p.name) and p.is_dir() and not p.is_symlink()
  )


def newest_intact(folder: Path) -> tuple[int | None, list[str]]:
  """(newest step whose every byte is right, what is wrong with newer ones)."""
  wrong = []
  for step in reversed(numbered(folder)):
    reason = damage(folder / str(step))
    if not reason:
      return step, wrong
    wrong.append(f"{folder / str(step)}: {reason}")
  return None, wrong


def saving(folder: Path, step: int) -> Path:
  """Where a step is written before it is sealed."""
  return folder / f"{_SAVING}{step}"


def discard(path: Path) -> None:
  """Removes a step so that an interruption leaves no half of it."""
  trash = path.with_name(f"{_TRASH}{path.name}")
  _remove(trash)
  path.rename(trash)
  _remove(trash)


def set_aside(path: Path) -> Path:
  """Renames what is no usable step to `damaged-STEP`; it is kept."""
  target, n = path.with_name(f"{_DAMAGED}{path.name}"), 1
  while target.is_symlink() or target.exists():
    n += 1
    target = path.with_name(f"{_DAMAGED}{path.name}-{n}")
  path.rename(target)
  return target


def sweep(folder: Path) -> None:
  """Removes what interrupted saves and removals left; call under the lock."""
  for path in folder.glob(".*"):
    if path.name.startswith((_SAVING, _TRASH)):
      _remove(path)


def retained(
  found: list[int], keep: int, losses: Mapping[int, float | None], best: int
) -> set[int]:
  """The newest `keep` steps and the `best` ones of lowest finite loss."""
  return {*sorted(found)[-keep:], *lowest(found, losses)[:best]}


def lowest(found: list[int], losses: Mapping[int, float | None]) -> list[int]:
  """Steps of a finite loss, lowest first, of equal ones the newer first."""
  number = lambda v: v is not None and math.isfinite(v)
  known = [step for step in found if number(losses.get(step))]
  return sorted(known, key=lambda step: (losses[step], -step))


def sync_folder(folder: Path) -> None:
  """Makes the names in a folder last through a power cut."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
  """(files, folders) below a folder, sorted relative names.

  Raises:
    ValueError: something that is neither, such as a link.
  """
  files, folders = [], []
  for entry in _walk(folder):
    name = Path(entry.path).relative_to(folder).as_posix()
    if entry.is_symlink():
      raise ValueError(f"{name} is a link; links are not followed")
    if entry.is_dir():
      folders.append(name)
    elif entry.is_file():
      files.append(name)
    else:
      raise ValueError(f"{name} is no ordinary file")
  return sorted(files), sorted(folders)


def _walk(folder: Path) -> Iterator[os.DirEntry]:
  with os.scandir(folder) as found:
    for entry in found:
      yield entry
      if entry.is_dir(follow_symlinks=False):
        yield from _walk(Path(entry.path))


def _hashes(folder: Path, names: list[str], sync: bool) -> dict[str, dict]:
  def one(name):
    path = folder / name
    if sync:
      handle = os.open(path, os.O_RDONLY)
      try:
        os.fsync(handle)
      finally:
        os.close(handle)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}

  size = sum((folder / name).stat().st_size for name in names)
  if size < _LARGE:
    return {name: one(name) for name in names}
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return dict(zip(names, pool.map(one, names), strict=True))


def _text(body: dict) -> str:
  """A manifest's only spelling, with the hash of the rest in it."""
  plain = json.dumps(body, sort_keys=True).encode()
  whole = body | {"seal": hashlib.sha256(plain).hexdigest()}
  return json.dumps(whole, indent=1, sort_keys=True) + "\n"


def _remove(path: Path) -> None:
  if path.is_symlink() or path.is_file():
    path.unlink()
  elif path.exists():
    shutil.rmtree(path)
