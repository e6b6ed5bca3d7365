"""The flags of `xpo evaluate`; no jax here, so that --help answers at once."""

import argparse
from collections.abc import Callable
import math
import os
from typing import Any

from ml_collections import ConfigDict

from xpo_jax import judge_options
from xpo_jax.errors import usage_error

EPILOG = """\
Two or more models on the same prompts, the last against the first:

  xpo evaluate runs/sft runs/dpo --workdir=runs/compared
  xpo evaluate a-folder runs/dpo@best --data=held.jsonl --prompts=64 \\
    --judge=pairwise --judge-source=a-preset --choices=questions.jsonl \\
    --workdir=runs/compared

A model is a run (RUN@best, RUN@STEP), an export, a preset or a .gguf file. The
folder gets the samples, the verdicts, evaluation.json and report.html; the same
command goes on where it was stopped. Without models, --run=FOLDER evaluates a
training run again, or shows the tables of a finished one.
"""
_JUDGES = {
  "judge": "says which of two texts is better",
  "harmless": "scores one text; above --harmless-above it is harmless",
}
MAX_AT_ONCE = 64  # prompts


def add_flags(parser: argparse.ArgumentParser) -> None:
  """What to compare, on what, and who judges."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = EPILOG
  flag = parser.add_argument
  flag("models", nargs="*", metavar="MODEL", help="two or more")
  flag("--run", default="", help="folder of a finished run, without models")
  flag("--workdir", default="", help="folder of the comparison")
  flag("--data", default="films", help="films, or a file whose prompts count")
  flag("--prompts", type=int, default=32, help="the first so many; 0: all")
  flag("--completions", type=int, default=1, help="samples a prompt")
  flag("--max-new-tokens", type=int, default=64)
  flag("--temperature", type=float, default=1.0, help="1: KL is a KL")
  flag("--top-p", type=float, default=1.0, help="in (0, 1]")
  flag("--seed", type=int, default=0)
  flag("--template", default="auto", choices=["auto", "plain", "chat"])
  flag("--reward", action="append", default=[], metavar="RUN", help="a reward "
       "model of the same tokenizer; may be repeated")  # fmt: skip
  flag("--choices", default="", help="multiple-choice rows: scores or pairs")
  flag("--texts", default="", help="held-out texts")
  flag("--labelled", default="", help="films or rows that people ranked")
  for name, words in _JUDGES.items():
    flag(f"--{name}", default="", metavar="NAME", help=words)
    for key, value in judge_options.DEFAULTS.items():
      if key == "name":
        continue
      how = {"type": type(value)}
      if isinstance(value, bool):
        how = {"action": "store_true"}
      flag(f"--{name}-{key.replace('_', '-')}", default=value, **how)
  flag("--harmless-above", type=float, default=0.0, help="a score")


def check(args: argparse.Namespace) -> None:
  """What can be wrong before anything is read.

  Raises:
    XpoError: neither models nor a run, no --workdir, or a value out of range.
  """
  if args.run:
    if args.models:
      raise usage_error(
        f"--run={args.run} is evaluated alone; leave it out to compare "
        f"{', '.join(args.models)}"
      )
    if not os.path.isdir(args.run):
      raise usage_error(f"--run={args.run} is no folder")
    return
  if len(args.models) < 2:
    raise usage_error(
      "name two models to compare, as `xpo evaluate runs/sft runs/dpo`, or "
      "--run=FOLDER to evaluate a run again"
    )
  if not args.workdir:
    raise usage_error("--workdir is required: the folder of the comparison")
  if len(set(args.models)) < len(args.models):
    raise usage_error(f"models {' '.join(args.models)}: one is named twice")
  if not (args.temperature >= 0 and math.isfinite(args.temperature)):
    raise usage_error(f"--temperature={args.temperature} must be >= 0")
  if not 0 < args.top_p <= 1:
    raise usage_error(f"--top-p={args.top_p} must be in (0, 1]")
  least = {"prompts": 0, "seed": 0, "completions": 1, "max_new_tokens": 1}
  for name, low in least.items():
    if getattr(args, name) < low:
      flag = name.replace("_", "-")
      raise usage_error(f"--{flag}={getattr(args, name)} must be >= {low}")
  for name in ("data", "choices", "texts", "labelled"):
    _must_be_there(f"--{name}", getattr(args, name))
  for name in _JUDGES:
    judge_options.check(_section(args, name), f"--{name}")


def run(args: argparse.Namespace, start: Callable[[], None]) -> None:
  """Checks, then compares the models or evaluates the run again.

  Args:
    args: of `add_flags`.
    start: makes the devices ready, once nothing is wrong with the flags.
  """
  check(args)
  start()
  from xpo_jax import pipeline

  if args.run:
    pipeline.evaluate(args.run)
  else:
    pipeline.run(settings(args), args.workdir)


def settings(args: argparse.Namespace) -> ConfigDict:
  """A run of one evaluation, for `pipeline.run`.

  A run's checkpoint is named by its step, so that a folder whose models have
  changed since is refused.

  Raises:
    XpoError: a model that is not there, or has no tokenizer.
  """
  names = labels(args.models)
  policies = dict(zip(names, map(_pinned, args.models), strict=True))
  rewards = dict(zip(labels(args.reward), map(_pinned, args.reward)))
  same = _same_tokenizer(list(policies.values()))
  measures: dict[str, Any] = {} if args.data == "films" else {"measures": ()}
  notes = []
  if not same:
    notes.append("The models have different tokenizers: no KL.")
  if args.temperature != 1 or args.top_p != 1:
    notes.append(
      "Sampled at another temperature than 1, or by top-p: KL and sequence "
      "entropy are distances, not the policy's own."
    )
  evaluate = dict(
    policies=policies,
    columns=tuple(names),
    baseline=names[0],
    final=names[-1],
    reference=names[0] if same else "",
    rewards=rewards,
    data=dict(
      source=args.data, split="validation", format="auto", on_bad_row="error"
    ),
    prompts=args.prompts,
    prompts_at_once=min(args.prompts or MAX_AT_ONCE, MAX_AT_ONCE),
    template=args.template,
    completions=args.completions,
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_p=args.top_p,
    seed=args.seed,
    shared_blocks=0,
    judge=_pinned_section(args, "judge"),
    harmless=_pinned_section(args, "harmless"),
    harmless_above=args.harmless_above,
    labelled=args.labelled,
    choices=args.choices,
    texts=args.texts,
    **measures,
  )
  return ConfigDict(
    dict(
      title=f"{names[-1]} against {names[0]}",
      model=", ".join(args.models),
      data=args.data,
      notes=tuple(notes),
      order=("evaluate",),
      stages=dict(evaluate=evaluate),
    )
  )


def labels(sources: list[str]) -> list[str]:
  """Short names: the last part of each path, numbered where two are equal."""
  short = [os.path.basename(os.path.normpath(s)) or s for s in sources]
  return [
    f"{name} {n}" if short.count(name) > 1 else name
    for n, name in enumerate(short, 1)
  ]


def _section(args: argparse.Namespace, name: str) -> dict[str, Any]:
  given = {"name": getattr(args, name)}
  for key in judge_options.DEFAULTS:
    if key != "name":
      given[key] = getattr(args, f"{name}_{key}")
  return given


def _pinned_section(args: argparse.Namespace, name: str) -> dict[str, Any]:
  given = _section(args, name)
  models = {key: _pinned(given[key]) for key in ("source", "reference")}
  return given | models


def _must_be_there(flag: str, source: str) -> None:
  paths = [p.strip() for p in source.split(",") if p.strip()]
  for path in paths if source != "films" else ():
    if not os.path.exists(os.path.expanduser(path)):
      raise usage_error(f"{flag}={path}: there is no such file")


def _pinned(source: str) -> str:
  from xpo_jax import stored

  folder, which = stored.split_source(source)
  if not source or not (folder / "model.json").is_file():
    return source
  return f"{folder}@{stored.choose(folder, which)}"


def _same_tokenizer(sources: list[str]) -> bool:
  from xpo_jax import talk

  return len({talk.load_tokenizer(s).fingerprint() for s in sources}) == 1
