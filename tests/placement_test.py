"""Where a run's start comes from."""

import dataclasses

import pytest

from xpo_jax import config, placement, pretrained
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
