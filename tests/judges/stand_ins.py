"""Tables in place of models: they answer from the question that they see."""

import json

import numpy as np

from xpo_jax.data.records import Message
from xpo_jax.judges.candidates import Candidates, make_candidates


def candidates(*texts, prompts=None, present=None, ended=None) -> Candidates:
  """One tuple of texts a prompt; prompts are "p0?", "p1?", ..."""
  prompts = prompts or [f"p{b}?" for b in range(len(texts))]
  return make_candidates(prompts, texts, present, ended)


def content(question) -> str:
  """The text of a question that is one user turn."""
  (turn,) = question
  assert isinstance(turn, Message) and turn.role == "user"
  return turn.content


def shown(question) -> dict[str, str]:
  """Label -> text of every line `label: "json"` or `(A) "json"`."""
  out = {}
  for line in content(question).splitlines():
    label, _, text = line.partition(' "')
    if text:
      out[label.rstrip(":")] = json.loads(f'"{text}')
  return out


def logit(p: float) -> float:
  with np.errstate(divide="ignore"):
    return float(np.log(p) - np.log1p(-p))
