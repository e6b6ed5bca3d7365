"""A run's data: read, convert to the method's kind, tokenize, cache numbers."""

import collections
from collections.abc import Callable
import dataclasses

from xpo_jax import fetch, progress
from xpo_jax.data import convert, load, packing, templates
from xpo_jax.data.records import Account, Group, TokenGroup
from xpo_jax.errors import data_error, usage_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import cache, states
from xpo_jax.models.model import Model, Weights
from xpo_jax.types import Feedback, PyTree


@dataclasses.dataclass(frozen=True)
class Raw:
  """Groups of a kind that the method takes, and the account of the rows."""

  groups: list[Group]
  rows: Account


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token groups with their two accounts: rows, then examples of them."""

  tokens: list[TokenGroup]
  rows: Account
  examples: Account

  def table(self) -> list[tuple[str, int]]:
    """Rows for printing; one account if no conversion changed the count."""
    return self.rows.table_with(self.examples)


@dataclasses.dataclass(frozen=True)
class FrozenNumbers:
  """What never changes: the trunk and the reference's top."""

  model: Model
  trunk: PyTree
  reference: PyTree
  devices: states.Devices = states.ONE


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One split, ready to pack."""

  groups: list[TokenGroup]
  table: list[tuple[str, int]]
  kind: Feedback
  columns: dict[str, Callable]  # name -> lookup group -> [n_k] a completion
  trunk: Callable | None  # lookup group -> states [slots, D]

  def __len__(self):
    return len(self.groups)


def read(config, method: Method, settings: dict) -> tuple[Raw, Raw | None]:
  """(training, held-out) groups; no held-out data is None.

  Raises:
    XpoError: bad data, no conversion to the method's kind, or rows that are in
      both splits.
  """
  train = _read(config, method, settings, False)
  if not (config.data.eval_source or config.data.source == "films"):
    return _converted(config, method, settings, train), None
  held_out = _read(config, method, settings, True)
  # Before the conversion and after it: each hides some rows of both splits.
  load.check_leak(train.groups, held_out.groups)
  both = [_converted(config, method, settings, x) for x in (train, held_out)]
  load.check_leak(*(raw.groups for raw in both))
  return both[0], both[1]


def _read(config, method, settings, evaluation) -> Raw:
  first = 0 if evaluation else config.data.first
  groups, rows = load.load(config.data, evaluation, config.seed, first)
  if not groups[0].completions:
    raise data_error(
      f"{groups[0].id}: a prompt without completions, which only samples can "
      "teach something; set rollout.completions, or add completions"
    )
  if "token_feedback" in method.needs(settings):
    load.check_step_labels(groups, config.data.source)
  elif Feedback.BINARY in method.feedback:
    load.check_classes(groups, config.data.source, method.survey.negative)
  return Raw(groups, rows)


def _converted(config, method, settings, raw: Raw) -> Raw:
  """Rows that say nothing to the method (a tie, say) are counted as such."""
  groups = convert.convert(
    raw.groups,
    method.feedback,
    method.completions,
    method.needs(settings),
    config.seed,
  )
  made = {id for g in groups for id in (g.id, g.id.rpartition("/")[0])}
  lost = collections.Counter(
    undecided=sum(g.id not in made for g in raw.groups)
  )
  rows = raw.rows
  if rows.used != len(raw.groups):  # several examples were made of a row
    rows = dataclasses.replace(rows, notes=rows.notes + lost)
  else:
    used = rows.used - lost.total()
    dropped = rows.dropped + lost
    rows = dataclasses.replace(rows, used=used, dropped=dropped)
  return Raw(groups, rows)


def texts(raw: Raw) -> list[str]:
  """All prompts and completions, for learning a tokenizer."""
  text = lambda p: p if isinstance(p, str) else "\n".join(m.content for m in p)
  return [t for g in raw.groups for t in (text(g.prompt), *g.completions)]


def tokenize(config, raw: Raw, tokenizer) -> Tokens:
  """Template, ids, truncation; prints warnings about dropped examples.

  Raises:
    XpoError: no tokenizer, or nothing is left.
  """
  if tokenizer is None:
    raise usage_error(
      f"model.source={config.model.source!r} has no tokenizer; add "
      "tokenizer.json to the folder"
    )
  tokens, account = templates.tokenize(
    raw.groups,
    tokenizer,
    config.data.template,
    config.data.max_prompt_length,
    config.data.max_completion_length,
    config.data.overlong_prompt,
    config.data.on_bad_row,
  )
  for warning in (*raw.rows.warnings, *account.warnings):
    print(f"warning: {warning}")
  return Tokens(tokens, raw.rows, account)


def finish(
  config,
  method: Method,
  settings: dict,
  numbers: FrozenNumbers,
  part: Tokens,
  seen: list[TokenGroup],
  name: str,
) -> Dataset:
  """Adds cached trunk states and reference log-probs of the groups `seen`."""
  folder = fetch.cache_folder() / "states"
  cache.clean(folder)
  model, trunk, columns = numbers.model, None, packing.carried(part.tokens)
  if model.trunk_blocks:
    trunk = states.trunk_states(
      model,
      numbers.trunk,
      seen,
      folder,
      progress.tracked(f"trunk states, {name}"),
      numbers.devices,
    )
  cached = config.reference.mode == "cached"
  if cached and "reference_logps" in method.needs(settings):
    columns["reference_logps"] = states.reference_logps(
      dataclasses.replace(model, lora=(0, 1.0)),
      Weights(numbers.trunk, numbers.reference),
      seen,
      folder,
      trunk,
      progress.tracked(f"reference log-probs, {name}"),
      numbers.devices,
    )
  kind = part.tokens[0].kind
  return Dataset(part.tokens, part.table(), kind, columns, trunk)
