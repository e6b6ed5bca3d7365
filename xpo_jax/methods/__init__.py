"""One file a method; `get(id)` gives its pure loss and what it needs."""

from xpo_jax.methods.registry import Method, Survey, get, names

__all__ = ["Method", "Survey", "get", "names"]
