"""The preset against two independent implementations (needs the index)."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.models.weights import tiny_forward
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.load import load_weights

pytestmark = pytest.mark.slow
GOLDEN = json.loads(
  (Path(__file__).parents[2] / "golden" / "smollm2_logps.json").read_text()
)
CONTROL = ("<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def weights():
  return load_weights("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def logps(weights):
  """One list of token log-probs for each golden sentence."""
  return [_logps(weights, s["ids"]) for s in GOLDEN["sentences"]]


def _forward(weights, ids):
  config = TransformerConfig(**weights.config_kwargs)
  return tiny_forward.logits(config, weights.params, ids)


def _logps(weights, ids):
  x = _forward(weights, ids).astype(np.float64)
  x = x - x.max(-1, keepdims=True)
  x = x - np.log(np.exp(x).sum(-1, keepdims=True))
  return x[np.arange(len(ids) - 1), ids[1:]]


def _rendered_ids(tokenizer, text):
  """Encodes a text in which <|im_start|> and <|im_end|> are control ids."""
  ids, start = [], 0
  while start < len(text):
    at = [(text.find(c, start), c) for c in CONTROL]
    end, control = min([x for x in at if x[0] >= 0] or [(len(text), "")])
    ids += tokenizer.encode(text[start:end]).tolist()
    if control:
      ids.append(tokenizer.control_id(control))
    start = end + len(control)
  return ids


def test_token_ids_are_llama_cpps(weights):
  assert len(GOLDEN["texts"]) >= 8
  for text in GOLDEN["texts"]:
    ids = weights.tokenizer.encode(text["text"])
    assert ids.tolist() == text["ids"]
    assert weights.tokenizer.decode(ids) == text["text"]
  for sentence in GOLDEN["sentences"]:
    ids = _rendered_ids(weights.tokenizer, sentence["text"])
    assert ids == sentence["ids"]


def test_end_of_text_ids(weights):
  tokenizer = weights.tokenizer
  assert (tokenizer.eos_id, tokenizer.bos_id) == (2, None)
  assert tokenizer.control_id("<|im_end|>") == 2
  assert tokenizer.vocab_size == weights.config_kwargs["vocab_size"] == 49152


@pytest.mark.parametrize("reference", ["llama_cpp_f32", "torch"])
def test_logps_equal_independent_float32(logps, reference):
  """Float32 throughout; differences seen 4e-5, bound 1e-4 nats a token.

  llama_cpp_f32 dequantised the file itself, so it proves our dequantisation,
  the order of query and key rows, and the forward pass; torch read our export.
  """
  for ours, sentence in zip(logps, GOLDEN["sentences"], strict=True):
    np.testing.assert_allclose(ours, sentence[reference], rtol=0, atol=1e-4)


def test_logps_are_near_the_quantised_run(logps):
  """llama.cpp on the 4-bit file rounds activations to 8 bits.

  Seen: up to 0.32 nats a token, 0.075 on average, 0.024 in a sentence's mean.
  """
  for ours, sentence in zip(logps, GOLDEN["sentences"], strict=True):
    gap = ours - np.asarray(sentence["llama_cpp_q4"])
    assert np.abs(gap).max() < 0.5
    assert np.abs(gap).mean() < 0.1
    assert abs(gap.mean()) < 0.04


def test_perplexity_is_a_trained_models(logps):
  # A model with shuffled q/k rows or a wrong rope base lands in the hundreds.
  means = [float(np.mean(x)) for x in logps]
  assert all(np.exp(-m) < 100 for m in means), means


def test_greedy_answer_makes_sense(weights):
  prompt = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\n"
  )
  ids = _rendered_ids(weights.tokenizer, prompt)
  start, room = len(ids), 12
  for _ in range(room):
    # A fixed length, so that the forward pass compiles once; causal.
    padded = ids + [0] * (start + room - len(ids))
    ids.append(int(_forward(weights, padded)[len(ids) - 1].argmax()))
    if ids[-1] == weights.tokenizer.eos_id:
      break
  assert "Paris" in weights.tokenizer.decode(ids[start:])
  assert ids[-1] == weights.tokenizer.eos_id
