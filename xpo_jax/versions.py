"""What a run was made with: versions of the packages, and the code's commit."""

import functools
from importlib import metadata
from pathlib import Path
import platform
import subprocess

_PACKAGES = (
  "xpo_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)


def installed() -> dict[str, str]:
  """Package -> version; "" for one that is used without being installed."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = ""
  return found


@functools.cache
def revision() -> str:
  """The commit of this package's own repository, "+" if edited; or ""."""
  root = Path(__file__).parents[1]
  if not (root / ".git").exists():
    return ""  # installed: the version says it

  def git(*args):
    return subprocess.run(
      ["git", "--no-optional-locks", "-C", str(root), *args],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()

  try:
    edited = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if edited else "")
  except (OSError, subprocess.SubprocessError):
    return ""
