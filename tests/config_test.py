"""The config tree by itself: variants, checks that need numbers, JSON."""

import json

import pytest

from xpo_jax import checks, config
from xpo_jax.errors import Exit, XpoError


def _valid(**leaves):
  c = config.base().unlock()
  c.method = config.method("dpo")
  c.model.source = "tiny"
  c.data.source = "rows.jsonl"
  c.update_from_flattened_dict(leaves)
  return c.lock()


def _message(call, *args, **keywords) -> str:
  with pytest.raises(XpoError) as caught:
    call(*args, **keywords)
  assert caught.value.code == Exit.USAGE
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_base_has_the_agreed_leaves_and_is_locked():
  c = config.base()
  assert (c.seed, c.method.name, c.train.epochs) == (0, "dpo", 1.0)
  assert c.optimizer.learning_rate == 1e-5
  assert (c.mesh.data, c.mesh.fsdp, c.mesh.tensor) == (-1, 1, 1)
  sections = (
    "aux batch data gold judge lora mesh method model optimizer reference "
    "rollout seed train"
  )
  assert set(c) == set(sections.split())
  with pytest.raises(AttributeError):
    c.train.stpes = 3


def test_a_whole_config_is_valid_and_an_empty_one_names_what_is_missing():
  config.validate(_valid())
  assert "data.source is required" in _message(config.validate, config.base())
  assert "model.source is required" in _message(
    config.validate, _valid(**{"model.source": ""})
  )


def test_method_starts_from_the_defaults_of_its_loss():
  chosen = config.method("dpo", beta=0.3)
  assert (chosen.name, chosen.beta, chosen.offset) == ("dpo", 0.3, 0.0)
  assert "'beta'" in _message(config.method, "dpo", bta=0.3)
  assert "did you mean 'kto'" in _message(config.method, "kt0")


@pytest.mark.parametrize(
  "arg, expected",
  [
    (None, ("a", "x")),
    ("", ("a", "x")),
    ("b", ("b", "x")),
    ("b,y", ("b", "y")),
    ("data=y", ("a", "y")),
  ],
)
def test_parse_arg_reads_words_and_pairs(arg, expected):
  chosen = config.parse_arg(arg, variant=("a", "b"), data=("x", "y"))
  assert (chosen.variant, chosen.data) == expected


@pytest.mark.parametrize("arg", ["c", "variant=y", "size=b"])
def test_parse_arg_offers_the_choices(arg):
  text = _message(config.parse_arg, arg, variant=("a", "b"), data=("x", "y"))
  assert "choose one of a, b, x, y" in text


@pytest.mark.parametrize(
  "mesh, devices, expected",
  [
    ((-1, 1, 1), 8, (8, 1, 1)),
    ((2, -1, 2), 8, (2, 2, 2)),
    ((1, 4, 2), 8, (1, 4, 2)),
  ],
)
def test_mesh_fills_the_open_axis(mesh, devices, expected):
  data, fsdp, tensor = mesh
  c = _valid(**{"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor})
  assert config.mesh_shape(c, devices) == expected


@pytest.mark.parametrize("mesh", [(2, 2, 1), (-1, 3, 1), (16, 1, 1)])
def test_mesh_must_make_the_devices(mesh):  # C18
  data, fsdp, tensor = mesh
  c = _valid(
    **{
      "mesh.data": data,
      "mesh.fsdp": fsdp,
      "mesh.tensor": tensor,
      "batch.prompts": 48,
    }
  )
  assert "8 devices" in _message(config.mesh_shape, c, 8)


def test_prompts_split_over_devices_and_microbatches():  # C11
  c = _valid(**{"batch.prompts": 24, "batch.microbatches": 2})
  assert config.mesh_shape(c, 4) == (4, 1, 1)  # 24 = 3 * (4 * 2)
  text = _message(config.validate, c, devices=8)  # 16 does not divide 24
  assert "batch.prompts=24" in text and "use 16 or 32" in text


def test_the_model_limits_blocks_and_lengths():  # C14
  checks.check_model(_valid(), layers=4, context=512)
  text = _message(checks.check_model, _valid(), layers=4, context=511)
  assert "512 > the model's context=511" in text
  c = _valid(**{"model.trained_blocks": 5})
  assert "use 0 to 4" in _message(checks.check_model, c, layers=4, context=512)
  c = _valid(**{"model.max_length": 1024})
  assert "use at most 600" in _message(
    checks.check_model, c, layers=4, context=600
  )


def test_warmup_against_steps_that_epochs_imply():  # C16
  c = _valid(**{"optimizer.warmup_steps": 12})
  checks.check_steps(c, 12)
  assert "use at most 11" in _message(checks.check_steps, c, 11)


def test_a_reference_is_refused_by_a_method_without_one():  # C21
  c = _valid(**{"reference.source": "runs/sft"}).unlock()
  config.validate(c)
  c.method = config.method("dpo", reference_free=True)
  assert "reference.source" in _message(config.validate, c)


def test_json_round_trip_keeps_values_and_types():
  c = _valid(**{"train.epochs": 2.0, "seed": 7})
  text = config.to_json(c)
  again = config.from_json(text)
  assert again.to_dict() == c.to_dict()
  assert isinstance(again.train.epochs, float) and again.is_locked
  assert config.to_json(again) == text


def test_json_of_an_older_version_takes_the_defaults():
  c = config.from_json('{"method": {"name": "kto"}, "train": {"epochs": 3}}')
  assert (c.method.beta, c.train.epochs, c.train.keep) == (0.1, 3.0, 2)
  assert isinstance(c.train.epochs, float)


@pytest.mark.parametrize(
  "text, expected",
  [
    ('{"method": {"name": "dpo"}, "trian": {"steps": 1}}', "'train.steps'"),
    ('{"method": {"name": "dpo"}, "seed": NaN}', "NaN"),
    ('{"method": {"name": "dpo"}, "seed": 1, "seed": 2}', "twice"),
    ('{"method": {"name": "dpo"}, "seed": "1"}', "an integer"),
    ('{"method": {"name": "dpo", "beta": false}}', "must be a number"),
    ("seed: 1", "plain JSON"),
    ("[1]", "no config"),
  ],
)
def test_bad_json_is_one_line(text, expected):
  assert expected in _message(config.from_json, text)


def test_json_is_plain():
  tree = json.loads(config.to_json(_valid()))
  assert tree["optimizer"]["learning_rate"] == 1e-5


@pytest.mark.parametrize(
  "date", ["today", "2024-7-26", "20240726", "2024-02-30"]
)
def test_the_template_s_date_is_a_day(date):
  chat = {"data.template": "chat"}
  config.validate(_valid(**chat, **{"data.template_date": "2024-07-26"}))
  text = _message(
    config.validate, _valid(**chat, **{"data.template_date": date})
  )
  assert f"data.template_date={date} must be a date such as 2024-0" in text


def test_the_template_s_date_needs_a_chat_template():
  text = _message(
    config.validate, _valid(**{"data.template_date": "2024-07-26"})
  )
  assert "is for chat templates, but data.template='plain'" in text
