"""Load, score, generate, export: what a notebook sees."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax import checkpoint, config, exports, pretrained, train
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import heads, states
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.types import TrainState

CONFIG = dataclasses.replace(tiny.CONFIG, vocab_size=260, layers=2)


@pytest.fixture(scope="module")
def whole():
  return tiny.params(CONFIG)


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
  path = tmp_path_factory.mktemp("hf") / "model"
  save_folder(path, CONFIG, whole, byte_tokenizer())
  return path


@pytest.fixture(scope="module")
def loaded(folder):
  return pretrained.load_pretrained(folder)


@pytest.fixture(scope="module")
def mute(whole, tmp_path_factory):
  """The same model from a folder without a tokenizer."""
  path = tmp_path_factory.mktemp("hf") / "mute"
  save_folder(path, CONFIG, whole, None)
  return pretrained.load_pretrained(str(path))


TOKENS = np.random.default_rng(0).integers(0, 260, (2, 9))


def test_a_folder_gives_back_weights_sizes_and_tokenizer(loaded, whole):
  assert loaded.model.config == CONFIG
  assert loaded.tokenizer.vocab_size == 260
  jax.tree.map(np.testing.assert_array_equal, loaded.params, whole)


def test_logits_are_those_of_the_plain_model(loaded, whole):
  found = loaded.logits(TOKENS)
  assert found.shape == (2, 9, 260) and found.dtype == jnp.float32
  for row in range(2):
    wanted = plain_model.logits(CONFIG, whole, TOKENS[row])
    tiny.assert_near(found[row], wanted, 1e-5)


def test_logps_are_the_log_softmax_of_each_completion(loaded, whole):
  prompts = ["Once upon", "x", "Ää"]
  completions = [" a time", "yz", "\n"]
  found = loaded.logps(prompts, completions)
  for prompt, completion, logps in zip(prompts, completions, found):
    ids = np.frombuffer((prompt + completion).encode(), np.uint8)
    count = len(completion.encode())
    wanted = plain_model.logps(CONFIG, whole, ids)[-count:]
    tiny.assert_near(logps, wanted, 1e-5)


def test_generate_repeats_itself_under_a_seed_and_only_then(loaded):
  ask = lambda seed: loaded.generate(
    ["Hello", "Good bye"], max_new_tokens=12, seed=seed, completions=3
  )
  first = ask(0)
  assert ask(0) == first and ask(1) != first
  assert [len(texts) for texts in first] == [3, 3]
  assert len(set(first[0])) == 3


def test_greedy_text_is_the_argmax_for_texts_and_ids(loaded, whole):
  how = dict(max_new_tokens=4, temperature=0)
  ids = list(b"ab")
  samples, texts = loaded.sample([np.array(ids)], **how)
  for _ in range(4):
    logits = plain_model.logits(CONFIG, whole, np.array(ids))[-1]
    ids.append(int(np.argmax(logits)))
  assert samples.tokens[0, 0].tolist() == ids[2:]
  assert 256 not in ids  # none is the end of the text
  text = loaded.tokenizer.decode(ids[2:])
  assert texts == [[text]]
  assert loaded.generate(["ab"], **how) == [text]


def test_a_stop_string_cuts_the_text_and_keeps_its_tokens(loaded):
  how = dict(max_new_tokens=6, completions=8)
  samples, [texts] = loaded.sample(["ab"], **how)
  ascii = samples.tokens[0] < 128
  k, t = np.argwhere(ascii[:, 1:5] & ascii[:, 2:6])[0]
  drawn = samples.tokens[0, k]
  stop = bytes(drawn[t + 1 : t + 3].tolist()).decode()
  found, [cut] = loaded.sample(["ab"], **how, stop=[stop])
  np.testing.assert_array_equal(found.tokens[0, k, : t + 3], drawn[: t + 3])
  assert found.mask[0, k].sum() == t + 3 and found.ended[0, k]
  assert cut[k] == texts[k][: texts[k].index(stop)]


def test_rewards_are_read_after_the_last_token(loaded, whole):
  head = heads.init_reward_head(jax.random.key(0), CONFIG.width)
  judge = dataclasses.replace(loaded, reward_head=head)
  prompts = [TOKENS[0, :3], TOKENS[1, :2]]
  completions = [TOKENS[0, 3:5], TOKENS[1, 2:9]]
  found = judge.rewards(prompts, completions)
  for reward, prompt, completion in zip(found, prompts, completions):
    ids = np.concatenate([prompt, completion])
    state = plain_model.states(CONFIG, whole, ids)[-1]
    wanted = state @ np.asarray(head["kernel"])
    np.testing.assert_allclose(reward, wanted, atol=2e-5)


# What goes wrong.


def message(call) -> str:
  """The one line of the usage error that `call` raises."""
  with pytest.raises(XpoError) as e:
    call()
  assert e.value.code == Exit.USAGE
  assert "\n" not in str(e.value)
  return str(e.value)


def test_without_a_tokenizer_logits_work_and_text_calls_say_so(mute, loaded):
  np.testing.assert_array_equal(mute.logits(TOKENS), loaded.logits(TOKENS))
  for name, call in (
    ("generate", lambda: mute.generate(["a"])),
    ("logps", lambda: mute.logps(["a"], ["b"])),
  ):
    text = message(call)
    assert text.startswith(f"{name}: this folder has no tokenizer")
    assert "add tokenizer.json" in text


@pytest.mark.parametrize(
  "how, words",
  [
    (dict(max_new_tokens=0), "max_new_tokens=0: must be"),
    (dict(max_new_tokens=2.5), "max_new_tokens=2.5: must be"),
    (dict(max_new_tokens="9"), "max_new_tokens='9': must be"),
    (dict(temperature=-0.1), "temperature=-0.1: must be"),
    (dict(temperature=float("nan")), "temperature=nan: must be"),
    (dict(temperature=None), "temperature=None: must be"),
    (dict(top_p=0.0), "top_p=0.0: must be"),
    (dict(top_p=1.5), "top_p=1.5: must be"),
    (dict(completions=0), "completions=0: must be"),
    (dict(top_k=-1), "top_k=-1: must be"),
    (dict(stop="end"), "stop is one text"),
    (dict(stop=[""]), "stop='': must be"),
    (dict(max_new_tokens=96), "exceed the model's context of 96"),
  ],
)
def test_bad_sampling_values_are_one_line(loaded, how, words):
  assert words in message(lambda: loaded.generate(["abc"], **how))


def test_bad_texts_are_one_line(loaded):
  assert "no prompts" in message(lambda: loaded.generate([]))
  assert "prompt '': empty" in message(lambda: loaded.generate([""]))
  one = message(lambda: loaded.generate("one text"))
  assert "give a list" in one
  assert "give a list" in message(lambda: loaded.logps("ab", "cd"))
  text = message(lambda: loaded.logps(["a", "b"], ["c"]))
  assert "2 prompts but 1 completions" in text


def test_bad_token_ids_are_one_line_not_nan(loaded):
  assert "260" in message(lambda: loaded.logits([[5, 260]]))
  assert "-1" in message(lambda: loaded.logits([[5, -1]]))
  assert "(3,)" in message(lambda: loaded.logits([1, 2, 3]))
  np.testing.assert_array_equal(
    jax.jit(loaded.logits)(TOKENS), loaded.logits(TOKENS)
  )


def test_a_language_model_has_no_rewards(loaded):
  text = message(lambda: loaded.rewards([TOKENS[0]], [TOKENS[1]]))
  assert "no reward head" in text


# Run folders.


def write_run(folder, model, policy, settings, tokenizer=None, **meta):
  """A run folder as training leaves it, after step 3."""
  pretrained.save_description(
    folder, model, tokenizer or byte_tokenizer(), settings
  )
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(
    step=zero + 3,
    params={"policy": policy},
    opt_state={"count": zero},
    key=jax.random.key(0),
    method_state=None,
    skipped=zero,
  )
  with checkpoint.open_checkpoints(folder, 1) as manager:
    checkpoint.save(manager, state, {"step": 3}, meta)
  return folder


def moved(tree):
  return jax.tree.map(lambda x: jnp.asarray(1.1 * x + 0.01), tree)


KINDS = {
  "all": Model(CONFIG),
  "last block": Model(CONFIG, trunk_blocks=1),
  "lora": Model(CONFIG, lora=(2, 1.5)),
  "lora on the last block": Model(CONFIG, trunk_blocks=1, lora=(2, 1.5)),
}


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_an_exported_run_loads_with_equal_logits(
  model, folder, whole, tmp_path
):
  settings = config.base()
  settings.model.source = str(folder)
  trunk, top = lm.split(whole, model.trunk_blocks)
  if model.lora[0]:
    policy = {"lora": tiny.lora(model, up=0.2)}
    top = lm.merge_lora(model, Weights(trunk, top, policy["lora"]))
  else:
    top = moved(top)
    policy = {"top": top}
  run = write_run(tmp_path / "run", model, policy, settings)

  found = pretrained.load_pretrained(run)
  trained = lm.join(trunk, jax.tree.map(np.asarray, top))
  wanted = plain_model.logits(CONFIG, trained, TOKENS[0])
  tiny.assert_near(found.logits(TOKENS)[0], wanted, 1e-5)

  out = exports.export(run, tmp_path / "exported")
  again = pretrained.load_pretrained(out)
  np.testing.assert_array_equal(again.logits(TOKENS), found.logits(TOKENS))
  assert again.tokenizer.fingerprint() == byte_tokenizer().fingerprint()
  assert again.tokenizer.trained_with == settings.data.template == "plain"
  base = pretrained.load_pretrained(folder).logits(TOKENS)
  assert np.abs(again.logits(TOKENS) - base).max() > 0.1


@pytest.mark.parametrize("kind", ["last block", "lora"])
def test_frozen_weights_must_be_those_of_the_training(kind, whole, tmp_path):
  model = KINDS[kind]
  trunk, top = lm.split(whole, model.trunk_blocks)
  policy = {"lora": tiny.lora(model)} if model.lora[0] else {"top": top}
  frozen = (trunk, top) if model.lora[0] else (trunk, {})
  settings, source = config.base(), tmp_path / "source"
  settings.model.source = str(source)
  tokenizer = byte_tokenizer()
  save_folder(source, CONFIG, whole, tokenizer, "float32")
  base = {"base": states.fingerprint(frozen)[:16]}
  run = write_run(tmp_path / "run", model, policy, settings, fingerprints=base)
  assert pretrained.load_pretrained(f"{run}@3").model.config == CONFIG
  whole = jax.tree.map(np.array, whole)
  whole["blocks"]["mlp"]["up"][0, 0, 0] += 0.01
  source.rename(tmp_path / "before")
  save_folder(source, CONFIG, whole, tokenizer, "float32")
  with pytest.raises(XpoError, match="the frozen weights in") as error:
    pretrained.load_pretrained(run)
  assert error.value.code == 66 and base["base"] in str(error.value)


def test_a_tiny_run_starts_from_its_own_seed_and_sizes(tmp_path, monkeypatch):
  """`tiny` has no file to read again; its vocabulary is the data's."""
  settings = config.base()
  settings.model.source, settings.seed = "tiny", 4
  model = KINDS["lora on the last block"]
  policy = {"lora": tiny.lora(model)}  # adds nothing
  run = write_run(tmp_path / "run", model, policy, settings)
  draw = lambda model, seed: tiny.params(model.config, seed)
  monkeypatch.setattr(pretrained, "random_params", draw)
  found = pretrained.load_pretrained(run)
  wanted = tiny.params(CONFIG, seed=4)
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted)


def test_a_reward_run_keeps_its_head_in_an_export(whole, tmp_path):
  head = heads.init_reward_head(jax.random.key(1), CONFIG.width)
  policy = {"top": jax.tree.map(jnp.asarray, whole), "reward_head": head}
  settings = config.base()
  settings.model.source = "tiny"
  run = write_run(tmp_path / "run", Model(CONFIG), policy, settings)
  found = pretrained.load_pretrained(run)
  jax.tree.map(np.testing.assert_array_equal, found.reward_head, head)
  out = exports.export(run, tmp_path / "out")
  again = pretrained.load_pretrained(out)
  jax.tree.map(np.testing.assert_array_equal, again.reward_head, head)
  assert not again.params.keys() - {"embed", "blocks", "final_norm"}
  prompts, completions = [TOKENS[0, :3]], [TOKENS[0, 3:]]
  np.testing.assert_array_equal(
    again.rewards(prompts, completions), found.rewards(prompts, completions)
  )


@pytest.mark.parametrize("damage", ["text", "keys", "checkpoint"])
def test_a_damaged_run_folder_is_one_line(damage, whole, tmp_path):
  settings = config.base()
  settings.model.source = "tiny"
  policy = {"top": jax.tree.map(jnp.asarray, whole)}
  run = tmp_path / "run"
  if damage == "checkpoint":
    pretrained.save_description(run, Model(CONFIG), None, settings)
  else:
    write_run(run, Model(CONFIG), policy, settings)
    bad = {"text": "{", "keys": '{"transformer": {}}'}[damage]
    (run / "model.json").write_text(bad)
  with pytest.raises(XpoError) as e:
    pretrained.load_pretrained(run)
  assert e.value.code == Exit.CHECKPOINT
  assert "\n" not in str(e.value) and str(run) in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("blocks, rank", [(0, 0), (1, 2)])
def test_a_trained_run_is_exported(blocks, rank, folder, tmp_path, monkeypatch):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  rows = [
    {"prompt": f"Count to {n}:", "chosen": f" one {n}", "rejected": " no"}
    for n in range(12)
  ]
  data = tmp_path / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  settings = config.base()
  settings.model.source = str(folder)
  settings.model.trained_blocks, settings.lora.rank = blocks, rank
  settings.data.source = str(data)
  settings.data.max_prompt_length = settings.data.max_completion_length = 24
  settings.batch.prompts, settings.batch.row_length = 8, 64
  settings.train.steps, settings.train.epochs = 3, 0.0
  settings.optimizer.learning_rate = 0.01
  settings.mesh.data = 1
  settings.method = config.method("dpo")
  run = tmp_path / "run"
  train.run(settings, run, devices=jax.devices()[:1])
  found = pretrained.load_pretrained(run).logits(TOKENS)
  again = pretrained.load_pretrained(exports.export(run, tmp_path / "exported"))
  np.testing.assert_array_equal(again.logits(TOKENS), found)
  base = pretrained.load_pretrained(folder).logits(TOKENS)
  assert np.abs(found - base).max() > 1e-3
