"""LoRA factors as a PEFT adapter: adapter_config.json + safetensors.

A module's factors are A [r, in] and B [out, r], its weight's change is
alpha / r * B A. Where the file joins query, key and value in one module, their
factors are stacked: A [3 r, in], and B with a block each, so that the change is
the same.
"""

from collections.abc import Iterator, Mapping
import math
from pathlib import Path

import numpy as np

from xpo_jax.errors import usage_error
from xpo_jax.models.model import Model
from xpo_jax.models.weights import export, json_file, names, tokenizer_files
from xpo_jax.models.weights.families import family_of
from xpo_jax.models.weights.names import Row
from xpo_jax.models.weights.tokenizer import Tokenizer


def save_adapter(
  folder: str | Path,
  model: Model,
  lora: Mapping,
  base: str,
  tokenizer: Tokenizer | None,
) -> None:
  """Writes the LoRA factors of a model's top blocks, float32.

  Args:
    folder: new, or empty.
    model: sizes, rank and scale; factors belong to its last blocks.
    lora: {"blocks": {layer: {name_down, name_up}}}, stacked.
    base: the folder or hub name of the weights that the adapter adds to.
    tokenizer: written too unless None.

  Raises:
    XpoError: (64) the model has no LoRA factors, (66) NaN, (74) not written.
  """
  rank, scale = model.lora
  if not rank:
    raise usage_error(
      "adapter: this model has no LoRA factors; export it whole"
    )
  config, tensors, ranks = model.config, {}, {}
  for row in family_of(config).rows:
    if _kernel(row) in lora["blocks"].get(row.paths[0][1], {}):
      module = row.name.removesuffix(".weight").split("{}.")[1]
      ranks[module] = rank * len(row.paths)
      tensors |= dict(_factors(row, model, lora))
  joined = {m: r for m, r in ranks.items() if r != rank}
  content = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": rank,
    "lora_alpha": scale * rank,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": sorted(ranks),
    "rank_pattern": joined,
    "alpha_pattern": {m: scale * r for m, r in joined.items()},
    # GPT-2's linear layers are [in, out].
    "fan_in_fan_out": config.family == "gpt2",
    "inference_mode": True,
  }
  if model.trunk_blocks:
    own = range(model.trunk_blocks, config.layers)
    content["layers_to_transform"] = list(own)
  with export.new_folder(folder) as part:
    json_file.write_json(part / "adapter_config.json", content)
    path = part / "adapter_model.safetensors"
    export.write_file(path, tensors, "float32")
    if tokenizer is not None:
      tokenizer_files.save_tokenizer(tokenizer, part)


def _kernel(row: Row) -> str:
  return f"{row.paths[0][-1]}_down"


def _factors(
  row: Row, model: Model, lora: Mapping
) -> Iterator[tuple[str, np.ndarray]]:
  config, first = model.config, model.trunk_blocks
  for i, layer in enumerate(range(first, config.layers)):
    parts = []
    for _, part, name in row.paths:
      own = lora["blocks"][part]
      down, up = own[f"{name}_down"][i], own[f"{name}_up"][i]
      parts.append((np.asarray(down), np.asarray(up)))
    module = row.name.format(layer).removesuffix(".weight")
    prefix = f"base_model.model.{module}.lora"
    yield f"{prefix}_A.weight", _stacked_down(parts)
    yield f"{prefix}_B.weight", _stacked_up(row, config, parts)


def _stacked_down(parts) -> np.ndarray:
  """[T r, in]."""
  flat = [down.reshape(-1, down.shape[-1]).T for down, _ in parts]
  return np.ascontiguousarray(np.concatenate(flat))


def _stacked_up(row: Row, config, parts) -> np.ndarray:
  """[out, T r]: rows in the file's order, a block of columns a kernel."""
  rank = parts[0][1].shape[0]
  out = next(w for w in row.file if not row.tree.startswith(w.replace("T", "")))
  size = names.sizes(config, row)
  made = np.zeros((*(size[x] for x in out), len(parts) * rank), np.float32)
  for t, (_, up) in enumerate(parts):
    own = np.moveaxis(up, 0, -1)  # [*out letters, r]
    at = tuple(t if x == "T" else slice(None) for x in out)
    made[(*at, slice(t * rank, (t + 1) * rank))] = own
  return made.reshape(math.prod(size[x] for x in out), -1)
