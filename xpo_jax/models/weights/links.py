"""Links in a folder of weights: they must not lead out of it."""

import os
from pathlib import Path

from xpo_jax.errors import checkpoint_error


def refuse_foreign(folder: Path) -> None:
  """A folder that somebody else made must not show other files of ours.

  A download cache of Hugging Face may keep what `snapshots/REVISION` links to
  in its own `blobs`.

  Raises:
    XpoError: (66) a link that leads anywhere else.
  """
  real = Path(os.path.realpath(folder))
  homes = [real]
  if real.parent.name == "snapshots":
    homes.append(real.parents[1] / "blobs")
  for entry in sorted(folder.iterdir()):
    if not entry.is_symlink():
      continue
    target = Path(os.path.realpath(entry))
    if not any(target.is_relative_to(home) for home in homes):
      raise checkpoint_error(
        f"{entry}: the link leaves the folder, to {target}; copy the file"
      )
