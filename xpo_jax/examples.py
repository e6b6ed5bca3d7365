"""A run's data: read, convert to the method's kind, tokenize, cache numbers."""

from collections.abc import Callable
import dataclasses

from xpo_jax import fetch, progress
from xpo_jax.data import convert, load, templates
from xpo_jax.data.records import Account, Group, TokenGroup
from xpo_jax.errors import usage_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import states
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
    if self.rows.used == self.examples.read:
      return self.rows.then(self.examples).table()
    made = [("examples made of them", self.examples.read)]
    return self.rows.table() + made + self.examples.table()[1:]


@dataclasses.dataclass(frozen=True)
class FrozenNumbers:
  """What never changes: the trunk and the reference's top."""

  model: Model
  trunk: PyTree
  reference: PyTree


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
    return train, None
  held_out = _read(config, method, settings, True)
  load.check_leak(train.groups, held_out.groups)
  return train, held_out


def _read(config, method, settings, evaluation) -> Raw:
  groups, rows = load.load(config.data, evaluation, seed=config.seed)
  needs = method.needs(settings)
  if Feedback.BINARY in method.feedback and "token_feedback" not in needs:
    load.check_classes(groups, config.data.source, method.survey.negative)
  groups = convert.convert(
    groups,
    method.feedback,
    method.completions,
    mismatched="mismatched_completion" in method.needs(settings),
    seed=config.seed,
  )
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
  states.clean(folder)
  model, trunk, columns = numbers.model, None, {}
  if model.trunk_blocks:
    trunk = states.trunk_states(
      model,
      numbers.trunk,
      seen,
      folder,
      progress.tracked(f"trunk states, {name}"),
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
    )
  kind = part.tokens[0].kind
  return Dataset(part.tokens, part.table(), kind, columns, trunk)
