"""Models as notebooks and stages use them: load, score, generate, export.

A source is a preset's name, a Hugging Face folder, a .gguf file, or the folder
of an earlier run of `xpo train`.
"""

from collections.abc import Sequence
import dataclasses
import json
import numbers
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax import checkpoint, config
from xpo_jax.errors import checkpoint_error, usage_error
from xpo_jax.models import model as lm
from xpo_jax.models import sequences
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.load import load_weights
from xpo_jax.models.weights.safetensors_folder import save_folder
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.models.weights.tokenizer_files import (
  save_tokenizer,
  tokenizer_from_folder,
)
from xpo_jax.rollout import sampler
from xpo_jax.types import Array, PyTree

PROMPT_BUCKET = 16  # prompts are padded to multiples: few compilations


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A model, its whole parameter tree and its tokenizer.

  `reward_head` is there when the run trained a reward model.
  """

  model: Model
  params: PyTree
  tokenizer: Tokenizer | None
  reward_head: PyTree | None = None

  @property
  def weights(self) -> Weights:
    return Weights({}, self.params)

  def logits(self, tokens: Array) -> Array:
    """tokens int [B, T] (one sequence a row) -> float32 [B, T, V].

    Raises:
      XpoError: another shape, or an id that the model does not have.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    _check_tokens(tokens, self.model.config.vocab_size)
    return sequences.logits(self.model, self.params, tokens)

  def logps(
    self, prompts: Sequence[str], completions: Sequence[str]
  ) -> list[np.ndarray]:
    """Per-token log-probs in nats of each completion after its prompt.

    The texts are encoded apart; no EOS is added.

    Raises:
      XpoError: no tokenizer, or lists of different lengths.
    """
    tokenizer = self._tokenizer("logps")
    _check_list("logps", prompts)
    if len(prompts) != len(completions):
      raise usage_error(
        f"logps: {len(prompts)} prompts but {len(completions)} completions; "
        "give one completion a prompt"
      )
    out = []
    for prompt, completion in zip(prompts, completions, strict=True):
      before, after = self._prompt_ids(prompt), tokenizer.encode(completion)
      ids = np.concatenate([before, after])
      padded = np.zeros((1, -(-len(ids) // PROMPT_BUCKET) * PROMPT_BUCKET), int)
      padded[0, : len(ids)] = ids
      every = sequences.next_logps(self.model, self.params, jnp.asarray(padded))
      first = len(before) - 1
      out.append(np.asarray(every[0, first : first + len(after)]))
    return out

  def generate(
    self,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    completions: int = 1,
  ) -> list[str] | list[list[str]]:
    """Sampled continuations; a list of K texts a prompt if completions > 1.

    Raises:
      XpoError: no tokenizer, or a value out of range.
    """
    texts = self.sample(
      prompts, max_new_tokens, temperature, top_p, seed, completions
    )[1]
    return [t[0] for t in texts] if completions == 1 else texts

  def sample(
    self,
    prompts: Sequence[str | np.ndarray],
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    completions: int = 1,
  ):
    """(Samples as numpy, texts [B][K]) for prompts given as text or ids."""
    tokenizer = self._tokenizer("generate")
    _check_list("generate", prompts)
    _check_sampling(max_new_tokens, temperature, top_p, completions)
    ids = [self._prompt_ids(p) if isinstance(p, str) else p for p in prompts]
    if not ids:
      raise usage_error("generate: no prompts; give at least one text")
    longest = max(len(x) for x in ids)
    if longest + max_new_tokens > self.model.config.max_length:
      raise usage_error(
        f"generate: prompt of {longest} tokens + max_new_tokens="
        f"{max_new_tokens} exceed the model's context of "
        f"{self.model.config.max_length}; shorten one of them"
      )
    width = -(-longest // PROMPT_BUCKET) * PROMPT_BUCKET
    tokens = np.zeros((len(ids), width), np.int32)
    for row, x in zip(tokens, ids, strict=True):
      row[: len(x)] = x
    how = sampler.Sampling(
      completions=completions,
      max_new_tokens=max_new_tokens,
      temperature=float(temperature),
      top_p=float(top_p),
      eos_id=tokenizer.eos_id,
    )
    lengths = np.array([len(x) for x in ids], np.int32)
    samples = sampler.generate(
      self.model,
      self.weights,
      jnp.asarray(tokens),
      jnp.asarray(lengths),
      jax.random.key(seed),
      how,
    )
    samples = jax.tree.map(np.asarray, samples)
    texts = [
      [tokenizer.decode(t[m]) for t, m in zip(ts, ms, strict=True)]
      for ts, ms in zip(samples.tokens, samples.mask, strict=True)
    ]
    return samples, texts

  def rewards(
    self, prompts: Sequence[np.ndarray], completions: Sequence[np.ndarray]
  ) -> np.ndarray:
    """Reward-head scores [B] of completions given as ids (EOS included).

    Raises:
      XpoError: the model has no reward head.
    """
    if self.reward_head is None:
      raise usage_error(
        "rewards: this model has no reward head; load a run of rm_bt"
      )
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions)]
    width = -(-max(lengths) // PROMPT_BUCKET) * PROMPT_BUCKET
    out, size = np.zeros(len(lengths), np.float32), 32
    for at in range(0, len(lengths), size):
      tokens = np.zeros((size, width), np.int32)
      last = np.zeros((size,), np.int32)
      for r, (p, c) in enumerate(
        zip(prompts[at : at + size], completions[at : at + size])
      ):
        tokens[r, : len(p) + len(c)] = np.concatenate([p, c])
        last[r] = len(p) + len(c) - 1
      scores = sequences.rewards(
        self.model, self.params, self.reward_head, tokens, last
      )
      n = len(out[at : at + size])
      out[at : at + size] = np.asarray(scores)[:n]
    return out

  def _tokenizer(self, what: str) -> Tokenizer:
    if self.tokenizer is None:
      raise usage_error(
        f"{what}: this folder has no tokenizer, so texts cannot be read; add "
        "tokenizer.json, or call .logits with token ids"
      )
    return self.tokenizer

  def _prompt_ids(self, prompt: str) -> np.ndarray:
    tokenizer = self._tokenizer("text")
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
      ids = np.concatenate([[tokenizer.bos_id], ids])
    if not len(ids):
      raise usage_error("prompt '': empty; give at least one token of context")
    return ids.astype(np.int32)


def _check_sampling(max_new_tokens, temperature, top_p, completions):
  whole, real = numbers.Integral, numbers.Real
  for name, value, kind, holds, words in (
    ("max_new_tokens", max_new_tokens, whole, lambda v: v >= 1, "an int >= 1"),
    ("temperature", temperature, real, lambda v: v >= 0, ">= 0 (0 is greedy)"),
    ("top_p", top_p, real, lambda v: 0 < v <= 1, "in (0, 1]"),
    ("completions", completions, whole, lambda v: v >= 1, "an int >= 1"),
  ):
    if not (isinstance(value, kind) and holds(value)):
      raise usage_error(f"{name}={value!r}: must be {words}")


def _check_list(what: str, prompts) -> None:
  if isinstance(prompts, str):
    raise usage_error(f"{what}: prompts is one text; give a list of texts")


def _check_tokens(tokens: Array, size: int) -> None:
  """An id outside of the table would give NaN without a word."""
  if tokens.ndim != 2:
    raise usage_error(f"logits: tokens of shape {tokens.shape}; give [B, T]")
  if isinstance(tokens, jax.core.Tracer):
    return
  ids = np.asarray(tokens)
  bad = ids[(ids < 0) | (ids >= size)]
  if len(bad):
    raise usage_error(
      f"logits: token id {bad[0]} is outside of the vocabulary 0..{size - 1}"
    )


def load_pretrained(source: str | Path, dtype: str = "float32") -> Pretrained:
  """A preset, Hugging Face folder, .gguf file or run folder -> Pretrained.

  A folder without a tokenizer loads too; text calls then say so.

  Raises:
    XpoError: no such source, or weights that cannot be used.
  """
  path = Path(source)
  if (path / "model.json").is_file():
    return _load_run(path, dtype)
  loaded = load_weights(str(source))
  model = Model(TransformerConfig(**loaded.config_kwargs), dtype=dtype)
  params = loaded.params
  if params is None:
    params = random_params(model, 0)
  return Pretrained(model, params, loaded.tokenizer)


def random_params(model: Model, seed: int) -> PyTree:
  """Seeded initial parameters as numpy."""
  make = jax.jit(lambda key: nn.unbox(lm.init(model, key)))
  return jax.tree.map(np.asarray, make(jax.random.key(seed)))


def save_description(
  run: Path, model: Model, tokenizer: Tokenizer | None, settings
) -> None:
  """Writes what `load_pretrained(run)` needs beside the checkpoints."""
  run.mkdir(parents=True, exist_ok=True)
  if tokenizer is not None:
    (run / "tokenizer").mkdir(exist_ok=True)
    save_tokenizer(tokenizer, run / "tokenizer")
  checkpoint.write_text(run / "config.json", config.to_json(settings))
  # Written last: its presence says that the folder is a run.
  checkpoint.write_json(
    run / "model.json",
    {
      "transformer": dataclasses.asdict(model.config),
      "trunk_blocks": model.trunk_blocks,
      "lora": list(model.lora),
    },
  )


def _load_run(run: Path, dtype: str) -> Pretrained:
  try:
    saved = json.loads((run / "model.json").read_text())
    model = Model(
      TransformerConfig(**saved["transformer"]),
      saved["trunk_blocks"],
      (saved["lora"][0], saved["lora"][1]),
      dtype,
    )
    settings = config.from_json(
      (run / "config.json").read_text(), str(run / "config.json")
    )
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise checkpoint_error(
      f"{run}: not a complete run folder ({e}); train it again"
    ) from e
  policy = checkpoint.restore_params(run)["policy"]
  policy = jax.tree.map(np.asarray, policy)
  if "top" in policy and not model.trunk_blocks:
    params = policy["top"]
  else:
    trunk, top = lm.split(_base_params(settings, model), model.trunk_blocks)
    if "lora" in policy:
      top = lm.merge_lora(model, Weights(trunk, top, policy["lora"]))
    else:
      top = policy["top"]
    params = jax.tree.map(np.asarray, lm.join(trunk, top))
  tokenizer = None
  if (run / "tokenizer").is_dir():
    tokenizer = tokenizer_from_folder(run / "tokenizer")
  return Pretrained(
    Model(model.config, dtype=dtype),
    params,
    tokenizer,
    policy.get("reward_head"),
  )


def _base_params(settings, model: Model) -> PyTree:
  """What a run started from; `tiny` is drawn anew, with the run's own sizes."""
  if settings.model.source == "tiny":
    return random_params(model, settings.seed)
  return load_pretrained(settings.model.source, model.dtype).params


def export(run: str | Path, output: str | Path, dtype: str = "float32") -> Path:
  """Writes a run's newest weights as a Hugging Face folder.

  Raises:
    XpoError: nothing to export, or the folder cannot be written.
  """
  found = load_pretrained(run)
  if found.reward_head is not None:
    raise usage_error(
      f"{run}: is a reward model; only language models are exported as yet"
    )
  save_folder(output, found.model.config, found.params, found.tokenizer, dtype)
  return Path(output)
