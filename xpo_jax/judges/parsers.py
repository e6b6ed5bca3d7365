"""Strict readers of judges' replies: a number, or the reason there is none.

Nothing is guessed: what does not follow the grammar is invalid, and there is no
number by default.
"""

import re
from typing import NamedTuple

from xpo_jax.judges.candidates import Reply

MAX_REPLY = 65536  # characters; a longer one is not read
# A digit of any script after the number makes it another number.
_SCORE = re.compile(r"Score:\s*([0-5](?:\.[0-9]+)?)(?!\.?\d|[eE]\d)")
# What after it tells of a range, of another decimal point or of a scale that
# does not end at 5.
_OTHER_SCALE = re.compile(
  r"[ \t*_]*(?:/(?![ \t]*5(?![.,]?\d))|"
  r"(?:out[ \t]+)?of(?![ \t]*5(?![.,]?\d))[ \t]+\d|"
  r"(?:[-~\u2010-\u2015\u2212]|to\b)[ \t]*\d|%)|,\d"
)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_REFUSAL = re.compile(
  r"(i'm sorry|i am sorry|sorry|i can't|i cannot|i can not|i won't|i will not|"
  r"i'm unable|i am unable|i'm not able|as an ai)\b",
  re.IGNORECASE,
)
_SIDES = {"A": 1.0, "B": 0.0, "TIE": 0.5}


class Parsed(NamedTuple):
  """value is NaN exactly if there is a reason."""

  value: float
  reason: str = ""


def _bad(reason: str) -> Parsed:
  return Parsed(float("nan"), reason)


def additive_score(reply: Reply | None) -> Parsed:
  """The last "Score: n", n in [0, 5], of an additive judge.

  "3.5/5" is 3.5; "5/10", "0-5" and "3,5" are no points.

  Source: methods.md 6.1; Yuan et al. 2024, arXiv 2401.10020, figure 2.
  """
  if reason := _unreadable(reply):
    return _bad(reason)
  found = list(_SCORE.finditer(reply.text))
  if not found:
    return _bad(_why(reply.text))
  if _OTHER_SCALE.match(reply.text, found[-1].end()):
    return _bad("grammar")
  value = float(found[-1][1])
  return Parsed(value) if value <= 5 else _bad("range")


def pair_verdict(reply: Reply | None, nonce: str) -> Parsed:
  """P(A is better) of a last line "VERDICT nonce A|B|TIE": 1, 0 or 1/2."""
  line = _verdict_line(reply, "VERDICT", nonce)
  if isinstance(line, Parsed):
    return line
  return Parsed(_SIDES[line]) if line in _SIDES else _bad("grammar")


def rating_verdict(reply: Reply | None, nonce: str) -> Parsed:
  """The whole number of a last line "SCORE nonce 1..10"."""
  line = _verdict_line(reply, "SCORE", nonce)
  if isinstance(line, Parsed):
    return line
  if not re.fullmatch(r"[0-9]{1,4}", line):
    return _bad("range" if re.fullmatch(r"-[0-9]+", line) else "grammar")
  value = int(line)
  good = 1 <= value <= 10 and line == str(value)
  return Parsed(float(value)) if good else _bad("range")


def _verdict_line(reply, word: str, nonce: str) -> str | Parsed:
  """What follows "WORD nonce " on the last line."""
  if reason := _unreadable(reply):
    return _bad(reason)
  lines = reply.text.rstrip().splitlines()
  start = f"{word} {nonce} "
  verdicts = {line for line in lines if line.startswith(start)}
  if len(verdicts) > 1:
    return _bad("conflict")
  if not verdicts or not lines[-1].startswith(start):
    return _bad(_why(reply.text))
  return lines[-1].removeprefix(start)


def _unreadable(reply: Reply | None) -> str:
  """Why a reply is not even looked at; "" if it is."""
  if reply is None:
    return "no_reply"
  if not reply.text.strip():
    return "empty"
  if len(reply.text) > MAX_REPLY:
    return "size"
  return "" if reply.whole else "truncated"


def _why(text: str) -> str:
  """The reason's name for a text without a verdict."""
  text = text.strip()
  if _REFUSAL.match(text.replace("\u2019", "'")):
    return "refusal"
  if text in ("true", "false", "null"):
    return "type"
  far = _NUMBER.fullmatch(text) and not 1 <= float(text) <= 10
  return "range" if far else "grammar"
