"""The flags of `xpo export`, checked before anything is loaded."""

import argparse
import math

from xpo_jax.errors import usage_error


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Declares them."""
  parser.add_argument("--run", required=True, help="a run; RUN@best, RUN@STEP")
  parser.add_argument("--output", required=True, help="folder to write")
  parser.add_argument(
    "--dtype", default="float32", choices=["float32", "bfloat16", "float16"]
  )
  parser.add_argument(
    "--shard-gb", type=float, default=4.0, help="of a file, at most"
  )
  parser.add_argument(
    "--adapter", action="store_true", help="only LoRA's factors, as for PEFT"
  )


def read(args: argparse.Namespace) -> dict:
  """Keywords of `exports.export`.

  Raises:
    XpoError: a value out of range.
  """
  if not 0 < args.shard_gb < math.inf:
    raise usage_error(f"--shard-gb={args.shard_gb} must be above 0")
  size = max(1, round(args.shard_gb * 10**9))
  return dict(dtype=args.dtype, shard_bytes=size, adapter=args.adapter)
