"""Steps that changed nothing, because a number in them was not finite."""

from collections.abc import Callable, Mapping

import jax

from xpo_jax.errors import numeric_error

_SHOWN = 8  # rows


def check(
  config, step: int, values: Mapping, rows: Callable[[], list[str]]
) -> None:
  """Says which rows a skipped step had read, and counts to the limit.

  Args:
    config: of a training run.
    step: from 1.
    values: the step's metrics; `optimizer/skipped` counts skipped steps in a
      row.
    rows: the ids of what the step read, or of what it drew from.

  Raises:
    XpoError: (70) as many in a row as optimizer.max_skipped.
  """
  count = int(values.get("optimizer/skipped", 0))
  if not count:
    return
  if jax.process_index() == 0:
    ids = rows()
    more = len(ids) - _SHOWN
    print(
      f"warning: step {step} changed nothing, its loss or gradient is not "
      f"finite; look at rows {', '.join(ids[:_SHOWN])}"
      + (f" and {more} more" if more > 0 else "")
    )
  limit = config.optimizer.max_skipped
  if count >= limit:
    raise numeric_error(
      f"{limit} steps in a row had a loss or gradient that is not finite; "
      f"lower optimizer.learning_rate={config.optimizer.learning_rate} or look "
      "at the data of these steps"
    )
