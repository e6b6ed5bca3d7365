"""Every way to align a language model with preferences, in JAX."""

__all__ = ["load_pretrained"]


def load_pretrained(source, dtype: str = "float32"):
  """See `xpo_jax.pretrained.load_pretrained`."""
  from xpo_jax import pretrained  # jax loads only when a model does

  return pretrained.load_pretrained(source, dtype)
