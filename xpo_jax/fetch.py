"""Fetch one pinned file of a package by name and SHA-256, with pip, once.

The package is downloaded, never installed, into the cache folder
(`XPO_CACHE`, or `~/.cache/xpo_jax`), verified there, and reused afterwards.
"""

import hashlib
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile

from xpo_jax.errors import storage_error, usage_error

_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_SECONDS = 1800


def cache_folder() -> Path:
  """The folder for everything fetched or derived; made if missing."""
  folder = Path(os.environ.get("XPO_CACHE") or "~/.cache/xpo_jax").expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise storage_error(
      f"cache folder {folder}: {e.strerror}; set XPO_CACHE to a folder that"
      " can be written"
    ) from e
  return folder


def sha256_of(path: Path) -> str:
  """SHA-256 of a file's bytes, as 64 lower-case hex digits."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(requirement: str, sha256: str, binary: bool) -> Path:
  """Returns the local path of a package file with exactly this SHA-256.

  Args:
    requirement: "name==version".
    sha256: 64 hex digits of the wheel (binary) or sdist file.
    binary: True for the wheel, False for the source archive.

  Raises:
    XpoError: (74) the package index cannot be reached, the file there has
      another hash, or the cache folder cannot be written.
  """
  if not _REQUIREMENT.fullmatch(requirement) or not _SHA256.fullmatch(sha256):
    raise usage_error(
      f"fetch {requirement!r} sha256 {sha256!r}: want name==version and 64"
      " hex digits"
    )
  folder = cache_folder() / "downloads" / sha256
  kept = _find(folder, sha256)
  if kept:
    return kept
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Same file system as the final place, so that the rename is atomic.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
      _pip_download(requirement, sha256, binary, Path(scratch), folder)
      found = _find(Path(scratch), sha256)
      if not found:
        raise storage_error(
          f"fetch {requirement}: no downloaded file has sha256 {sha256};"
          " nothing was kept"
        )
      final = folder / found.name
      os.replace(found, final)
  except OSError as e:
    raise storage_error(f"fetch {requirement} into {folder}: {e}") from e
  return final


def _find(folder: Path, sha256: str) -> Path | None:
  if not folder.is_dir():
    return None
  for path in sorted(folder.iterdir()):
    whole = path.is_file() and path.suffix in (".whl", ".gz", ".zip")
    if whole and sha256_of(path) == sha256:
      return path
  return None


def _pip_download(requirement, sha256, binary, into: Path, folder: Path):
  """Runs `pip download` of one hash-pinned requirement."""
  name = requirement.split("==")[0]
  pinned = into / "requirements.txt"
  pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
  which = "--only-binary" if binary else "--no-binary"
  command = [sys.executable, "-m", "pip", "download", "--no-deps"]
  command += ["--require-hashes", "--quiet", "--disable-pip-version-check"]
  command += [which, name, "--dest", str(into), "--requirement", str(pinned)]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
    )
  except subprocess.TimeoutExpired as e:
    raise storage_error(
      f"fetch {requirement}: pip took more than {_TIMEOUT_SECONDS} s;"
      " check the network and start again"
    ) from e
  if done.returncode != 0:
    raise storage_error(
      f"fetch {requirement}: {_reason(done.stderr)}; check the network, or"
      f" put the file with sha256 {sha256} into {folder}"
    )


def _reason(stderr: str) -> str:
  """The one line of pip's output that says most."""
  lines = [line.strip() for line in stderr.splitlines() if line.strip()]
  if any("DO NOT MATCH THE HASHES" in line for line in lines):
    return "the index offers a file with another hash"
  errors = [x for x in lines if x.startswith("ERROR:")] or lines
  return (errors[-1] if errors else "pip failed without a message")[:300]
