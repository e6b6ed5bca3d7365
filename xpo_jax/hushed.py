"""What libraries print that no user can act on, left out."""

import logging
import sys
import warnings


def libraries(process: bool) -> None:
  """Silences libraries' notes on how they work.

  When a save fails, orbax reports one of its writes, which becomes our
  warning. The writes beside it fail too, unheard: asyncio logs a traceback for
  each, tensorstore one for each that finds its event loop closed, and Python
  warns of each that had not begun when the loop closed.

  Args:
    process: nothing but `xpo` runs here, so that hooks may be taken.
  """
  for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  warnings.filterwarnings("ignore", module=r"orbax\.")
  warnings.filterwarnings(
    "ignore", "coroutine '.*' was never awaited", RuntimeWarning
  )
  if process:
    sys.unraisablehook = _unraisable


def _unraisable(what) -> None:
  if str(what.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(what)
