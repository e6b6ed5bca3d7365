"""The parts of a model make the whole, by layers and by pieces of a row."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import tiny_models as tiny
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model


def test_a_cache_filled_by_pieces_gives_one_pass():
  model = Model(tiny.CONFIG, trunk_blocks=1)
  weights = tiny.weights(model, tiny.params())
  tokens, places = tiny.one_row(
    ([7, 3, 9, 1], [(1, [4, 4, 6]), (2, [30, 2])]), ([5, 6], [(1, [8, 8])])
  )
  tokens = np.concatenate([tokens, (tokens * 7 + 1) % 53])
  places = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), places)
  wanted = jax.jit(lm.hidden, static_argnums=0)(model, weights, tokens, places)
  # Three slots more than needed, and old numbers in all: group 0 hides them.
  length, size = tokens.shape[1], 5
  assert length % size == 0
  slots = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 3))), places)
  caches = lm.init_caches(model, 2, length + 3)
  caches = jax.tree.map(lambda x: x + 9.0, caches)
  extend, found = jax.jit(lm.extend, static_argnums=0), []
  for at in range(0, length, size):
    piece = slice(at, at + size)
    here = jax.tree.map(lambda x: x[:, piece], places)
    written = np.arange(length + 3)[None] < at + size
    shown = jax.tree.map(lambda x: x * written, slots)
    states, caches = extend(
      model, weights, tokens[:, piece], here, caches, shown, at
    )
    found.append(states)
  inside = places.group > 0
  found = np.concatenate(found, axis=1)
  tiny.assert_near(found[inside], np.asarray(wanted)[inside], 5e-6)


def test_trunk_and_top_are_the_whole_model():
  config, whole = tiny.TIED, tiny.params(tiny.TIED)
  tokens, places = tiny.one_row(
    ([7, 3, 9], [(1, [4, 8, 1]), (2, [30])]), ([5, 6], [(1, [8, 8])])
  )
  logits = lambda model: jax.jit(
    lambda w: lm.logits(model, w, lm.hidden(model, w, tokens, places))
  )(tiny.weights(model, whole))
  wanted = logits(Model(config))
  tiny.assert_near(logits(Model(config, trunk_blocks=2)), wanted, 1e-6)


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.TIED])
def test_split_puts_embedding_and_head_into_the_trunk(config):
  whole = tiny.params(config)
  for n in range(1, config.layers):
    trunk, top = lm.split(whole, n)
    assert set(trunk) == set(whole) - {"final_norm"}
    assert set(top) == {"blocks", "final_norm"}
    assert top["blocks"]["mlp"]["up"].shape[0] == config.layers - n
    jax.tree.map(np.testing.assert_array_equal, lm.join(trunk, top), whole)


def test_parameters_are_those_of_the_description():
  config = dataclasses.replace(tiny.CONFIG, layers=2)
  shapes = jax.tree.map(np.shape, tiny.params(config))
  attention = {
    "query": (2, 16, 4, 6),
    "key": (2, 16, 2, 6),
    "value": (2, 16, 2, 6),
    "out": (2, 4, 6, 16),
  }
  mlp = {"gate": (2, 16, 24), "up": (2, 16, 24), "down": (2, 24, 16)}
  norm = {"scale": (2, 16)}
  assert shapes == {
    "embed": {"embedding": (53, 16)},
    "blocks": {
      "attention_norm": norm,
      "attention": attention,
      "mlp_norm": norm,
      "mlp": mlp,
    },
    "final_norm": {"scale": (16,)},
    "head": {"kernel": (16, 53)},
  }


def test_layers_start_apart_and_at_the_right_scale():
  config = dataclasses.replace(tiny.CONFIG, width=64, mlp_width=256, layers=2)
  key = jax.random.key(0, impl="rbg")  # compiles faster
  made = jax.jit(lm.init, static_argnums=0)(Model(config), key)
  blocks = jax.tree.map(np.asarray, made)["blocks"]
  down = blocks["mlp"]["down"].unbox()
  assert not np.array_equal(down[0], down[1])
  # Fan-in of the down projection is the MLP's width.
  assert abs(down.std() * np.sqrt(256) - 1) < 0.05
  out = blocks["attention"]["out"].unbox()
  assert abs(out.std() * np.sqrt(config.heads * config.head_dim) - 1) < 0.05
  query = blocks["attention"]["query"].unbox()
  assert abs(query.std() * np.sqrt(config.width) - 1) < 0.05


def test_lora_starts_with_one_factor_zero_and_the_other_drawn():
  config = dataclasses.replace(tiny.CONFIG, layers=2, width=64)
  model = Model(config, trunk_blocks=1, lora=(32, 2.0))
  key = jax.random.key(0, impl="rbg")
  made = nn.unbox(jax.jit(lm.init_lora, static_argnums=0)(model, key))
  for path, leaf in jax.tree_util.tree_leaves_with_path(made):
    assert leaf.shape[0] == 1  # only the top block
    assert np.any(leaf) == ("_down" in jax.tree_util.keystr(path)), path
  down = np.asarray(made["blocks"]["attention"]["query_down"])
  assert abs(down.std() * np.sqrt(config.width) - 1) < 0.1
