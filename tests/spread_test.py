"""Sampling on all devices, and on one."""

import jax
import numpy as np
import pytest

from xpo_jax import pretrained

PROMPTS = ["The cat", "Name a colour: ", "a", "Once upon a time, there"]
HOW = dict(max_new_tokens=6, completions=3, seed=4, rows=np.arange(7, 11))


@pytest.fixture(scope="module")
def tiny():
  return pretrained.load_pretrained("tiny")


def one_device(monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])


@pytest.mark.parametrize("count", [1, 4])
def test_all_devices_draw_what_one_draws(tiny, monkeypatch, count):
  how = HOW | {"rows": HOW["rows"][:count]}
  every = tiny.spread()
  assert every.mesh.size == len(jax.devices()) == 8
  found, texts = every.sample(PROMPTS[:count], stop=["e"], **how)
  one_device(monkeypatch)
  alone = tiny.spread()
  assert alone.mesh is None
  for own in (alone, tiny):
    wanted, said = own.sample(PROMPTS[:count], stop=["e"], **how)
    assert texts == said
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_array_equal(found.ended, wanted.ended)
    np.testing.assert_allclose(
      found.sampler_logps, wanted.sampler_logps, atol=1e-5
    )
  assert found.tokens.shape == (count, 3, 6)


def test_each_device_holds_a_part(tiny):
  whole = sum(x.nbytes for x in jax.tree.leaves(tiny.params))
  held = sum(
    x.addressable_shards[0].data.nbytes
    for x in jax.tree.leaves(tiny.spread().params)
  )
  assert held < whole / 4
