"""Models as notebooks and stages use them: load, score, generate, export.

A source is a preset's name, a Hugging Face folder, a .gguf file, or the folder
of an earlier run of `xpo train`.
"""

from collections.abc import Sequence
import dataclasses
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax import checkpoint, config, run_folder, spread, stored
from xpo_jax.errors import checkpoint_error, usage_error
from xpo_jax.models import model as lm
from xpo_jax.models import sequences, states
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.load import load_weights
from xpo_jax.models.weights.token_bytes import token_bytes
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.models.weights.tokenizer_files import save_tokenizer
from xpo_jax.rollout import requests, sampler, stops
from xpo_jax.types import Array, PyTree

MAX_DRAWN = 2**28  # weights drawn at random; `tiny` has under 2**20
PROMPT_BUCKET = 16  # prompts are padded to multiples: few compilations


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A model, its whole parameter tree and its tokenizer.

  `reward_head` is there when the run trained a reward model, `mesh` once
  `spread` has put the weights on all devices.
  """

  model: Model
  params: PyTree
  tokenizer: Tokenizer | None
  reward_head: PyTree | None = None
  mesh: jax.sharding.Mesh | None = None

  def spread(self) -> "Pretrained":
    """The same on all devices, which share the prompts of `sample`.

    With several processes all of them must then ask alike.
    """
    model, params, mesh = spread.place(self.model, self.params)
    return dataclasses.replace(self, model=model, params=params, mesh=mesh)

  def logits(self, tokens: Array) -> Array:
    """tokens int [B, T] (one sequence a row) -> float32 [B, T, V].

    Raises:
      XpoError: another shape, or an id that the model does not have.
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    _check_tokens(tokens, self.model.config)
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
    _check_list("logps", prompts, "prompts")
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
    **options,
  ) -> list[str] | list[list[str]]:
    """Sampled continuations; a list of K texts a prompt if completions > 1.

    `options`: end_id, top_k and stop, as of `sample`.

    Raises:
      XpoError: no tokenizer, or a value out of range.
    """
    texts = self.sample(
      prompts,
      max_new_tokens,
      temperature,
      top_p,
      seed,
      completions,
      **options,
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
    end_id: int | None = None,
    top_k: int = 0,
    stop: Sequence[str] = (),
    rows: np.ndarray | None = None,
  ):
    """(Samples as numpy, texts [B][K]) for prompts given as text or ids.

    `end_id` ends a completion; None is the tokenizer's EOS. So does a text of
    `stop`, whose tokens are among the samples but not in the texts. `rows`
    int32 [B] number the prompts, whose noise follows seed and number.
    """
    tokenizer = self._tokenizer("generate")
    _check_list("generate", prompts, "prompts")
    _check_list("generate", stop, "stop")
    requests.check(max_new_tokens, temperature, top_p, completions, top_k)
    ids = [self._prompt_ids(p) if isinstance(p, str) else p for p in prompts]
    if not ids:
      raise usage_error("generate: no prompts; give at least one text")
    requests.check_room(ids, max_new_tokens, self.model.config.max_length)
    how = sampler.Sampling(
      completions=completions,
      max_new_tokens=max_new_tokens,
      temperature=float(temperature),
      top_p=float(top_p),
      eos_id=tokenizer.eos_id if end_id is None else end_id,
      top_k=top_k,
    )
    rows = np.arange(len(ids), dtype=np.int32) if rows is None else rows
    table = stops.stop_table(token_bytes(tokenizer), stop) if stop else None
    key = jax.random.key(seed)
    samples = spread.draw(
      self.mesh, self.model, self.params, ids, rows, key, how, table
    )
    read = lambda t, m: stops.cut(tokenizer.decode(t[m]), stop)
    texts = [
      [read(t, m) for t, m in zip(ts, ms, strict=True)]
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


def _check_list(what: str, texts, name: str) -> None:
  if isinstance(texts, str):
    raise usage_error(f"{what}: {name} is one text; give a list of texts")


def _check_tokens(tokens: Array, sizes: TransformerConfig) -> None:
  """What is outside of a table would give NaN without a word."""
  if tokens.ndim != 2:
    raise usage_error(f"logits: tokens of shape {tokens.shape}; give [B, T]")
  size, longest = sizes.vocab_size, sizes.max_length
  if sizes.learned_positions and tokens.shape[1] > longest:
    raise usage_error(
      f"logits: {tokens.shape[1]} tokens, but the model knows only {longest} "
      "positions; shorten them"
    )
  if isinstance(tokens, jax.core.Tracer):
    return
  ids = np.asarray(tokens)
  bad = ids[(ids < 0) | (ids >= size)]
  if len(bad):
    raise usage_error(
      f"logits: token id {bad[0]} is outside of the vocabulary 0..{size - 1}"
    )


def load_pretrained(
  source: str | Path, dtype: str = "float32", unread: bool = False
) -> Pretrained:
  """A preset, Hugging Face folder, .gguf file or run folder -> Pretrained.

  RUN is a run's newest checkpoint, RUN@best that of the lowest held-out loss
  and RUN@STEP any other; all are verified byte by byte.
  A folder without a tokenizer loads too; text calls then say so.

  Args:
    source: see above.
    dtype: of the computation.
    unread: leave a folder's weights in their files until a device asks for
      its part (`parallel.put_params`); such a model cannot compute by itself.

  Raises:
    XpoError: no such source, or weights that cannot be used.
  """
  if (stored.split_source(source)[0] / "model.json").is_file():
    return _load_run(source, dtype)
  loaded = load_weights(str(source))
  model = Model(TransformerConfig(**loaded.config_kwargs), dtype=dtype)
  params = loaded.params
  if params is None:
    params = random_params(model, 0)
  if not unread:
    params = jax.tree.map(np.asarray, params)
  return Pretrained(model, params, loaded.tokenizer, loaded.reward_head)


def random_params(model: Model, seed: int) -> PyTree:
  """Seeded initial parameters as numpy.

  Raises:
    XpoError: more than any preset asks for (66): a run folder's sizes are what
      somebody wrote there.
  """
  make, key = (
    jax.jit(lambda k: nn.unbox(lm.init(model, k))),
    jax.random.key(seed),
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(make.eval_shape(key)))
  if count > MAX_DRAWN:
    raise checkpoint_error(
      f"{count} weights would be drawn, at most {MAX_DRAWN} are: these sizes "
      "are no preset's; bring the run's own model.json back"
    )
  return jax.tree.map(np.asarray, make(key))


def save_description(
  run: Path, model: Model, tokenizer: Tokenizer | None, settings
) -> None:
  """Writes what `load_pretrained(run)` needs beside the checkpoints."""
  run.mkdir(parents=True, exist_ok=True)
  if tokenizer is not None:
    (run / "tokenizer").mkdir(exist_ok=True)
    # An export has no config.json of ours; the tokenizer's goes along.
    own = dataclasses.replace(tokenizer, trained_with=settings.data.template)
    save_tokenizer(own, run / "tokenizer")
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


def _load_run(source: str | Path, dtype: str) -> Pretrained:
  found = run_folder.read(source, dtype)
  model, settings, policy = found.model, found.settings, found.policy
  if "top" in policy and not model.trunk_blocks:
    params = policy["top"]
  else:
    trunk, top = lm.split(_base_params(settings, model), model.trunk_blocks)
    base = states.base_fingerprint(trunk, top if "lora" in policy else {})
    run, _ = stored.split_source(source)
    stored.refuse_base(run, found.step, settings.model.source, base)
    if "lora" in policy:
      top = lm.merge_lora(model, Weights(trunk, top, policy["lora"]))
    else:
      top = policy["top"]
    params = jax.tree.map(np.asarray, lm.join(trunk, top))
  return Pretrained(
    Model(model.config, dtype=dtype),
    params,
    run_folder.tokenizer(source),
    policy.get("reward_head"),
  )


def _base_params(settings, model: Model) -> PyTree:
  """What a run started from; `tiny` is drawn anew, with the run's own sizes."""
  if settings.model.source == "tiny":
    return random_params(model, settings.seed)
  return load_pretrained(settings.model.source, model.dtype).params
