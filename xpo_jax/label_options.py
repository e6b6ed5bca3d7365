"""The flags of `xpo label`; no jax here, so that --help answers at once."""

import argparse
import os

from xpo_jax.errors import usage_error

EPILOG = """\
Shows a prompt and two of its completions, without a word on where they come
from and in an order drawn for you, and asks which is better:

  1, 2   the first, the second      t   no difference      s   skip
  u      take the last answer back  q   stop; the same command goes on later

Some pairs come again at the end, swapped, to see how steady you are. Every
answer is a row of --out: prompt, chosen, rejected, id, annotator, choice,
first, repeat, seconds. Ties and repeats have a chosen of null, which
`xpo train` drops and counts (--config.data.on_bad_row=skip if they are more
than a fifth). Several annotators may write into one file, one after the other.
At the end --out with .agreement.json instead of .jsonl says how far they agree
with each other, with themselves, and with the labels of the data.

A `generate` stage of a recipe leaves samples.jsonl to label, and the recipe
learns from the answers:

  xpo label --data=runs/o/pairs2/samples.jsonl --out=labels.jsonl \\
    --annotator=ann
  xpo run --config=configs/recipes/anthropic_online.py:smollm \\
    --workdir=runs/people --reuse=runs/o \\
    --config.stages.reward2.data.source=labels.jsonl \\
    --config.stages.reward2.data.on_bad_row=skip
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """What to label, who does it, and where the answers go."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = EPILOG
  parser.add_argument(
    "--data",
    required=True,
    help="rows of a prompt and two or more completions, or samples.jsonl",
  )
  parser.add_argument("--out", required=True, help="JSONL, grows with answers")
  parser.add_argument("--annotator", required=True, help="a name of yours")
  parser.add_argument("--format", default="auto", help="of the rows")
  parser.add_argument("--limit", type=int, default=0, help="pairs; 0: all")
  parser.add_argument(
    "--repeat", type=float, default=0.1, help="share that comes again"
  )
  parser.add_argument("--seed", type=int, default=0, help="of the order")


def check(args: argparse.Namespace) -> None:
  """Ranges and files.

  Raises:
    XpoError: a value out of its range, or a file that cannot be written.
  """
  if not (args.annotator.strip() and args.annotator.isprintable()):
    raise usage_error(f"--annotator={args.annotator!r}: give a name")
  if not 0 <= args.repeat <= 1:
    raise usage_error(f"--repeat={args.repeat} must be in [0, 1]")
  for name in ("limit", "seed"):
    if getattr(args, name) < 0:
      raise usage_error(f"--{name}={getattr(args, name)} must be >= 0")
  if not args.out.endswith(".jsonl"):
    raise usage_error(f"--out={args.out}: the name must end with .jsonl")
  paths = [p.strip() for p in args.data.split(",")]
  if os.path.realpath(args.out) in map(os.path.realpath, paths):
    raise usage_error(f"--out={args.out} is --data too; name another file")
  folder = os.path.dirname(os.path.abspath(args.out))
  if os.path.isdir(args.out) or not os.path.isdir(folder):
    raise usage_error(
      f"--out={args.out}: is a folder, or has none; name a file in a folder"
    )


def run(args: argparse.Namespace) -> None:
  """Checks, then labels."""
  check(args)
  from xpo_jax import label

  label.run(args)
