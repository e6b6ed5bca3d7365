"""Names of pods against what Cloud TPU and libtpu call them."""

import pytest

from xpo_jax.aot import topologies
from xpo_jax.errors import Exit, XpoError


@pytest.mark.parametrize(
  "name, libtpu, devices",
  [
    ("v5e-16", "v5e:4x4", 16),
    ("v5e-1", "v5e:1x1", 1),
    ("v6e-256", "v6e:16x16", 256),
    ("v5p-128", "v5p:4x4x4", 64),  # cores; two a chip, one device a chip
    ("v4-128", "v4:4x4x4", 128),  # a device a core
    ("tpu7x-8", "tpu7x:2x2x1", 8),
    ("h100-8", "", 8),
  ],
)
def test_names(name, libtpu, devices):
  found = topologies.get(name)
  assert (found.libtpu, found.devices) == (libtpu, devices)


@pytest.mark.parametrize(
  "name, words",
  [("v5p-100", "v5p-128"), ("v5litepod-16", "v5e-16"), ("", "v5e-16")],
)
def test_a_name_that_is_none(name, words):
  with pytest.raises(XpoError) as error:
    topologies.get(name)
  assert error.value.code == Exit.USAGE and words in str(error.value)
