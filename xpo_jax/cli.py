"""The `xpo` command: thin subcommands, one-line errors, exit codes.

Nothing here imports jax before a subcommand that needs it runs, so that
`xpo --help` answers at once.
"""

import argparse
from collections.abc import Callable, Sequence
import difflib
import logging
import math
import os
import sys
import traceback
from typing import NamedTuple
import warnings

from xpo_jax.errors import Exit, XpoError, usage_error

_INSPECT_KEYS = (
  "split",
  "format",
  "template",
  "max_prompt_length",
  "max_completion_length",
  "overlong_prompt",
  "on_bad_row",
  "limit",
)
_TRACEBACK = "XPO_TRACEBACK"  # =1 shows the traceback of an internal error


class Command(NamedTuple):
  """A subcommand: what `xpo --help` says of it, and its two halves."""

  help: str
  run: Callable[..., None]
  add_flags: Callable[[argparse.ArgumentParser], None] | None = None


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand and returns the process's exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  # Libraries' notes on how they store things are not for the user.
  logging.getLogger("absl").setLevel(logging.ERROR)
  warnings.filterwarnings("ignore", module=r"orbax\.")
  try:
    return _dispatch(argv)
  except XpoError as e:
    prefix = "" if e.code == Exit.PREEMPTED else "error: "
    _complain(f"{prefix}{e}")
    return int(e.code)
  except KeyboardInterrupt:
    _complain("interrupted")
    return 130
  except BrokenPipeError:  # `xpo methods | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141
  except OSError as e:
    where = f"{e.filename}: " if e.filename else ""
    _complain(f"error: {where}{e.strerror or e}")
    return int(Exit.STORAGE)
  except Exception as e:
    if os.environ.get(_TRACEBACK) == "1":
      traceback.print_exc()
    _complain(
      f"internal error: {type(e).__name__}: {e} "
      f"(set {_TRACEBACK}=1 for the traceback)"
    )
    return 1


def _dispatch(argv: list[str]) -> int:
  if not argv or argv[0] in ("-h", "--help", "help"):
    _print_help()
    return 0 if argv else int(Exit.USAGE)
  name, rest = argv[0], argv[1:]
  command = COMMANDS.get(name)
  if command is None:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]!r}?" if near else "see xpo --help"
    raise usage_error(f"unknown subcommand {name!r}; {hint}")
  if command.add_flags is None:  # train and run: config flags
    if {"-h", "--help"} & set(rest):
      _print_config_help(name, command)
    else:
      command.run(rest)
    return 0
  args = _parse(name, command, rest)
  if args is not None:
    command.run(args)
  return 0


def _parse(name, command, rest) -> argparse.Namespace | None:
  """argparse with our errors; None when it only printed help."""
  parser = argparse.ArgumentParser(
    prog=f"xpo {name}", description=command.help, allow_abbrev=False
  )

  def fail(message):
    raise usage_error(f"xpo {name}: {message}; see xpo {name} --help")

  parser.error = fail
  command.add_flags(parser)
  try:
    args, extra = parser.parse_known_args(rest)
  except SystemExit:
    return None
  if extra:
    flag = extra[0].split("=")[0]
    known = [f for a in parser._actions for f in a.option_strings]
    near = difflib.get_close_matches(flag, known, 1)
    if near:
      raise usage_error(f"unknown flag {flag}; did you mean {near[0]}?")
    fail(f"unexpected argument {extra[0]!r}")
  return args


def _start_jax() -> None:
  from xpo_jax import fetch, parallel

  parallel.start(fetch.cache_folder())


def _train(argv: list[str]) -> None:
  from xpo_jax import config, flags

  chosen, options = flags.parse(argv)
  if "stages" in chosen:
    raise usage_error("this config has stages; use `xpo run`")
  config.validate(chosen)
  from xpo_jax import train

  _start_jax()
  train.run(chosen, options["workdir"])


def _run(argv: list[str]) -> None:
  from xpo_jax import flags

  chosen, options = flags.parse(argv)
  if "stages" not in chosen:
    raise usage_error("this config has no stages; use `xpo train`")
  from xpo_jax import pipeline

  _start_jax()
  pipeline.run(chosen, options["workdir"])


def _sample_flags(parser: argparse.ArgumentParser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--checkpoint", help="folder of a run or of an export")
  source.add_argument("--model", help="preset, folder or .gguf file")
  parser.add_argument(
    "--prompt", action="append", help="may be repeated; none: a chat"
  )
  parser.add_argument("--max-new-tokens", type=int, default=128)
  parser.add_argument(
    "--temperature", type=float, default=0.7, help="0: the likeliest token"
  )
  parser.add_argument("--top-p", type=float, default=1.0, help="in (0, 1]")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--template",
    default="auto",
    choices=["auto", "plain", "chat"],
    help="auto: the run's, else chat if the model has a chat template",
  )


def _sample(args: argparse.Namespace) -> None:
  if not (args.temperature >= 0 and math.isfinite(args.temperature)):
    raise usage_error(f"--temperature={args.temperature} must be >= 0")
  if not 0 < args.top_p <= 1:
    raise usage_error(f"--top-p={args.top_p} must be in (0, 1]")
  if args.max_new_tokens < 1:
    raise usage_error(f"--max-new-tokens={args.max_new_tokens} must be >= 1")
  if args.seed < 0:
    raise usage_error(f"--seed={args.seed} must be >= 0")
  _start_jax()
  from xpo_jax import talk

  source = args.checkpoint or args.model
  model, template, chats = talk.open_model(source, args.template)
  options = dict(
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_p=args.top_p,
    seed=args.seed,
  )
  if args.prompt:
    texts = talk.complete(model, template, args.prompt, options)
    talk.show(args.prompt, texts, chats)
  else:
    talk.loop(model, template, chats, options)


def _export_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run", required=True, help="folder of a training run")
  parser.add_argument("--output", required=True, help="folder to write")


def _export(args: argparse.Namespace) -> None:
  _must_be_folder("--run", args.run)
  from xpo_jax import pretrained

  print(pretrained.export(args.run, args.output) or args.output)


def _methods_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--markdown", action="store_true", help="the text of docs/methods.md"
  )
  parser.add_argument(
    "--survey", action="store_true", help="the 13 axes of arXiv 2407.16216"
  )


def _methods(args: argparse.Namespace) -> None:
  from xpo_jax import listing

  if args.markdown:
    print(listing.document(), end="")
    return
  listing.show(listing.survey_rows() if args.survey else listing.method_rows())


def _data_flags(parser: argparse.ArgumentParser) -> None:
  from xpo_jax.fields import FIELDS

  parser.add_argument("action", choices=["inspect"])
  parser.add_argument("source", help=FIELDS["data.source"].help)
  parser.add_argument(
    "--tokenizer", default="", help="preset, folder or run; none: bytes"
  )
  for key in _INSPECT_KEYS:
    field = FIELDS[f"data.{key}"]
    parser.add_argument(
      f"--{key.replace('_', '-')}",
      type=type(field.default),
      default=field.default,
      choices=field.choices or None,
      help=f"{field.help} (default: {field.default})",
    )


def _data(args: argparse.Namespace) -> None:
  from xpo_jax.data import inspect
  from xpo_jax.models.weights import tokenizer

  chosen = tokenizer.byte_tokenizer()
  if args.tokenizer:
    from xpo_jax import talk

    chosen = talk.load_tokenizer(args.tokenizer)
  keys = {key: getattr(args, key) for key in _INSPECT_KEYS}
  inspect.inspect_source(args.source, chosen, **keys)


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run", required=True, help="folder of a finished run")


def _evaluate(args: argparse.Namespace) -> None:
  _must_be_folder("--run", args.run)
  _start_jax()
  from xpo_jax import pipeline

  pipeline.evaluate(args.run)


COMMANDS: dict[str, Command] = {
  "train": Command("train one method from a config", _train),
  "run": Command("run the stages of a config, finished ones skipped", _run),
  "sample": Command("write completions, or chat", _sample, _sample_flags),
  "evaluate": Command("evaluate a run again", _evaluate, _evaluate_flags),
  "export": Command("write a run's weights", _export, _export_flags),
  "methods": Command("list the methods", _methods, _methods_flags),
  "data": Command("`xpo data inspect FILE`: rows, lengths, an example", _data,
                  _data_flags),
}  # fmt: skip


def _must_be_folder(flag: str, path: str) -> None:
  if not os.path.isdir(path):
    raise usage_error(f"{flag}={path} is no folder")


def _print_help() -> None:
  print("Preference alignment of language models in JAX.\n")
  print("usage: xpo SUBCOMMAND [flags]   (xpo SUBCOMMAND --help tells more)\n")
  for name, command in COMMANDS.items():
    print(f"  {name:9} {command.help}")
  codes = " ".join(f"{c.value} {c.name.lower()}" for c in Exit)
  print(f"\nExit codes: 0 done, {codes}.")


def _print_config_help(name: str, command: Command) -> None:
  from xpo_jax.fields import FIELDS

  print(f"{command.help}\n")
  print(
    f"usage: xpo {name} --config=FILE.py[:variant] --workdir=FOLDER "
    "[--config.key=value ...]\n"
  )
  print("keys of a training config and their defaults:")
  for path, field in FIELDS.items():
    choices = f" ({' | '.join(field.choices)})" if field.choices else ""
    value = "" if field.default == "" else f"={field.default}"
    print(f"  {path + value:34} {field.help}{choices}")
  print("\nmethod.* also takes the keywords of the method: see `xpo methods`.")


def _complain(message: str) -> None:
  """One red line on stderr; the message is never read as markup."""
  from rich.console import Console
  from rich.text import Text

  line = Text(" ".join(message.split()), style="red")
  Console(stderr=True, soft_wrap=True, highlight=False).print(line)


if __name__ == "__main__":
  sys.exit(main())
