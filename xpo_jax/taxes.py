"""The alignment tax: right choices, and the likelihood of other people's text.

Both are log-probs of completions, computed by the packed forward of judges and
`xpo score`.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from xpo_jax import group_numbers, implicit, judging
from xpo_jax.data import load, templates
from xpo_jax.data.records import DOCUMENT, Group
from xpo_jax.data.templates import Template
from xpo_jax.errors import data_error
from xpo_jax.evals import compare, statistics
from xpo_jax.evals.compare import Comparison, Measured
from xpo_jax.judges import pointwise
from xpo_jax.judges.candidates import Score
from xpo_jax.pretrained import Pretrained
from xpo_jax.types import Feedback

MAX_TOKENS = 1024  # of a text; what follows is not read
SUM, MEAN = "right choices, sum", "right choices, a token"
NLL = "NLL a token"


class Texts(NamedTuple):
  """Nats, scored tokens and clusters of every text."""

  nats: np.ndarray  # [n] -log p
  tokens: np.ndarray  # [n] the end among them
  clusters: list[str]


def logps_of(model: Pretrained) -> Score:
  """Sums of log-probs, nats, of the completions of token groups."""
  count = implicit.LogpReward(scale=1.0, reference=False)
  return group_numbers.scores_of(judging.make_scorer(model, "sft", count))


def read_choices(source: str) -> list[Group]:
  """Questions: the answer with the highest feedback is the right one.

  Args:
    source: files whose rows have K >= 2 completions and scores (or ranks, or a
      chosen and a rejected one).

  Raises:
    XpoError: (65) bad data, no such rows, or two answers that are both best.
  """
  groups, _ = load.load_groups(source)
  for g in groups:
    if len(g.completions) < 2:
      raise data_error(
        f"{g.id}: a multiple-choice question needs two answers and scores; "
        "give prompt, completions and scores, 1 for the right one"
      )
    if g.feedback.count(max(g.feedback)) > 1:
      raise data_error(f"{g.id}: two answers have the highest score; give one")
  return groups


def read_texts(source: str) -> list[Group]:
  """Texts whose likelihood is measured: rows of `text`, or of demonstrations.

  Raises:
    XpoError: (65) bad data, or rows that are no texts.
  """
  groups, _ = load.load_groups(source)
  if groups[0].kind is not Feedback.DEMONSTRATION:
    raise data_error(
      f"{groups[0].id}: rows with feedback are no held-out texts; give rows "
      "with a text, or a prompt and a completion"
    )
  return groups


def choices(
  logps: Score, groups: Sequence[Group], template: Template, room: int
) -> dict[str, np.ndarray]:
  """SUM and MEAN -> [n] 1 if the right answer is the likeliest, else 0.

  By sum_t log p_t of each answer with its terminator, and by that over its
  tokens. Answers that are equally likely share the 1. NaN: too long.

  Args:
    logps: of `logps_of`.
    groups: of `read_choices`.
    template: of the policy.
    room: tokens that the policy can read.
  """
  tokens = [
    pointwise.token_group(
      template, g.prompt, g.completions, [True] * len(g.completions), g.id
    )
    for g in groups
  ]
  counts = [np.array([len(c) for c in t.completions]) for t in tokens]
  fits = [
    n for n, t in enumerate(tokens) if len(t.prompt) + counts[n].max() <= room
  ]
  out = {name: np.full(len(groups), np.nan) for name in (SUM, MEAN)}
  found = logps([tokens[n] for n in fits]) if fits else []
  for n, sums in zip(fits, found, strict=True):
    right = int(np.argmax(groups[n].feedback))
    for name, own in ((SUM, sums), (MEAN, sums / counts[n])):
      best = own == own.max()
      out[name][n] = best[right] / best.sum() if best.any() else np.nan
  return out


def texts(
  logps: Score, groups: Sequence[Group], model: Pretrained, template: str
) -> Texts:
  """Negative log-likelihoods of texts, cut where MAX_TOKENS are full.

  A document follows the beginning of a text and ends with EOS; a completion
  follows its prompt.

  Args:
    logps: of `logps_of`.
    groups: of `read_texts`.
    model: whose tokenizer and room count.
    template: plain or chat, of prompts.

  Raises:
    XpoError: (65) no text fits.
  """
  room = min(MAX_TOKENS, model.model.config.max_length)
  # Before a document stands one token, before a completion its prompt.
  before = 2 if groups[0].prompt == DOCUMENT else room // 2
  cut, _ = templates.tokenize(
    groups,
    model.tokenizer,
    template,
    max_prompt_length=before,
    max_completion_length=room - before,
    overlong_prompt="left",
    on_bad_row="skip",
  )
  nats = np.array([-own[0] for own in logps(cut)], np.float64)
  tokens = np.array([len(g.completions[0]) for g in cut], np.float64)
  return Texts(nats, tokens, [g.cluster or g.id for g in cut])


def per_token(found: Texts) -> np.ndarray:
  """[n] numbers whose mean is R = sum nats / sum tokens.

    v_i = R + (nats_i - R tokens_i) / mean tokens

  so that their clustered standard error is that of the ratio.

  Reference: Cochran, Sampling techniques, 1977, section 2.11.
  """
  ratio = found.nats.sum() / found.tokens.sum()
  return ratio + (found.nats - ratio * found.tokens) / found.tokens.mean()


@dataclasses.dataclass(frozen=True)
class Tax:
  """What one policy pays; None where there were no data."""

  choices: dict[str, np.ndarray] | None
  texts: Texts | None


def measure(
  model: Pretrained,
  template: str,
  questions: Sequence[Group] | None,
  others: Sequence[Group] | None,
) -> Tax:
  """Both taxes of a policy.

  Args:
    model: the policy.
    template: plain or chat.
    questions: of `read_choices`.
    others: of `read_texts`.
  """
  logps = logps_of(model)
  made = templates.make_template(model.tokenizer, template)
  room = model.model.config.max_length
  return Tax(
    questions and choices(logps, questions, made, room),
    others and texts(logps, others, model, template),
  )


def numbers(paid: Tax) -> dict[str, float]:
  """The means of what there is."""
  found = {}
  for name, right in (paid.choices or {}).items():
    known = right[~np.isnan(right)]
    found[name] = float(known.mean()) if len(known) else np.nan
  if paid.texts is not None:
    found[NLL] = float(paid.texts.nats.sum() / paid.texts.tokens.sum())
  return found


def table(
  taxes: dict[str, Tax],
  questions: Sequence[Group] | None,
  base: str,
  final: str,
  seed: int = 0,
) -> dict:
  """Right choices and NLL of all policies, final against base.

  NLLs over other tokens, as by other tokenizers, are not compared.

  Args:
    taxes: policy -> Tax, in the order of the columns.
    questions: of `read_choices`.
    base: a policy.
    final: another.
    seed: of the bootstrap.
  """
  rows: list[Comparison] = []
  columns = {name: {} for name in taxes}
  title = "Alignment tax: multiple choice and other people's text"

  def add(values: Callable[[Tax], dict[str, np.ndarray]], clusters):
    found = {name: Measured(values(tax), {}) for name, tax in taxes.items()}
    for name, own in found.items():
      columns[name] |= compare.estimates(own, clusters)
    rows.extend(
      compare.differences(found[base], found[final], clusters, seed=seed)
    )

  if questions:
    add(lambda tax: tax.choices, [g.cluster or g.id for g in questions])
  if taxes[base].texts is not None:
    add(lambda tax: {NLL: per_token(tax.texts)}, taxes[base].texts.clusters)
    one, other = (taxes[name].texts for name in (base, final))
    same = np.array_equal(one.tokens, other.tokens)
    more = (other.nats > one.nats) + 0.5 * (other.nats == one.nats)
    higher = statistics.wilson(float(more.sum()), len(more))
    none = {"difference": compare.NO_INTERVAL, "higher": compare.NO_INTERVAL}
    changed = {"higher": higher} if same else none
    rows[-1] = dataclasses.replace(rows[-1], **changed)
    title += "" if same else " (other tokens: NLL not compared)"
  return compare.final_table(
    title,
    columns,
    rows,
    f"{final} - {base}",
  )
