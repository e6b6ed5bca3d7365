"""The `xpo` command: thin subcommands, one-line errors, exit codes.

Nothing here imports jax before a subcommand that needs it runs, so that
`xpo --help` answers at once.
"""

import argparse
from collections.abc import Callable, Sequence
import difflib
import os
import sys
import traceback
from typing import NamedTuple

from xpo_jax import hushed, label_options
from xpo_jax.errors import Exit, XpoError, usage_error

_INSPECT_KEYS = (
  "split format min_gap threshold template max_prompt_length "
  "max_completion_length overlong_prompt on_bad_row limit"
).split()
_TRACEBACK = "XPO_TRACEBACK"  # =1 shows the traceback of an internal error


class Command(NamedTuple):
  """A subcommand: what `xpo --help` says of it, and its two halves."""

  help: str
  run: Callable[..., None]
  add_flags: Callable[[argparse.ArgumentParser], None] | None = None


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand and returns the process's exit code."""
  process = argv is None  # this call is all that the process does
  code, alone = _code(list(sys.argv[1:] if process else argv), process)
  # No jax.distributed without jax; its other processes must not wait for us.
  if alone and "jax" in sys.modules:
    from xpo_jax import parallel

    parallel.abandon(code)
  return code


def _code(argv: list[str], process: bool) -> tuple[int, bool]:
  """The exit code, and whether one process of a run may meet it alone."""
  hushed.libraries(process)
  try:
    return _dispatch(argv, process), False
  except XpoError as e:
    prefix = "" if e.code == Exit.PREEMPTED else "error: "
    _complain(f"{prefix}{e}")
    return int(e.code), e.code == Exit.STORAGE and not e.shared
  except KeyboardInterrupt as e:
    _complain(f"interrupted; {e}" if str(e) else "interrupted")
    return 130, True
  except BrokenPipeError:  # `xpo methods | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141, False
  except OSError as e:
    where = f"{e.filename}: " if e.filename else ""
    _complain(f"error: {where}{e.strerror or e}")
    return int(Exit.STORAGE), True
  except Exception as e:
    if os.environ.get(_TRACEBACK) == "1":
      traceback.print_exc()
    _complain(
      f"internal error: {type(e).__name__}: {e} "
      f"(set {_TRACEBACK}=1 for the traceback)"
    )
    return 1, True


def _dispatch(argv: list[str], process: bool) -> int:
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
      from xpo_jax import config_help

      config_help.show(name, command.help)
      return 0
    from xpo_jax import stopping

    with stopping.from_the_start(process):
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

  chosen, options = flags.parse(argv, optional=("allow-change",))
  if "stages" in chosen:
    raise usage_error("this config has stages; use `xpo run`")
  config.validate(chosen)
  from xpo_jax import train

  _start_jax()
  allowed = [name for name in options["allow-change"].split(",") if name]
  train.run(chosen, options["workdir"], allow_change=allowed)


def _run(argv: list[str]) -> None:
  from xpo_jax import flags

  chosen, options = flags.parse(argv, optional=("reuse",))
  if "stages" not in chosen:
    raise usage_error("this config has no stages; use `xpo train`")
  reuse = [part for part in options["reuse"].split(",") if part]
  for part in reuse:
    _must_be_folder("--reuse", part)
  from xpo_jax import pipeline

  _start_jax()
  pipeline.run(chosen, options["workdir"], reuse)


def _compile(argv: list[str]) -> None:
  from xpo_jax import flags

  chosen, options = flags.parse(argv, ("topology",), ("table", "hlo"))
  from xpo_jax.aot import report

  report.run(chosen, **options)


def _sample_flags(parser: argparse.ArgumentParser) -> None:
  from xpo_jax import sample_options

  sample_options.add_flags(parser)


def _sample(args: argparse.Namespace) -> None:
  from xpo_jax import sample_options

  sample_options.check(args)
  _start_jax()
  from xpo_jax import talk

  source = args.checkpoint or args.model
  model, template, chats = talk.open_model(source, args.template)
  options = sample_options.options(args)
  if args.prompt:
    texts = talk.complete(model, template, args.prompt, options)
    talk.show(args.prompt, texts, chats)
  else:
    talk.loop(model, template, chats, options)


def _export_flags(parser: argparse.ArgumentParser) -> None:
  from xpo_jax import export_options

  export_options.add_flags(parser)


def _export(args: argparse.Namespace) -> None:
  _must_be_folder("--run", args.run)
  from xpo_jax import export_options

  options = export_options.read(args)
  from xpo_jax import exports

  print(exports.export(args.run, args.output, **options))


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


def _verify_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="folder of a run, or of one with stages")
  parser.add_argument("--json", action="store_true", help="for programs")


def _verify(args: argparse.Namespace) -> None:
  from xpo_jax import verify

  verify.run(args.run, args.json)


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
  from xpo_jax import evaluate_options

  evaluate_options.add_flags(parser)


def _evaluate(args: argparse.Namespace) -> None:
  from xpo_jax import evaluate_options

  evaluate_options.run(args, _start_jax)


def _score_flags(parser: argparse.ArgumentParser) -> None:
  from xpo_jax import score_options

  score_options.add_flags(parser)


def _score(args: argparse.Namespace) -> None:
  _must_be_folder("--run", args.run)
  from xpo_jax import score_options

  options = score_options.Options(**vars(args))
  score_options.check(options)
  _start_jax()
  from xpo_jax import score

  score.run(options)


COMMANDS: dict[str, Command] = {
  "train": Command("train one method from a config", _train),
  "run": Command("run the stages of a config, finished ones skipped", _run),
  "compile": Command("compile a step for a TPU pod, without one", _compile),
  "sample": Command("write completions, or chat", _sample, _sample_flags),
  "evaluate": Command("compare models, or evaluate a run again", _evaluate,
                      _evaluate_flags),
  "score": Command("rewards and token credits", _score, _score_flags),
  "label": Command("compare two samples, blind", label_options.run,
                   label_options.add_flags),
  "export": Command("write a run's weights", _export, _export_flags),
  "verify": Command("check a run's files byte by byte", _verify, _verify_flags),
  "methods": Command("list the methods", _methods, _methods_flags),
  "data": Command("`xpo data inspect FILE`: rows, lengths, an example", _data,
                  _data_flags),
}  # fmt: skip


def _must_be_folder(flag: str, path: str) -> None:
  # A run's step may follow its folder, as RUN@best.
  if not os.path.isdir(path) and not os.path.isdir(path.rpartition("@")[0]):
    raise usage_error(f"{flag}={path} is no folder")


def _print_help() -> None:
  print("Preference alignment of language models in JAX.\n")
  print("usage: xpo SUBCOMMAND [flags]   (xpo SUBCOMMAND --help tells more)\n")
  for name, command in COMMANDS.items():
    print(f"  {name:9} {command.help}")
  codes = " ".join(f"{c.value} {c.name.lower()}" for c in Exit)
  print(f"\nExit codes: 0 done, {codes}.")


def _complain(message: str) -> None:
  """One red line on stderr; the message is never read as markup."""
  from rich.console import Console
  from rich.text import Text

  line = Text(" ".join(message.split()), style="red")
  Console(stderr=True, soft_wrap=True, highlight=False).print(line)


if __name__ == "__main__":
  sys.exit(main())
