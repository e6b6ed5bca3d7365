"""The flags of `xpo sample`; no jax here, so that --help answers at once."""

import argparse
import math
from typing import Any

from xpo_jax.errors import usage_error

# What only a draw needs, which beams are not.
DRAWS: dict[str, Any] = {
  "temperature": 0.7,
  "top_p": 1.0,
  "top_k": 0,
  "seed": 0,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  """What to sample from, and how."""
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    "--checkpoint", help="a run (RUN@best, RUN@STEP) or an export"
  )
  source.add_argument("--model", help="preset, folder or .gguf file")
  parser.add_argument(
    "--prompt", action="append", help="may be repeated; none: a chat"
  )
  parser.add_argument("--max-new-tokens", type=int, default=128)
  parser.add_argument(
    "--temperature", type=float, help="0: the likeliest token"
  )
  parser.add_argument("--top-p", type=float, help="in (0, 1]")
  parser.add_argument(
    "--top-k", type=int, help="of the likeliest tokens; 0: of all"
  )
  parser.add_argument(
    "--stop",
    action="append",
    default=[],
    metavar="TEXT",
    help="ends a completion and is cut off; may be repeated",
  )
  parser.add_argument(
    "--beams",
    type=int,
    default=0,
    help="so many beams search for the likeliest completion; 0: sample it",
  )
  parser.add_argument("--seed", type=int)
  parser.set_defaults(**DRAWS)
  parser.add_argument(
    "--template",
    default="auto",
    choices=["auto", "plain", "chat"],
    help="auto: the run's, else chat if the model has a chat template",
  )


def check(args: argparse.Namespace) -> None:
  """Ranges.

  Raises:
    XpoError: a value out of its range.
  """
  if not (args.temperature >= 0 and math.isfinite(args.temperature)):
    raise usage_error(f"--temperature={args.temperature} must be >= 0")
  if not 0 < args.top_p <= 1:
    raise usage_error(f"--top-p={args.top_p} must be in (0, 1]")
  if args.top_k < 0:
    raise usage_error(f"--top-k={args.top_k} must be >= 0 (0 keeps all)")
  if "" in args.stop:
    raise usage_error("--stop= is empty; give a text that ends a completion")
  if args.max_new_tokens < 1:
    raise usage_error(f"--max-new-tokens={args.max_new_tokens} must be >= 1")
  if args.beams < 0:
    raise usage_error(f"--beams={args.beams} must be >= 0 (0 samples)")
  for name, default in DRAWS.items():
    if args.beams and getattr(args, name) != default:
      raise usage_error(
        f"--{name.replace('_', '-')}={getattr(args, name)}: --beams draws "
        "nothing; leave one of them out"
      )
  if args.seed < 0:
    raise usage_error(f"--seed={args.seed} must be >= 0")


def options(args: argparse.Namespace) -> dict[str, Any]:
  """Keywords of `Pretrained.sample`, or of `likeliest.completions`."""
  names = ("max_new_tokens", "stop", *(["beams"] if args.beams else DRAWS))
  return {name: getattr(args, name) for name in names}
