"""Hugging Face folders, in and out.

config.json, *.safetensors (with or without an index), tokenizer files; language
models and reward models (sequence classification with one label). Only
safetensors: pickle-based files are refused, never opened.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from xpo_jax.errors import checkpoint_error
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import json_file, links, names, tokenizer_files
from xpo_jax.models.weights.families import (
  family_of,
  read_config,
  rows_of,
)
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row
from xpo_jax.models.weights.safetensors_files import (
  check_index,
  files_of,
  homes,
  open_file,
  read_tensor,
)
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.types import PyTree

SCORE = "score.weight"  # a reward model's head [1, D]
SCORE_BIAS = "score.bias"  # [1]; only ours have it
FLOATS = ("F32", "F16", "BF16")
_CHECKED_ROWS = 4096


class Folder(NamedTuple):
  """A model in a folder; `params` are unread leaves (see `names.Leaf`)."""

  config: TransformerConfig
  params: PyTree
  tokenizer: Tokenizer | None
  reward_head: PyTree | None = None  # numpy, as `heads.init_reward_head`


def load_folder(
  folder: str | Path,
) -> tuple[TransformerConfig, PyTree, Tokenizer | None]:
  """Reads a folder into (sizes, numpy float32 tree, tokenizer or None).

  Raises:
    XpoError: (66) one line naming the file and the mend.
  """
  found = open_folder(folder)
  params = jax.tree.map(np.asarray, found.params)
  return found.config, params, found.tokenizer


def open_folder(folder: str | Path) -> Folder:
  """Checks a folder and gives its model, the weights still unread.

  Names, shapes and dtypes are compared with config.json before any weight is
  read. A reward model counts as tied: it has no vocabulary head.

  Raises:
    XpoError: (66) one line naming the file and the mend.
  """
  folder = Path(folder)
  path = folder / "config.json"
  if not path.is_file():
    raise checkpoint_error(f"{folder}: {_why_no_model(folder)}")
  links.refuse_foreign(folder)
  fields = Fields(json_file.read_json(path), path)
  config, judges = read_config(fields), _is_reward_model(fields)
  if judges:
    config = dataclasses.replace(config, tied=True)
  files = {p: open_file(p) for p in files_of(folder)}
  home = homes(files)
  check_index(folder, home)
  rows = rows_of(config)
  expected = names.expected(rows, config)
  head = {SCORE: (1, config.width)} if judges else {}
  if SCORE_BIAS in home and judges:
    head[SCORE_BIAS] = (1,)
  aliases = _check_names(home, expected | head, rows, config, folder)
  _check_shapes(home, files, expected | head, aliases)
  read = lambda name, part=None: read_tensor(
    files, home, aliases.get(name, name), part
  )
  if config.tied and not judges:
    _check_tied(read, home, config)
  return Folder(
    config,
    names.tree(read, rows, config),
    tokenizer_files.tokenizer_from_folder(folder),
    _reward_head(read, head) if judges else None,
  )


def _why_no_model(folder: Path) -> str:
  if not folder.is_dir():
    return "no such folder"
  if (folder / "adapter_config.json").is_file():
    return "a LoRA adapter, not a whole model; merge it into its base first"
  return "no config.json; want a Hugging Face model folder"


def _is_reward_model(f: Fields) -> bool:
  classes = f.raw.get("architectures") or []
  return any(str(c).endswith("ForSequenceClassification") for c in classes)


def _reward_head(read, head) -> PyTree:
  bias = np.zeros((), np.float32)
  if SCORE_BIAS in head:
    bias = read(SCORE_BIAS)[0]
  return {"kernel": read(SCORE)[0], "bias": bias}


def _check_names(
  home: dict[str, Path],
  expected: Mapping,
  rows: Sequence[Row],
  config: TransformerConfig,
  folder: Path,
) -> dict[str, str]:
  """Compares names with the config's; returns {wanted: name in the file}."""
  aliases = _aliases(home, rows, config)
  extra = set(home) - set(expected) - set(aliases.values())
  if config.tied:
    extra -= set(_head_names(config))
  missing = set(expected) - set(home) - set(aliases)
  mend = "config.json and weights belong to different models"
  if missing == {family_of(config).head.name}:
    mend = "set tie_word_embeddings to true in config.json if it is tied"
  if any(".lora_A." in name for name in extra):
    mend = "these are LoRA factors; merge them into their base first"
  for what, which in (("misses", missing), ("has unknown", extra)):
    if which:
      raise checkpoint_error(f"{folder}: {what} tensor {_some(which)}; {mend}")
  return aliases


def _aliases(home, rows, config) -> dict[str, str]:
  """Other names under which folders keep a tensor."""
  family, found = family_of(config), {}
  for r in rows:
    for name in names.names(r, config):
      others = [*r.aliases, name.removeprefix(family.prefix)]
      if config.tied and r is family.rows[0]:
        others += _head_names(config)
      there = [o for o in others if o in home]
      if name not in home and there:
        found[name] = there[0]
  return found


def _head_names(config: TransformerConfig) -> tuple[str, ...]:
  head = family_of(config).head
  return (head.name, *head.aliases)


def _some(names: set[str]) -> str:
  more = f" and {len(names) - 1} more" if len(names) > 1 else ""
  return f"{min(names)!r}{more}"


def _check_shapes(home, files, expected, aliases) -> None:
  """Shapes and dtypes, from the headers alone."""
  for name, shape in expected.items():
    name = aliases.get(name, name)
    tensor = files[home[name]].get_slice(name)
    found = tuple(tensor.get_shape())
    if found != shape:
      raise checkpoint_error(
        f"{home[name]}: tensor {name!r} has shape {found}, config.json says"
        f" {shape}"
      )
    if tensor.get_dtype() not in FLOATS:
      raise checkpoint_error(
        f"{home[name]}: tensor {name!r} is {tensor.get_dtype()}, want one of"
        f" {', '.join(FLOATS)}"
      )


def _check_tied(read, home: dict[str, Path], config: TransformerConfig) -> None:
  """A head beside the embedding must be its copy."""
  embedding = family_of(config).rows[0].name
  for head in set(_head_names(config)) & set(home):
    for at in range(0, config.vocab_size, _CHECKED_ROWS):
      end = min(at + _CHECKED_ROWS, config.vocab_size)
      part = (slice(at, end), slice(0, config.width))
      if not np.array_equal(read(head, part), read(embedding, part)):
        raise checkpoint_error(
          f"{home[head]}: {head} differs from the embedding though config.json"
          " says tied; set tie_word_embeddings to false"
        )


def check_vocabulary(
  config: TransformerConfig, tokenizer: Tokenizer | None, where: str | Path
) -> None:
  """Refuses ids past the table: the lookup would clip them without a word."""
  if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
    raise checkpoint_error(
      f"{where}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the"
      f" model only {config.vocab_size} tokens; they do not belong together"
    )
