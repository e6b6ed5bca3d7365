"""Judges on tiny models: numbers against rows of one plain sequence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import runs
from tests import tiny_models as tiny
from tests.judges.stand_ins import candidates
from tests.pretrained_test import write_run
from tests.tiny import compilations
from xpo_jax import config, group_numbers, implicit, judging
from xpo_jax.data import templates
from xpo_jax.errors import XpoError
from xpo_jax.judges import pairwise, pointwise, rating, wording
from xpo_jax.judges.candidates import Reply
from xpo_jax.models import heads, sequences
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.pretrained import Pretrained

CONFIG = dataclasses.replace(
  tiny.CONFIG, vocab_size=260, layers=1, max_length=1024
)
MODEL = Model(CONFIG)
BYTES = byte_tokenizer()
PLAIN = templates.make_template(BYTES, "plain")
WIDTH = 704  # of the plain forward
TEXTS = candidates(("a film", "b"), ("é 猫", ""), prompts=["one?", "two?"])


def params(seed):
  return jax.tree.map(lambda x: x * 0.6, tiny.params(CONFIG, seed))


def head(seed):
  noise = np.random.default_rng(seed)
  kernel = noise.normal(size=CONFIG.width).astype(np.float32)
  return {"kernel": kernel, "bias": np.float32(0.25)}


def reader(seed=0):
  return judging.Reader(Pretrained(MODEL, params(seed), BYTES), PLAIN)


def row(prompt, completion):
  ids = [*PLAIN.prompt(prompt), *PLAIN.completion(prompt, [completion])[0]]
  ids = np.array([*ids, BYTES.eos_id])
  padded = np.zeros((1, WIDTH), int)
  padded[0, : len(ids)] = ids
  return jnp.asarray(padded), len(PLAIN.prompt(prompt)), len(ids)


def plain_sum(tree, prompt, completion) -> float:
  """log P(completion, end | prompt), one row of one sequence."""
  tokens, first, end = row(prompt, completion)
  return float(
    sequences.next_logps(MODEL, tree, tokens)[0, first - 1 : end - 1].sum()
  )


@pytest.fixture(scope="module")
def ask():
  return reader().ask()


def test_answers_carry_their_terminator(ask):
  """Ten labels in one forward; "1" and "10" are different answers."""
  question = wording.ask("rating", prompt="one?", answer="a film")
  (found,) = ask([(question, rating.RATINGS)])
  wanted = [plain_sum(params(0), question, own) for own in ("1", "4", "10")]
  np.testing.assert_allclose(found[[0, 3, 9]], wanted, rtol=2e-5)


def test_a_pair_judge_on_a_model(ask):
  found = pairwise.language_model(ask)(candidates(("xx", "y"), prompts=["?"]))
  gap = []
  for first, second in (("xx", "y"), ("y", "xx")):
    question = wording.ask("pair", prompt="?", first=first, second=second)
    sums = [plain_sum(params(0), question, own) for own in ("1", "2")]
    gap.append(sums[0] - sums[1])
  p = [1 / (1 + np.exp(-g)) for g in gap]
  np.testing.assert_allclose(
    found.scores[0, 0, 1], (p[0] + 1 - p[1]) / 2, atol=1e-5
  )


def test_what_does_not_fit_has_no_numbers(ask):
  found = ask([("x" * 2000, ("1", "2"))])
  assert np.isnan(found[0]).all() and found[0].shape == (2,)


def test_shapes_are_rounded(ask):
  """Other lengths, another number of questions: the same program."""
  with compilations("jit(score_batch)") as compiled:
    ask([("x" * 30, ("1", "2", "3"))])
    assert len(compiled) == 1
    ask([("x" * n, ("yes", "no", "so")) for n in range(1, 20)])
  assert len(compiled) == 1


def test_questions_of_many_lengths(ask, monkeypatch):
  """Three forwards, the short questions together; each has its own numbers."""
  sizes, real = [], group_numbers.packing.pack
  monkeypatch.setattr(group_numbers, "ROWS", 8)
  monkeypatch.setattr(
    group_numbers.packing,
    "pack",
    lambda own, shape, kind: (
      sizes.append(shape.row_length) or real(own, shape, kind)
    ),
  )
  texts = ["x" * n for n in (300, 5, 200, *range(1, 20), 150)]
  found = ask([(text, ("1", "10")) for text in texts])
  assert sizes == [64, 64, 320]
  for text, own in zip(texts, found, strict=True):
    wanted = [plain_sum(params(0), text, answer) for answer in ("1", "10")]
    np.testing.assert_allclose(own, wanted, rtol=1e-4)


def test_writing():
  write = reader().write(max_new_tokens=3)
  found = write([("one?", 0), ("y" * 1023, 0), ("two?", 0)])
  assert found[1] is None
  alone = write([("two?", 0)])
  assert isinstance(alone[0], Reply) and alone[0] == found[2]
  tokens = [*PLAIN.prompt("two?")]
  for _ in range(3):  # greedy, by hand
    logits = sequences.logits(
      MODEL, params(0), jnp.asarray([tokens + [0] * (16 - len(tokens))])
    )
    tokens.append(int(jnp.argmax(logits[0, len(tokens) - 1])))
  assert found[2].text == BYTES.decode(tokens[4:])
  assert found[2].whole == (BYTES.eos_id in tokens[4:])


def test_noise_follows_the_request_and_the_seed():
  """Whatever is asked before, beside or after it."""
  own, hot = reader(), dict(max_new_tokens=3, temperature=1.0)
  write = own.write(**hot, seed=5)
  asked = [(f"p{n % 5}", n // 5) for n in range(20)]  # two batches of the model
  found = write(asked)
  assert len({reply.text for reply in found}) >= 18
  assert write(asked[::-1]) == found[::-1]
  parts = [write(asked[n : n + 7]) for n in (0, 7, 14)]
  assert sum(parts, []) == found
  assert own.write(**hot, seed=5)(asked[3:4]) == found[3:4]
  other = own.write(**hot, seed=6)(asked)
  assert sum(a == b for a, b in zip(found, other, strict=True)) <= 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("judging")
  save_folder(path / "base", CONFIG, params(0), BYTES)
  save_folder(path / "other", CONFIG, params(1), BYTES)
  runs.write(path / "pairs.jsonl", map(runs.pair, range(3)))
  for name, method, more in (
    ("reward", "rm_bt", {"reward_head": head(3)}),
    ("dpo", "dpo", {}),
  ):
    c = config.base().unlock()
    c.method = config.method(method)
    c.model.source = str(path / "base")
    c.data.source = str(path / "pairs.jsonl")
    policy = {"top": jax.tree.map(jnp.asarray, params(1))} | more
    write_run(path / name, MODEL, policy, c.lock())
  return path


def plain_reward(prompt, completion) -> float:
  tokens, _, end = row(prompt, completion)
  weights = Weights({}, params(1))
  states = lm.hidden(MODEL, weights, tokens, sequences.places(tokens))
  return float(heads.reward(head(3), states[:, end - 1])[0])


def test_a_reward_model(folder):
  found = judging.reward_model(str(folder / "reward"))(TEXTS)
  wanted = [
    [plain_reward(p, t) for t in texts]
    for p, texts in zip(TEXTS.prompts, TEXTS.texts, strict=True)
  ]
  np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-5)
  assert found.asked == 4 and not found.invalid


def test_an_implicit_reward(folder):
  """A run against its start, and the same two models by name."""
  difference = lambda p, t: (
    plain_sum(params(1), p, t) - plain_sum(params(0), p, t)
  )
  wanted = [
    [0.1 * difference(p, t) for t in texts]
    for p, texts in zip(TEXTS.prompts, TEXTS.texts, strict=True)
  ]
  run = judging.implicit_reward(str(folder / "dpo"))(TEXTS)
  np.testing.assert_allclose(run.scores, wanted, rtol=1e-4, atol=1e-4)
  named = judging.implicit_reward(
    str(folder / "other"), str(folder / "base"), beta=0.2, template="plain"
  )(TEXTS)
  np.testing.assert_allclose(named.scores, 2 * run.scores, rtol=1e-4, atol=1e-4)


def test_the_wrong_kind(folder):
  dpo, base = str(folder / "dpo"), str(folder / "base")
  with pytest.raises(XpoError, match="is a policy; want a reward model"):
    judging.reward_model(dpo)
  with pytest.raises(XpoError, match="base has no reward head"):
    judging.reward_model(base)
  with pytest.raises(XpoError, match="is a reward model; want a policy"):
    judging.implicit_reward(str(folder / "reward"))
  with pytest.raises(XpoError, match="name a reference and beta"):
    judging.implicit_reward(base)
  with pytest.raises(XpoError, match="beta=0"):
    judging.implicit_reward(base, base, beta=0.0)


def test_long_groups_are_split_by_completions():
  score = group_numbers.scores_of(
    judging.make_scorer(reader().model, "sft", implicit.LogpReward(1.0, False))
  )
  texts = ("a" * 400, "b" * 300, "c" * 500, "d")
  groups = pointwise.token_groups(candidates(texts, prompts=["one?"]), PLAIN)
  (found,) = score([groups[0]])
  wanted = [plain_sum(params(0), "one?", t) for t in texts]
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
