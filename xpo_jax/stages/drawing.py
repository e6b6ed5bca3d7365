"""Prompts out of the data, and completions of them, a slice at a time."""

from collections.abc import Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xpo_jax import pretrained
from xpo_jax.data import films, load, templates
from xpo_jax.data.records import Group, Message, Prompt
from xpo_jax.data.templates import Template
from xpo_jax.errors import data_error, usage_error
from xpo_jax.pretrained import Pretrained
from xpo_jax.score_rows import plain_prompt
from xpo_jax.stages import slices
from xpo_jax.types import Feedback

FILE = "samples.part.jsonl"


class Asked(NamedTuple):
  """A prompt to sample from, with what the data say to it."""

  number: int  # in the data's order, shuffled; the noise depends on it
  prompt: Prompt
  best: str | None = None
  worst: str | None = None


class Call(NamedTuple):
  """One call of a policy: some of the completions of every prompt."""

  policy: int
  instruction: str
  places: tuple[int, ...]  # of the completions, 0..K-1


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The policies that draw, opened."""

  settings: Any
  calls: tuple[Call, ...]
  policies: tuple[Pretrained, ...]
  forms: tuple[Template, ...]  # a policy
  plain: tuple[bool, ...]  # whether its template is the plain one


def read_prompts(settings, own: bool) -> list[Asked]:
  """Distinct prompts: shuffled, the first ones skipped, so many.

  A warning tells of fewer than wanted.

  Args:
    settings: data, prompts, first, shuffle_seed.
    own: also the best and the worst completion that the data have for each.

  Raises:
    XpoError: bad data, or no prompt is left.
  """
  found = load.prompts(settings.data)
  order = range(len(found))
  if settings.shuffle_seed >= 0:
    noise = np.random.default_rng(settings.shuffle_seed)
    order = noise.permutation(len(found)).tolist()
  first, wanted = settings.first, settings.prompts
  end = first + wanted if wanted else None
  numbers = range(len(found))[first:end]
  if not numbers:
    raise data_error(
      f"{settings.data.source}: {len(found)} prompts, none is left after the "
      f"first={first} that are skipped"
    )
  tell_of_few(settings.data.source, len(found), first, wanted)
  best, worst = _own_texts(settings.data) if own else ({}, {})
  prompts = [(n, found[order[n]].prompt) for n in numbers]
  return [Asked(n, p, best.get(p), worst.get(p)) for n, p in prompts]


def tell_of_few(source: str, total: int, first: int, wanted: int) -> None:
  """Warns if fewer than `wanted` of all prompts are left after the first."""
  if total - first < wanted and jax.process_index() == 0:
    print(
      f"warning: {source} has {total} prompts: of the prompts={wanted} after "
      f"first={first}, {total - first} are left"
    )


def _own_texts(data) -> tuple[dict[Prompt, str], dict[Prompt, str]]:
  """(best, worst) completion by prompt, over all its rows with scores.

  Rows that do not compare with each other: that of the first row with one.
  """
  if data.source == "films":
    kind = "pairs" if data.format == "auto" else data.format
    groups, _ = films.load_films(data.split, kind)
  else:
    groups, _ = load.load_groups(data.source, data.format, data.on_bad_row)
  found: tuple[dict, dict] = {}, {}  # prompt -> (how far out, text)
  for group in groups:
    scored, values = group.kind is Feedback.SCORE, group.feedback
    sizes = (max(values), -min(values)) if scored else (0.0, 0.0)
    for own, size, text in zip(found, sizes, own_extremes(group), strict=True):
      known = own.get(group.prompt)
      if text is not None and (known is None or size > known[0]):
        own[group.prompt] = size, text
  best, worst = ({p: text for p, (_, text) in own.items()} for own in found)
  return best, worst


def own_extremes(group: Group) -> tuple[str | None, str | None]:
  """The best and the worst completion of a group, None where there is none.

  Of a thumb only its own side is known; a sole text with a score is neither.
  Self samples are nobody's best.
  """
  feedback, texts = group.feedback, group.completions
  low, high = int(np.argmin(feedback)), int(np.argmax(feedback))
  if group.kind is Feedback.BINARY:
    best = texts[high] if feedback[high] > 0 and len(texts) == 1 else None
    return best, texts[low] if feedback[low] < 0 else None
  if group.kind is Feedback.DEMONSTRATION:
    return texts[high], None
  if feedback[high] == feedback[low]:
    return None, None
  return texts[high], texts[low]


def policy_of(completions: int, policies: int) -> list[int]:
  """The policy of every completion: even blocks, earlier ones get the rest."""
  each, rest = divmod(completions, policies)
  return [p for p in range(policies) for _ in range(each + (p < rest))]


def make_calls(settings) -> tuple[Call, ...]:
  """Completion k is of its block's policy and has instruction k mod n."""
  texts = tuple(settings.instructions) or ("",)
  places: dict[tuple[int, int], list[int]] = {}
  owners = policy_of(settings.completions, len(settings.policies))
  for k, policy in enumerate(owners):
    places.setdefault((policy, k % len(texts)), []).append(k)
  return tuple(Call(p, texts[i], tuple(ks)) for (p, i), ks in places.items())


def instructed(prompt: Prompt, instruction: str) -> Prompt:
  """Instruction and a blank line before the text, or the first user turn."""
  if not instruction:
    return prompt
  if isinstance(prompt, str):
    return f"{instruction}\n\n{prompt}"
  first = next(n for n, m in enumerate(prompt) if m.role == "user")
  said = Message("user", f"{instruction}\n\n{prompt[first].content}")
  return (*prompt[:first], said, *prompt[first + 1 :])


def open_sampler(settings, where: str) -> Sampler:
  """Loads the policies.

  Raises:
    XpoError: no such source, no tokenizer, or a template that it has not.
  """
  policies, forms, plain = [], [], []
  for n, source in enumerate(settings.policies):
    policy = pretrained.load_pretrained(source)
    if policy.tokenizer is None:
      raise usage_error(
        f"{where}.policies[{n}]={source!r} has no tokenizer; add "
        "tokenizer.json to its folder"
      )
    if policy.model.config.max_length <= settings.max_new_tokens:
      raise usage_error(
        f"{where}.max_new_tokens={settings.max_new_tokens} leaves no room for "
        f"a prompt in the {policy.model.config.max_length} tokens of {source}"
      )
    name = settings.template
    name = templates.usual(policy.tokenizer) if name == "auto" else name
    forms.append(templates.make_template(policy.tokenizer, name))
    policies.append(policy.spread())
    plain.append(name == "plain")
  parts = (make_calls(settings), policies, forms, plain)
  return Sampler(settings, *map(tuple, parts))


def draw(settings, asked: Sequence[Asked], folder: Path, where: str) -> list:
  """Rows {prompt, texts [K], ended [K]}; no texts: the prompt is too long.

  A slice of `prompts_at_once` prompts at a time is appended to a file; what is
  there already is not drawn again.
  """
  size = settings.prompts_at_once
  # Policies are loaded only if there is something to draw.
  sampler = functools.cache(lambda: open_sampler(settings, where))
  return slices.grow(
    folder / FILE,
    [a.prompt for a in asked],
    size,
    "samples",
    lambda at: draw_slice(sampler(), asked[at : at + size]),
  )


def draw_slice(sampler: Sampler, part: Sequence[Asked]) -> list[dict]:
  """The rows of at most `prompts_at_once` prompts."""
  settings, count = sampler.settings, sampler.settings.completions
  ids = [_ids(sampler, a.prompt) for a in part]
  rows = [
    {"prompt": plain_prompt(a.prompt), "texts": [], "ended": []} for a in part
  ]
  fits = [n for n, own in enumerate(ids) if own is not None]
  for n in fits:
    rows[n] |= {"texts": [""] * count, "ended": [False] * count}
  # Always as many prompts, so that nothing is compiled anew.
  filled = fits + fits[-1:] * (settings.prompts_at_once - len(fits))
  for c, call in enumerate(sampler.calls if fits else ()):
    policy = sampler.policies[call.policy]
    heats = settings.temperatures
    samples, texts = policy.sample(
      [ids[n][c] for n in filled],
      max_new_tokens=settings.max_new_tokens,
      temperature=heats[call.policy if len(heats) > 1 else 0],
      top_p=settings.top_p,
      top_k=settings.top_k,
      seed=settings.seed,
      completions=len(call.places),
      end_id=sampler.forms[call.policy].end_id,
      # Every call has numbers of its own, and so has its noise.
      rows=np.array(
        [part[n].number * len(sampler.calls) + c for n in filled], np.int32
      ),
    )
    for row, n in enumerate(fits):
      for j, k in enumerate(call.places):
        text, prompt = texts[row][j], part[n].prompt
        if sampler.plain[call.policy] and not isinstance(prompt, str):
          text = text.removeprefix(" ")  # the template puts it back
        rows[n]["texts"][k] = text
        rows[n]["ended"][k] = bool(samples.ended[row, j])
  return rows


def _ids(sampler: Sampler, prompt: Prompt) -> list[np.ndarray] | None:
  """The prompt as every call puts it; None if one leaves too little room."""
  out = []
  for call in sampler.calls:
    form, policy = sampler.forms[call.policy], sampler.policies[call.policy]
    own = form.prompt(instructed(prompt, call.instruction))
    room = policy.model.config.max_length - sampler.settings.max_new_tokens
    if not 0 < len(own) <= room:
      return None
    out.append(np.asarray(own, np.int32))
  return out
