"""What a family of models is: one table of names, one reader, one writer."""

from collections.abc import Callable
from typing import NamedTuple

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row


class Family(NamedTuple):
  """Everything that is particular to a model_type of Hugging Face."""

  model_type: str
  rows: tuple[Row, ...]  # the embedding first; without the head
  head: Row
  read: Callable[[Fields], TransformerConfig]
  write: Callable[[TransformerConfig], dict]
  language_model: str  # class names in config.json
  reward_model: str

  @property
  def prefix(self) -> str:
    """What the names of the backbone start with; some folders leave it out."""
    return self.rows[0].name.split(".")[0] + "."
