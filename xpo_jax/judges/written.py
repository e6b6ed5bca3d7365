"""Judges that write: points added up, verdicts and ratings on a last line.

Any model that writes will do, ours or a remote one.
"""

import collections
from collections.abc import Callable, Sequence
import hashlib

import numpy as np

from xpo_jax.data.records import Prompt
from xpo_jax.errors import usage_error
from xpo_jax.judges import pairwise, parsers, wording
from xpo_jax.judges.candidates import (
  Candidates,
  Judge,
  Judgement,
  PairJudge,
  Reply,
  Write,
)
from xpo_jax.judges.parsers import Parsed


def additive(write: Write, samples: int = 3) -> Judge:
  """Points 0..5 of an additive judge: mean of the valid replies.

  NaN where none of the replies is valid.

  Source: Yuan et al. 2024, arXiv 2401.10020, section 2.2; methods.md 6.1.
  """
  question = lambda prompt, text: wording.ask(
    "additive", prompt=prompt, answer=text
  )
  parse = lambda reply, prompt, text: parsers.additive_score(reply)
  return _pointwise(write, question, parse, samples)


def rating(write: Write, samples: int = 1, salt: str = "") -> Judge:
  """A whole number 1..10 on a last line that carries a nonce."""
  nonce = lambda prompt, text: make_nonce(salt, prompt, text)
  question = lambda prompt, text: wording.ask(
    "verdict_rating",
    prompt=prompt,
    answer=text,
    plain={"nonce": nonce(prompt, text)},
  )
  parse = lambda reply, prompt, text: parsers.rating_verdict(
    reply, nonce(prompt, text)
  )
  return _pointwise(write, question, parse, samples)


def verdict(write: Write, salt: str = "") -> PairJudge:
  """A, B or TIE in both orders; a verdict that flips with the order is 1/2."""

  def judge(candidates: Candidates) -> Judgement:
    places = pairwise.ordered_pairs(candidates)
    nonces, prompts = [], []
    for b, i, j in places:
      prompt, texts = candidates.prompts[b], candidates.texts[b]
      nonces.append(make_nonce(salt, prompt, texts[i], texts[j]))
      prompts.append(
        wording.ask(
          "verdict_pair",
          prompt=prompt,
          first=texts[i],
          second=texts[j],
          plain={"nonce": nonces[-1]},
        )
      )
    replies = _all_replies(write, [(prompt, 0) for prompt in prompts])
    first = np.full((*candidates.shape, candidates.shape[1]), np.nan)
    invalid = collections.Counter()
    for place, nonce, reply in zip(places, nonces, replies, strict=True):
      first[place], reason = parsers.pair_verdict(reply, nonce)
      invalid[reason] += bool(reason)
    return pairwise.judgement(candidates, first, +invalid)

  return judge


def make_nonce(salt: str, *texts: Prompt) -> str:
  """Eight hexadecimal digits that no candidate can know in advance.

  They depend on what is judged, so that a resumed run asks the same question
  and a quoted candidate, which cannot hold its own hash, does not match.
  """
  whole = "\0".join([salt, *map(wording.quote, texts)])
  return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _pointwise(
  write: Write,
  question: Callable[[Prompt, str], Prompt],
  parse: Callable[[Reply | None, Prompt, str], Parsed],
  samples: int,
) -> Judge:
  if samples < 1:
    raise usage_error(f"samples={samples}: want at least one reply")

  def judge(candidates: Candidates) -> Judgement:
    places = candidates.places()
    own = [(candidates.prompts[b], candidates.texts[b][k]) for b, k in places]
    asked = [(question(*o), n) for o in own for n in range(samples)]
    replies = _all_replies(write, asked)
    scores, invalid = np.full(candidates.shape, np.nan), collections.Counter()
    for n, (place, texts) in enumerate(zip(places, own, strict=True)):
      found = [
        parse(reply, *texts)
        for reply in replies[n * samples : (n + 1) * samples]
      ]
      invalid.update(p.reason for p in found if p.reason)
      values = [p.value for p in found if not p.reason]
      if values:
        scores[place] = np.mean(values)
    return Judgement(scores, len(replies), invalid)

  return judge


def _all_replies(
  write: Write, asked: Sequence[tuple[Prompt, int]]
) -> Sequence[Reply | None]:
  replies = write(asked) if asked else []
  if len(replies) != len(asked):
    raise usage_error(
      f"judge: {len(replies)} replies to {len(asked)} questions; the writer "
      "must return one each, None for none"
    )
  return replies
