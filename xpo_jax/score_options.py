"""The options of `xpo score`; no jax here, so that --help answers at once."""

import argparse
import dataclasses
import math
import os
from pathlib import Path

from xpo_jax.errors import usage_error

KINDS = ("implicit", "token_credit", "reward")
EPILOG = """\
A run's newest checkpoint (or RUN@best, RUN@STEP) scores every completion of the
data, in one packed forward of policy and reference that computes a prompt once
for all its completions.

implicit      one reward a completion, as the run's own method defines it:
              beta x (log pi - log ref) summed over its tokens for DPO and all
              others that have a reference (the weights that the run started
              from, or its reference.source); beta x mean log pi for simpo, the
              log-odds for orpo, beta x sum log pi for cpo, the mean log pi for
              rrhf and pro, the sum log pi for slic, cringe, sft and the rest.
token_credit  the same, and each token's share of it: by DPO's reading as a
              Q-function the token's advantage. The shares sum to the reward.
reward        what the head of a reward model says; for reward-model runs only.

A row of --out: id (file:row), prompt, completion, k, feedback, implicit_reward
(or reward), length in tokens, ended, and for token_credit tokens: [{text,
credit, logp, reference_logp}]. The texts join to what was scored; a control
token has none, and its name is under "control". Rewards of one prompt can be
compared; a constant of the prompt, beta log Z, is never known.

  xpo score --run=runs/dpo --data=pairs.jsonl --kind=token_credit \\
    --out=scores.jsonl --html=scores.html
"""


@dataclasses.dataclass(frozen=True)
class Options:
  """What to score, with what, and where to.

  Attributes:
    run: folder of a training run; RUN@best and RUN@STEP name a checkpoint.
    data: as the config's data.source; empty: the run's held-out data.
    kind: one of KINDS.
    out: JSONL to write; empty: none.
    html: page to write; empty: none.
    html_rows: rows of data on the page, the first ones.
    beta: scale of the reward, 1/nats; None: the run's own.
    limit: rows of data to read; 0: all (held-out data: as the run does).
    batch: prompts at once; 0: the run's batch.prompts.
  """

  run: str
  data: str = ""
  kind: str = "implicit"
  out: str = ""
  html: str = ""
  html_rows: int = 50
  beta: float | None = None
  limit: int = 0
  batch: int = 0


def add_flags(parser: argparse.ArgumentParser) -> None:
  """One flag for each field of `Options`."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = EPILOG
  parser.add_argument("--run", required=True, help="a run; RUN@best, RUN@STEP")
  parser.add_argument(
    "--data", default="", help="file, or films; none: the run's held-out data"
  )
  parser.add_argument("--kind", default=KINDS[0], choices=KINDS)
  parser.add_argument("--out", default="", help="JSONL, one completion a row")
  parser.add_argument("--html", default="", help="page that colours the tokens")
  parser.add_argument(
    "--html-rows", type=int, default=50, help="rows of data on the page"
  )
  parser.add_argument("--beta", type=float, help="none: the run's own")
  parser.add_argument("--limit", type=int, default=0, help="rows; 0: all")
  parser.add_argument(
    "--batch", type=int, default=0, help="prompts at once; 0: batch.prompts"
  )


def check(options: Options) -> None:
  """What can be wrong before anything is read.

  Raises:
    XpoError: a value out of range, or a file that cannot be written.
  """
  if options.kind not in KINDS:
    raise usage_error(
      f"--kind={options.kind!r}: choose one of {', '.join(KINDS)}"
    )
  beta = options.beta
  if beta is not None and not (beta > 0 and math.isfinite(beta)):
    raise usage_error(f"--beta={beta} must be a number > 0")
  for name, least in (("limit", 0), ("batch", 0), ("html_rows", 1)):
    value = getattr(options, name)
    if value < least:
      flag = name.replace("_", "-")
      raise usage_error(f"--{flag}={value} must be >= {least}")
  _check_files(options)


def _check_files(options: Options) -> None:
  """An output never replaces the data or the other output."""
  taken = {
    os.path.realpath(Path(p.strip()).expanduser()): "--data"
    for p in options.data.split(",")
    if p.strip()
  }
  for flag in ("out", "html"):
    name = getattr(options, flag)
    if not name:
      continue
    path = os.path.realpath(name)
    if path in taken:
      raise usage_error(
        f"--{flag}={name} is {taken[path]} too; name another file"
      )
    taken[path] = f"--{flag}"
    if os.path.isdir(path):
      raise usage_error(f"--{flag}={name} is a folder; name a file in it")
    if not os.path.isdir(os.path.dirname(path)):
      raise usage_error(
        f"--{flag}={name}: there is no folder {os.path.dirname(path)}; make it"
      )
