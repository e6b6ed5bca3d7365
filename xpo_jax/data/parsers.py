"""One function a layout: a row to a group, or the reason of its drop.

`formats.parse` has made sure that the layout's columns are there and not null.
"""

from collections.abc import Sequence
import dataclasses

from xpo_jax.data import cells, dialogues, ratings
from xpo_jax.data.cells import Notes
from xpo_jax.data.records import DOCUMENT, BadRow, Group, Step
from xpo_jax.types import Feedback


def pair(row: dict, row_id: str, notes: Notes) -> Group | str:
  """chosen and rejected -> ORDER, or MARGIN if there is a margin."""
  chosen_prompt, chosen = cells.side(row["chosen"], "chosen", notes)
  rejected_prompt, rejected = cells.side(row["rejected"], "rejected", notes)
  if chosen_prompt != rejected_prompt:
    raise BadRow(
      "different_prompts",
      "chosen and rejected have different prompts"
      f"{_where(chosen_prompt, rejected_prompt)}; make all turns before the"
      " last assistant turn equal",
    )
  prompt = cells.joint_prompt(row.get("prompt"), chosen_prompt, notes)
  kind, feedback = Feedback.ORDER, (1.0, 0.0)
  if "margin" in row:
    if row["margin"] is None:
      return "null"
    margin = cells.number(row["margin"], "margin")
    if margin < 0:
      raise BadRow("bad_margin", f"margin {margin} is negative; want >= 0")
    kind, feedback = Feedback.MARGIN, (margin, 0.0)
  return cells.group(row, row_id, prompt, (chosen, rejected), feedback, kind)


def sampled(row: dict, row_id: str, notes: Notes) -> Group | str:
  """Self samples, then what was rejected -> BINARY +1 .. +1, -1."""
  (samples,) = cells.lists(row, "samples")
  if any(v is None for v in samples):
    return "null"
  if not samples:
    return "empty"
  texts = [
    *cells.completions(samples, "samples"),
    cells.completion(row["rejected"], "rejected"),
  ]
  feedback = (1.0,) * len(samples) + (-1.0,)
  prompt = cells.prompt(row["prompt"], notes)
  return cells.group(row, row_id, prompt, texts, feedback, Feedback.BINARY)


def scored(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completions and scores -> SCORE."""
  texts, scores = cells.lists(row, "completions", "scores")
  if any(v is None for v in (*texts, *scores)):
    return "null"
  scores = [cells.number(v, f"scores[{i}]") for i, v in enumerate(scores)]
  return _list(row, row_id, notes, texts, scores)


def ranked(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completions and ranks (1 = best) -> SCORE.

  A completion's score is the share of the others that it beats, ties half:
  1 for a sole first, 0 for a sole last, whatever numbers the ranks are.
  """
  texts, ranks = cells.lists(row, "completions", "ranks")
  if any(v is None for v in (*texts, *ranks)):
    return "null"
  for i, rank in enumerate(ranks):
    if type(rank) is not int or rank < 1:
      raise BadRow(
        "bad_rank", f"ranks[{i}] is {rank!r:.40}; want 1 (best), 2, ..."
      )
  return _list(row, row_id, notes, texts, shares_beaten(ranks))


def shares_beaten(ranks: Sequence[int]) -> list[float]:
  """Of every rank the share of the others that are larger, equal ones half."""
  others = max(1, len(ranks) - 1)
  return [
    (sum(r < s for s in ranks) + 0.5 * (ranks.count(r) - 1)) / others
    for r in ranks
  ]


def won(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completions and win_rates -> PROBABILITY, which need not add up to 1.

  Two completions with p and 1 - p are a soft label.
  """
  texts, rates = cells.lists(row, "completions", "win_rates")
  if any(v is None for v in (*texts, *rates)):
    return "null"
  rates = [cells.number(v, f"win_rates[{i}]") for i, v in enumerate(rates)]
  for i, rate in enumerate(rates):
    if not 0 <= rate <= 1:
      raise BadRow("bad_rate", f"win_rates[{i}] is {rate:g}; want 0 to 1")
  return _list(row, row_id, notes, texts, rates, Feedback.PROBABILITY)


def _list(
  row, row_id, notes, texts, scores, kind=Feedback.SCORE
) -> Group | str:
  if not texts:
    return "empty"
  if len(texts) == 1:
    return "single"
  texts = cells.completions(texts)
  prompt = cells.prompt(row["prompt"], notes)
  found = cells.group(row, row_id, prompt, texts, scores, kind)
  if isinstance(found, Group) and len(set(scores)) < len(scores):
    notes["tied_scores"] += 1
  return found


def rated(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completions, each with the ratings of several people -> SCORE (means).

  A null among the ratings of a completion is a rater who gave none.
  """
  texts, given = cells.lists(row, "completions", "ratings")
  if any(v is None for v in (*texts, *given)):
    return "null"
  if not texts:
    return "empty"
  numbers = []
  for i, own in enumerate(given):
    if not isinstance(own, list):
      raise BadRow(
        "bad_list", f"ratings[{i}] is {own!r:.40}; want a list of numbers"
      )
    numbers.append(
      tuple(
        cells.number(v, f"ratings[{i}][{j}]")
        for j, v in enumerate(own)
        if v is not None
      )
    )
  if not all(numbers):
    return "unrated"
  prompt, kind = cells.prompt(row["prompt"], notes), Feedback.SCORE
  means = [ratings.mean(own) for own in numbers]
  found = cells.group(
    row, row_id, prompt, cells.completions(texts), means, kind
  )
  if isinstance(found, str):
    return found
  return dataclasses.replace(found, ratings=tuple(numbers))


def stepwise(row: dict, row_id: str, notes: Notes) -> Group | str:
  """Steps with labels -> BINARY, one completion: the steps joined.

  The texts stay as they are. A line end is put between two steps, as the end
  of the first, unless whitespace stands there already. The feedback is the
  outcome: -1 if a step is wrong, +1 if all are right, 0 if it is not known
  because a step has no label.
  """
  texts, labels = cells.lists(row, "completions", "labels")
  if any(v is None for v in texts):
    return "null"
  texts = cells.completions(texts)
  if not texts or any(map(cells.says_nothing, texts)):
    return "empty"
  labels = [_step_label(v, f"labels[{i}]") for i, v in enumerate(labels)]
  if all(v is None for v in labels):
    return "unlabelled"
  texts = joined(texts)
  prompt, whole = cells.prompt(row["prompt"], notes), "".join(texts)
  found = cells.group(
    row, row_id, prompt, (whole,), (_outcome(labels),), Feedback.BINARY
  )
  if isinstance(found, str):
    return found
  texts[0] = texts[0][len(whole) - len(found.completions[0]) :]
  steps = tuple(map(Step, texts, labels))
  return dataclasses.replace(found, steps=(steps,))


def joined(steps: Sequence[str]) -> list[str]:
  """The steps with the line ends that are missing between them."""
  return [
    *(
      step if step[-1].isspace() or after[0].isspace() else f"{step}\n"
      for step, after in zip(steps, steps[1:], strict=False)
    ),
    steps[-1],
  ]


def _step_label(value: object, what: str) -> float | None:
  if value is None or isinstance(value, bool):
    return None if value is None else float(value)
  found = value if isinstance(value, int | float) else -1.0
  if not 0 <= found <= 1:
    raise BadRow(
      "bad_label",
      f"{what} is {value!r:.40}; want true/false, a number in [0, 1], or null",
    )
  return float(found)


def _outcome(labels: Sequence[float | None]) -> float:
  if any(v is not None and v <= 0.5 for v in labels):
    return -1.0
  return 0.0 if None in labels else 1.0


def labelled(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completion and label -> BINARY."""
  label = row["label"]
  if not isinstance(label, bool) and not (
    type(label) is int and label in (0, 1)
  ):
    raise BadRow("bad_label", f"label {label!r}; want true/false or 1/0")
  feedback = 1.0 if label else -1.0
  return _single(row, row_id, notes, feedback, Feedback.BINARY)


def scalar(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completion and score -> SCORE with K = 1."""
  score = cells.number(row["score"], "score")
  return _single(row, row_id, notes, score, Feedback.SCORE)


def demonstrated(row: dict, row_id: str, notes: Notes) -> Group | str:
  """completion -> DEMONSTRATION."""
  return _single(row, row_id, notes, 1.0, Feedback.DEMONSTRATION)


def prompted(row: dict, row_id: str, notes: Notes) -> Group | str:
  """A prompt to sample from, without completions."""
  prompt = cells.prompt(row["prompt"], notes)
  return cells.group(row, row_id, prompt, (), (), Feedback.DEMONSTRATION)


def _single(row, row_id, notes, feedback, kind) -> Group | str:
  text = cells.completion(row["completion"], "completion")
  prompt = cells.prompt(row["prompt"], notes)
  return cells.group(row, row_id, prompt, (text,), (feedback,), kind)


def conversation(row: dict, row_id: str, notes: Notes) -> Group | str:
  """messages -> DEMONSTRATION of the last assistant turn."""
  value = row["messages"]
  messages = (
    dialogues.parse_dialogue(value, notes)
    if dialogues.is_dialogue(value)
    else dialogues.parse_messages(value, "messages")
  )
  if messages[-1].role != "assistant":
    return "no_target"
  if len(messages) == 1:
    raise BadRow("empty_prompt", "messages has no user turn; add the prompt")
  text, kind = messages[-1].content, Feedback.DEMONSTRATION
  return cells.group(row, row_id, messages[:-1], (text,), (1.0,), kind)


def document(row: dict, row_id: str, notes: Notes) -> Group | str:
  """text -> DEMONSTRATION of the whole text, without a prompt."""
  text = row["text"]
  if not isinstance(text, str):
    raise BadRow("bad_text", f"text is {text!r:.40}; want a text")
  if cells.says_nothing(text):
    return "empty"
  kind, ended = Feedback.DEMONSTRATION, cells.ended(row, 1)
  return Group(row_id, DOCUMENT, (text,), (1.0,), kind, ended=ended)


def _where(a, b) -> str:
  """Which turn of two prompts differs, in words."""
  if a is None or b is None:
    return " (one carries a prompt, the other none)"
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return f" (turn {i + 1} differs)"
  return f" ({len(a)} and {len(b)} turns)"
