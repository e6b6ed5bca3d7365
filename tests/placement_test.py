"""Where a run's start comes from."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from xpo_jax import config, parallel, placement, pretrained
from xpo_jax.errors import XpoError
from xpo_jax.models import states
from xpo_jax.models.model import Weights
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.pretrained import Pretrained


@pytest.mark.parametrize(
  "date, kept", [("", "2020-01-01"), ("2024-07-26", None)]
)
def test_t13_the_config_s_date_wins_over_the_folder_s(monkeypatch, date, kept):
  own = dataclasses.replace(byte_tokenizer(), template_date="2020-01-01")
  monkeypatch.setattr(
    pretrained, "load_pretrained", lambda *_, **__: Pretrained(None, {}, own)
  )
  settings = config.base()
  settings.model.source = "m"
  settings.data.template_date = date
  found = placement.load_policy(settings, [])
  assert found.tokenizer.template_date == (kept or date)
  mute = Pretrained(None, {}, None)
  monkeypatch.setattr(pretrained, "load_pretrained", lambda *_, **__: mute)
  assert placement.load_policy(settings, []) is mute


def test_cached_numbers_come_from_the_mesh(tmp_path):
  """Each device holds its part of the reference; the numbers are the same."""
  mesh = parallel.make_mesh(2, 2, 2, devices=jax.devices())
  groups = tiny.members(tiny.objective("dpo"), 9)
  weights = Weights({}, tiny.params(1))
  devices = placement.devices_of(mesh, tiny.MODEL)
  want, got = (
    states.reference_logps(
      tiny.MODEL, weights, groups, tmp_path, devices=chosen
    )
    for chosen in (states.ONE, devices)
  )
  kernel = np.random.default_rng(2).normal(size=tiny.MODEL.config.width)
  head = {"kernel": kernel.astype(np.float32), "bias": np.float32(0.5)}
  scores, others = (
    states.reward_scores(
      tiny.MODEL, weights, head, groups, tmp_path, devices=chosen
    )
    for chosen in (states.ONE, devices)
  )
  for group in groups:
    for one, other in ((want, got), (scores, others)):
      for a, b in zip(one(group), other(group), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
  for name in ("logps", "rewards"):
    assert len(list(tmp_path.glob(f"{name}-*.npy"))) == 2  # other last bits
  placed = devices.weights(weights)
  query = placed.top["blocks"]["attention"]["query"]
  assert query.addressable_shards[0].data.size * 4 == query.size
  assert devices.weights(weights) is placed
  one = parallel.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  assert placement.devices_of(one, tiny.MODEL) is states.ONE


@pytest.mark.parametrize(
  "key, method", [("reference.source", "dpo"), ("rollout.value_source", "ppo")]
)
def test_a_model_of_other_tokens_is_refused(monkeypatch, key, method):
  """Tables of one size would be read without a word."""
  own, held = byte_tokenizer(), tiny.objective(method)
  other = dataclasses.replace(own, eos_id=own.eos_id - 1)
  head = {"kernel": np.zeros((tiny.MODEL.config.width, 1))}
  loaded = Pretrained(tiny.MODEL, tiny.params(), own, head)
  load = lambda source, *_, **__: (
    dataclasses.replace(loaded, tokenizer=other) if source == "other" else own
  )
  monkeypatch.setattr(pretrained, "load_pretrained", load)
  settings = config.base().unlock()
  settings.update_from_flattened_dict({key: "other"})
  mesh = parallel.make_mesh(1, 1, 1, devices=jax.devices()[:1])

  def place():
    parts = placement.start_params(
      settings, tiny.MODEL, loaded, held.method, held.settings
    )
    needs = held.method.needs(held.settings)
    return placement.make_frozen(settings, mesh, tiny.MODEL, parts, needs)

  with pytest.raises(XpoError, match=f"{key}='other': another tokenizer"):
    place()
  other = own
  place()
