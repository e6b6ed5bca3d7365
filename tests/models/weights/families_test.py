"""Every family against transformers' own numbers (golden/families.json)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.weights import tiny_families as tiny
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import model as lm
from xpo_jax.models import sequences
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.weights import export, safetensors_folder
from xpo_jax.models.weights.families import FAMILIES, read_config
from xpo_jax.models.weights.fields import Fields
from xpo_jax.rollout import sampler

CASES = pytest.mark.parametrize("case", list(tiny.CASES))


@functools.cache
def golden(case):
  return tiny.golden()["cases"][case]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """case -> the folder with config.json in the older layout."""
  root = tmp_path_factory.mktemp("families")

  @functools.cache
  def folder(case):
    shapes = golden(case)["shapes"]
    return tiny.write(root / case, case, tiny.CASES[case], shapes)

  return folder


@functools.partial(jax.jit, static_argnums=0)
def numbers(model, params, tokens):
  """(logits [T, V], log-probs [T - 1], states [T, D]) of one sequence."""
  weights = Weights({}, params)
  states = lm.hidden(model, weights, tokens, sequences.places(tokens))
  at = jnp.arange(tokens.shape[1] - 1)[None]
  logps = lm.logps(model, weights, states, at, tokens[:, 1:])
  return lm.logits(model, weights, states)[0], logps[0], states[0]


def folder_of(root, case, kind, config=None):
  """The case as a language model, or as a reward model."""
  wanted = golden(case) if kind == "language" else golden(case)["reward"]
  return tiny.write(root, case, config or wanted["config"], wanted["shapes"])


@CASES
def test_logits_logps_and_greedy_tokens_are_the_librarys(
  case, folders, tmp_path
):
  wanted = golden(case)
  config, params, _ = safetensors_folder.load_folder(folders(case))
  tokens = np.array([[*tiny.PROMPT, *wanted["greedy"]]])
  found = numbers(Model(config), params, tokens)
  logits, logps, states = map(np.asarray, found)
  assert len(tiny.PROMPT) > 2 * config.window, "windows are left behind"
  for place, row in wanted["logits"].items():
    size = np.abs(row).max()
    np.testing.assert_allclose(logits[int(place)], row, atol=2e-5 * size)
  np.testing.assert_allclose(logps, wanted["logps"], atol=1e-4)
  first = len(tiny.PROMPT) - 1
  assert logits[first:-1].argmax(-1).tolist() == wanted["greedy"]
  judge = safetensors_folder.open_folder(
    folder_of(tmp_path / "rm", case, "reward")
  )
  same = {k: v for k, v in params.items() if k != "head"}
  jax.tree.map(np.testing.assert_array_equal, judge.params, same)
  score = states[first] @ judge.reward_head["kernel"]
  np.testing.assert_allclose(score, wanted["reward"]["score"], rtol=2e-5)
  assert judge.reward_head["bias"] == 0


@CASES
def test_both_layouts_of_config_json_say_the_same(case, tmp_path):
  newer = golden(case)["config"]
  path = tmp_path / "config.json"
  read = lambda raw: read_config(Fields(raw, path))
  assert newer != tiny.CASES[case]
  if "n_embd" not in newer:
    assert "rope_parameters" in newer and "rope_theta" not in newer
  assert read(newer) == read(tiny.CASES[case])
  assert read(newer).family in FAMILIES


@CASES
def test_import_export_import_is_bitwise_equal(case, folders, tmp_path):
  found = safetensors_folder.open_folder(folders(case))
  out = tmp_path / "out"
  export.save_folder(out, found.config, found.params, None, "float32", 20_000)
  again = safetensors_folder.open_folder(out)
  assert again.config == found.config
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  files = sorted(out.glob("*.safetensors"))
  assert len(files) > 1
  written = {n: x for f in files for n, x in load_file(f).items()}
  original = load_file(folders(case) / "model.safetensors")
  assert written.keys() == original.keys()
  for name, x in original.items():
    np.testing.assert_array_equal(written[name], x)


@pytest.mark.parametrize("bias", [0.0, -1.5])
@pytest.mark.parametrize("case", ["llama", "gpt2", "gpt_neox", "gemma3"])
def test_a_reward_model_goes_out_and_comes_back(case, bias, tmp_path):
  first = folder_of(tmp_path / "in", case, "reward")
  found = safetensors_folder.open_folder(first)
  head = found.reward_head | {"bias": np.float32(bias)}
  out = tmp_path / "out"
  export.save_folder(out, found.config, found.params, None, reward_head=head)
  again = safetensors_folder.open_folder(out)
  assert again.config == found.config
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  jax.tree.map(np.testing.assert_array_equal, again.reward_head, head)
  written = load_file(out / "model.safetensors")
  original = load_file(first / "model.safetensors")
  extra = {"score.bias"} if bias else set()
  assert written.keys() == original.keys() | extra
  kinds = [
    json.loads((f / "config.json").read_text())["architectures"]
    for f in (out, first)
  ]
  assert kinds[0] == kinds[1]


@pytest.mark.parametrize("case", ["llama", "qwen3", "gemma3", "gpt2"])
def test_language_models_name_the_librarys_class(case, tmp_path, folders):
  found = safetensors_folder.open_folder(folders(case))
  out = tmp_path / "out"
  export.save_folder(out, found.config, found.params, None)
  raw = json.loads((out / "config.json").read_text())
  wanted = golden(case)["config"]
  assert raw["architectures"] == wanted["architectures"]
  assert raw["model_type"] == wanted["model_type"]


def rewrite(folder, change):
  path = folder / "model.safetensors"
  tensors = load_file(path)
  save_file(change(tensors), path)
  return safetensors_folder.open_folder(folder)


@pytest.mark.parametrize(
  "case, change",
  [
    # As on the hub: without the backbone's prefix, with its causal masks.
    (
      "gpt2",
      lambda t: (
        {n.removeprefix("transformer."): x for n, x in t.items()}
        | {"h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32)}
      ),
    ),
    (
      "gpt_neox",
      lambda t: (
        {n.replace("embed_out", "lm_head"): x for n, x in t.items()}
        | {"gpt_neox.layers.1.attention.masked_bias": np.ones(1, np.float32)}
      ),
    ),
  ],
)
def test_other_names_of_the_same_tensors(case, change, tmp_path):
  wanted = safetensors_folder.open_folder(
    folder_of(tmp_path / "a", case, "language")
  )
  found = rewrite(folder_of(tmp_path / "b", case, "language"), change)
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)


REFUSED = [
  ("mistral", {"layer_types": ["full_attention"] * 3}, "all windowed"),
  ("mistral", {"sliding_window": 0}, "sliding_window=0, want"),
  ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types="),
  ("qwen2", {"layer_types": ["full_attention"] * 2}, "want 3 of"),
  ("qwen2", {"use_mrope": True}, "use_mrope=True"),
  ("qwen2", {"max_window_layers": -1}, "max_window_layers=-1"),
  (
    "qwen3",
    {"layer_types": ["sliding_attention"] * 3, "sliding_window": 6},
    "without use_sliding_window",
  ),
  ("qwen3", {"attention_bias": True}, "attention_bias=True"),
  ("qwen3", {"num_experts": 8}, "num_experts=8"),
  ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
  ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping=-1.0"),
  (
    "gemma3",
    {"use_bidirectional_attention": True},
    "use_bidirectional_attention=True",
  ),
  ("gemma3", {"query_pre_attn_scalar": "x"}, "query_pre_attn_scalar='x'"),
  (
    "gemma3",
    {
      "rope_parameters": {
        "sliding_attention": {"rope_type": "linear", "factor": 2.0}
      }
    },
    "of sliding_attention is not supported",
  ),
  ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx=True"),
  ("gpt2", {"n_head": 5}, "n_embd=32 is no multiple of n_head=5"),
  ("gpt2", {"activation_function": "relu"}, "activation_function='relu'"),
  ("gpt_neox", {"attention_bias": False}, "attention_bias=False"),
  ("gpt_neox", {"rotary_pct": 0.375}, "want an even number of places"),
  ("gpt_neox", {"rotary_pct": 1.5}, "partial_rotary_factor=1.5"),
  (
    "llama_yarn",
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": 3}},
    "truncate must be",
  ),
  (
    "llama",
    {
      "rope_scaling": tiny.CASES["llama"]["rope_scaling"]
      | {"low_freq_factor": 4.0}
    },
    "4.0 must be below 4.0",
  ),
]


@pytest.mark.parametrize("case, change, words", REFUSED)
def test_what_we_do_not_compute_is_refused(case, change, words, tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(XpoError) as e:
    read_config(Fields(tiny.CASES[case] | change, path))
  assert e.value.code == Exit.CHECKPOINT
  text = str(e.value)
  assert words in text and text.startswith(str(path)) and "\n" not in text


@pytest.mark.slow
@CASES
def test_the_sampler_is_as_greedy_as_the_library(case, folders):
  """Prefill and decode over the cache, prompts padded, windows left behind."""
  wanted = golden(case)
  config, params, _ = safetensors_folder.load_folder(folders(case))
  how = sampler.Sampling(
    max_new_tokens=tiny.NEW_TOKENS, temperature=0.0, eos_id=config.vocab_size
  )
  prompts = np.zeros((1, 32), np.int32)
  prompts[0, : len(tiny.PROMPT)] = tiny.PROMPT
  samples = sampler.generate(
    Model(config),
    Weights({}, params),
    jnp.asarray(prompts),
    jnp.asarray([len(tiny.PROMPT)]),
    jax.random.key(0),
    how,
  )
  assert np.asarray(samples.tokens)[0, 0].tolist() == wanted["greedy"]
  first = len(tiny.PROMPT) - 1
  np.testing.assert_allclose(
    samples.sampler_logps[0, 0], wanted["logps"][first:], atol=1e-4
  )
