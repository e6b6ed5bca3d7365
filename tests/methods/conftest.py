"""Formula tests run in float64; nothing outside this folder does."""

import jax
import pytest


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield
