"""`xpo score`: what a trained model says that completions are worth.

Reads a run folder, scores data that need not be its own, and writes rewards,
credits of single tokens, a page that colours them, and a summary.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import types

import jax
import numpy as np

from xpo_jax import config as config_lib
from xpo_jax import (
  implicit,
  methods,
  progress,
  score_forward,
  score_options,
  score_page,
  score_rows,
  stored,
)
from xpo_jax.data import load, templates
from xpo_jax.data.records import Group, TokenGroup
from xpo_jax.errors import (
  checkpoint_error,
  data_error,
  numeric_error,
  usage_error,
)
from xpo_jax.methods.registry import Method
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.models.weights.tokenizer_files import tokenizer_from_folder
from xpo_jax.score_options import Options
from xpo_jax.score_rows import Scored, Summary

_TITLES = {
  "implicit": "Implicit reward",
  "token_credit": "Token credit",
  "reward": "Reward",
}


@dataclasses.dataclass(frozen=True)
class Run:
  """A run folder without its weights."""

  folder: Path
  step: int  # of the checkpoint
  config: object
  method: Method
  settings: dict
  tokenizer: Tokenizer
  finished: bool  # or a checkpoint was named


def run(options: Options) -> Summary:
  """Scores the data and writes what `options` name.

  Returns:
    metric -> mean with its standard error.

  Raises:
    XpoError: whatever is wrong with options, run, data or weights, in that
      order.
  """
  score_options.check(options)
  found = open_run(options.run)
  reward = choose(found, options)
  groups, tokens = read(found, options)
  if not found.finished:
    print(
      f"warning: {found.folder} has not finished; scoring its checkpoint of "
      f"step {found.step}"
    )
  source = f"{found.folder}@{found.step}"
  scorer = score_forward.load(
    source, found.config, found.method, reward, found.tokenizer
  )
  key = "reward" if found.method.trains_reward else "implicit_reward"
  with_tokens = found.tokenizer if options.kind == "token_credit" else None
  kept, rewards = [], []
  size = options.batch or found.config.batch.prompts
  with (
    _writer(options.out) as write,
    progress.track(len(tokens), f"scores, {options.kind}") as task,
  ):
    for part in scorer.batches(tokens, size):
      for n, numbers in part:
        scored = _scored(groups[n], tokens[n], numbers)
        rewards.append(scored.rewards)
        for row in score_rows.rows(scored, key, with_tokens):
          write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        if options.html and len(kept) < options.html_rows:
          kept.append(scored)
      task.advance(n=len(part))
  summary = score_rows.summarise(groups, rewards)
  if options.html:
    page = score_page.render(
      _page(found, options, reward, kept, len(groups), summary, key)
    )
    with _writer(options.html) as write:
      write(page)
  _show(found, options, reward, summary)
  return summary


def open_run(source: str | os.PathLike) -> Run:
  """The run in a folder, at its newest checkpoint, or RUN@best, RUN@STEP.

  Raises:
    XpoError: no run, no intact checkpoint, or no tokenizer there.
  """
  folder, which = stored.split_source(source)
  path = folder / "config.json"
  if not (path.is_file() and (folder / "model.json").is_file()):
    stages = sorted(p.parent.name for p in folder.glob("*/model.json"))
    mend = "name the folder that was --workdir of `xpo train`"
    if stages:
      mend = f"it has stages, name one of them: {', '.join(stages)}"
    raise checkpoint_error(f"{folder} is no training run; {mend}")
  try:
    text = path.read_text(encoding="utf-8")
  except UnicodeDecodeError as e:
    raise checkpoint_error(f"{path}: byte {e.start} is no UTF-8") from e
  config = config_lib.from_json(text, str(path))
  step = stored.choose(folder, which)
  tokenizer = tokenizer_from_folder(folder / "tokenizer")
  if tokenizer is None:
    raise checkpoint_error(
      f"{folder}: no tokenizer in it; copy tokenizer/ of the run back"
    )
  method = methods.get(config.method.name)
  return Run(
    folder=folder,
    step=step,
    config=config,
    method=method,
    settings=method.settings(
      {k: v for k, v in config.method.items() if k != "name"}
    ),
    tokenizer=tokenizer,
    finished=bool(which) or (folder / "summary.json").is_file(),
  )


def choose(found: Run, options: Options) -> implicit.Reward:
  """The reward of that kind that this run can give.

  Raises:
    XpoError: a reward model is asked for a policy's reward, or the other way
      round; or the reward does not split into tokens.
  """
  what, kind = f"{found.folder} ({found.method.id})", options.kind
  if found.method.trains_reward:
    if kind == "implicit":
      raise usage_error(
        f"--kind=implicit: {what} is a reward model; use --kind=reward"
      )
    if options.beta is not None:
      raise usage_error(
        f"--beta={options.beta}: {what} is a reward model and has no beta; "
        "leave it out"
      )
  elif kind == "reward":
    raise usage_error(
      f"--kind=reward: {what} is a policy and has no reward head; use "
      "--kind=implicit or --kind=token_credit"
    )
  reward = implicit.define(found.method, found.settings, options.beta)
  if kind == "token_credit" and not reward.splits:
    other = "reward" if found.method.trains_reward else "implicit"
    raise usage_error(
      f"--kind=token_credit: the reward of {what}, {reward.words}, is no sum "
      f"over tokens; use --kind={other}"
    )
  return reward


def read(found: Run, options: Options) -> tuple[list[Group], list[TokenGroup]]:
  """The data as groups and as the run's ids; prints where rows went.

  Template and lengths are the run's.

  Raises:
    XpoError: bad data, or none named and the run has no held-out data.
  """
  data = types.SimpleNamespace(**found.config.data.to_dict())
  if options.data:
    data.eval_source, data.format = options.data, "auto"
    data.eval_limit = options.limit
  elif not (data.eval_source or data.source == "films"):
    raise usage_error(
      f"{found.folder}: the run has no held-out data; name some with --data"
    )
  data.eval_limit = options.limit or data.eval_limit
  groups, account = load.load(data, evaluation=True, seed=found.config.seed)
  if not groups[0].completions:
    raise data_error(
      f"{groups[0].id}: a prompt without completions, nothing to score; add "
      "completions"
    )
  tokens, later = templates.tokenize(
    groups,
    found.tokenizer,
    data.template,
    data.max_prompt_length,
    data.max_completion_length,
    data.overlong_prompt,
    data.on_bad_row,
  )
  for warning in (*account.warnings, *later.warnings):
    print(f"warning: {warning}")
  print(f"data: {source_of(found, options)}")
  progress.print_table("rows", ("", "count"), account.then(later).table())
  by_id = {group.id: group for group in groups}
  return [by_id[t.id] for t in tokens], tokens


def source_of(found: Run, options: Options) -> str:
  """Where the data comes from."""
  data = found.config.data
  return options.data or data.eval_source or f"{data.source}, {data.eval_split}"


def _scored(group: Group, tokens: TokenGroup, numbers: dict) -> Scored:
  lengths = [len(ids) for ids in tokens.completions]
  rewards = numbers["rewards"][: len(lengths)]
  if not np.isfinite(rewards).all():
    raise numeric_error(
      f"{group.id}: a reward is not finite; the run's weights are damaged, "
      "train it again"
    )
  cut = lambda name: (
    [numbers[name][k, :n] for k, n in enumerate(lengths)]
    if name in numbers
    else None
  )
  return Scored(
    group, tokens, rewards, cut("credits"), cut("logps"), cut("reference_logps")
  )


@contextlib.contextmanager
def _writer(path: str) -> Iterator:
  """Yields write(text); the file is there when all of it is.

  Of several processes only the first writes.
  """
  if not path or jax.process_index():
    yield lambda text: None
    return
  part = Path(f"{path}.part")
  try:
    with open(part, "w", encoding="utf-8") as f:
      yield f.write
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def _reference(found: Run, reward: implicit.Reward) -> str:
  if not reward.reference:
    return "none"
  return found.config.reference.source or found.config.model.source


def _page(found, options, reward, kept, total, summary, key) -> dict:
  return {
    "title": f"{_TITLES[options.kind]}: {found.folder}",
    "facts": {
      "method": f"{found.method.id}, step {found.step}",
      "reward": reward.words,
      "reference": _reference(found, reward),
      "data": source_of(found, options),
    },
    "summary": summary,
    "reward": key.replace("_", " "),
    "reference": reward.reference,
    "samples": kept,
    "total": total,
    "tokenizer": found.tokenizer,
  }


def _show(found, options, reward, summary) -> None:
  print(f"reward of {found.folder}, step {found.step}: {reward.words}")
  progress.print_table(
    "scores",
    ("metric", "mean", "standard error", "n"),
    [
      (name, f"{e.mean:.4f}", f"{e.se:.4f}", e.n) for name, e in summary.items()
    ],
  )
  for name in (options.out, options.html):
    if name:
      print(f"written: {name}")
