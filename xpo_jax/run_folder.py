"""What a run folder says of its model, and the weights that it trained."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from xpo_jax import config, stored
from xpo_jax.errors import checkpoint_error
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.models.weights.tokenizer_files import tokenizer_from_folder
from xpo_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run folder holds of one step."""

  model: Model
  settings: object  # its config
  step: int
  policy: PyTree  # {"top" | "lora", "reward_head"?}, numpy


def read(source: str | Path, dtype: str = "float32") -> Run:
  """RUN, RUN@best or RUN@STEP -> its trained weights, verified.

  Raises:
    XpoError: not a run, or no intact step.
  """
  run, which = stored.split_source(source)
  try:
    saved = json.loads((run / "model.json").read_text())
    model = Model(
      TransformerConfig(**saved["transformer"]),
      saved["trunk_blocks"],
      (saved["lora"][0], saved["lora"][1]),
      dtype,
    )
    settings = config.from_json(
      (run / "config.json").read_text(), str(run / "config.json")
    )
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
    raise checkpoint_error(
      f"{run}: not a complete run folder ({e}); train it again"
    ) from e
  step = stored.choose(run, which)
  policy = stored.restore_params(run, step)["policy"]
  return Run(model, settings, step, jax.tree.map(np.asarray, policy))


def tokenizer(source: str | Path) -> Tokenizer | None:
  """The tokenizer that a run keeps beside its checkpoints."""
  folder = stored.split_source(source)[0] / "tokenizer"
  return tokenizer_from_folder(folder) if folder.is_dir() else None
