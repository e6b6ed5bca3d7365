"""Fetching moved to xpo_jax.fetch, since models fetch weights with it too."""

from xpo_jax.fetch import cache_folder, fetch, sha256_of

__all__ = ["cache_folder", "fetch", "sha256_of"]
