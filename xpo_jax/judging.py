"""Models for judges: scores of completions, answers to questions, texts.

All scores go through the packed forward of `xpo score`.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import math

import jax
import numpy as np

from xpo_jax import (
  group_numbers,
  implicit,
  methods,
  parallel,
  pretrained,
  score,
  score_forward,
  stored,
)
from xpo_jax.data import templates
from xpo_jax.data.records import Prompt
from xpo_jax.data.templates import Template
from xpo_jax.errors import checkpoint_error, usage_error
from xpo_jax.judges import pointwise
from xpo_jax.judges.candidates import Ask, Judge, Reply, Write
from xpo_jax.models import model as lm
from xpo_jax.pretrained import Pretrained
from xpo_jax.score_forward import Scorer
from xpo_jax.trio import Frozen

ROWS = 16  # replies written at once


@dataclasses.dataclass(frozen=True)
class Reader:
  """A language model that judges may ask.

  Attributes:
    model: with a tokenizer.
    template: how texts become its ids.
  """

  model: Pretrained
  template: Template

  @functools.cached_property
  def _spread(self) -> Pretrained:
    """Placed once, and only if the model is to write."""
    return self.model.spread()

  def ask(self) -> Ask:
    """Sums of log-probs of each answer with its terminator.

    A question that is too long for the model gets NaN.
    """
    count = implicit.LogpReward(scale=1.0, reference=False)
    numbers = group_numbers.scores_of(make_scorer(self.model, "sft", count))
    room = self.model.model.config.max_length

    def ask(questions: Sequence[tuple[Prompt, Sequence[str]]]):
      out = [np.full(len(answers), np.nan) for _, answers in questions]
      groups, places = [], []
      for n, (prompt, answers) in enumerate(questions):
        ended = [True] * len(answers)
        own = pointwise.token_group(
          self.template, prompt, answers, ended, f"question {n}"
        )
        if len(own.prompt) + max(map(len, own.completions)) <= room:
          groups.append(own)
          places.append(n)
      for n, found in zip(places, numbers(groups), strict=True):
        out[n] = found
      return out

    return ask

  def write(
    self,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
  ) -> Write:
    """One sampled reply a request; temperature 0 is greedy.

    A question that leaves no room for the reply gets None. A text of `stop`
    ends a reply and is no part of it. The noise of a reply follows from the
    seed, the question and its number, not from what is asked beside it.
    """
    room = self.model.model.config.max_length - max_new_tokens
    model = self._spread

    def write(requests: Sequence[tuple[Prompt, int]]) -> list[Reply | None]:
      ids = [np.asarray(self.template.prompt(p), np.int32) for p, _ in requests]
      fits = [n for n, own in enumerate(ids) if 0 < len(own) <= room]
      out: list[Reply | None] = [None] * len(ids)
      for at in range(0, len(fits), ROWS):
        part = fits[at : at + ROWS]
        filled = part + [part[-1]] * (ROWS - len(part))
        samples, texts = model.sample(
          [ids[n] for n in filled],
          max_new_tokens=max_new_tokens,
          temperature=temperature,
          top_p=top_p,
          seed=seed,
          end_id=self.template.end_id,
          stop=stop,
          rows=np.array([_row(ids[n], requests[n][1]) for n in filled]),
        )
        for n, own, ended in zip(part, texts, samples.ended, strict=False):
          out[n] = Reply(own[0], bool(ended[0]))
      return out

    return write


def _row(ids: np.ndarray, number: int) -> np.int32:
  """What the noise of a request's reply follows: its ids and number."""
  whole = number.to_bytes(8, "little") + ids.astype("<i4").tobytes()
  digest = hashlib.sha256(whole).digest()
  return np.int32(int.from_bytes(digest[:4], "little") >> 1)


def open_reader(source: str, template: str = "auto") -> Reader:
  """A run, preset, folder or .gguf file as a judge to be asked.

  Raises:
    XpoError: no model there, or it has no tokenizer.
  """
  model = pretrained.load_pretrained(source)
  return Reader(model, make_template(source, model, template))


def make_template(
  source: str, model: Pretrained, name: str = "auto"
) -> Template:
  """The template of that name; auto: the run's own, else the model's usual.

  Raises:
    XpoError: the model has no tokenizer.
  """
  if model.tokenizer is None:
    raise usage_error(
      f"{source} has no tokenizer, so it cannot judge; add tokenizer.json"
    )
  if name == "auto" and is_run(source):
    name = score.open_run(source).config.data.template
  if name == "auto":
    name = templates.usual(model.tokenizer)
  return templates.make_template(model.tokenizer, name)


def is_run(source: str) -> bool:
  """Whether it names a folder of `xpo train`."""
  return (stored.split_source(source)[0] / "model.json").is_file()


def reward_model(source: str, template: str = "auto") -> Judge:
  """A pointwise judge: the head of a reward-model run, or of its export.

  Args:
    source: the run or export.
    template: of an export; a run's own is always its own.

  Raises:
    XpoError: no reward model there.
  """
  if is_run(source):
    return _run_judge(source, wants_head=True, beta=None)
  model = pretrained.load_pretrained(source)
  if model.reward_head is None:
    raise usage_error(
      f"{source} has no reward head; name a run of rm_bt or its export"
    )
  head = implicit.HeadReward("last")
  score_ = group_numbers.scores_of(make_scorer(model, "rm_bt", head))
  return pointwise.make_judge(
    score_,
    make_template(source, model, template),
    model.model.config.max_length,
  )


def implicit_reward(
  policy: str,
  reference: str = "",
  beta: float | None = None,
  template: str = "auto",
) -> Judge:
  """A pointwise judge: beta (log pi - log ref) of a policy.

  Args:
    policy: a run is scored as its own method says; any other source needs a
      reference and beta.
    reference: source of the same architecture and tokenizer; empty: what the
      run was trained against.
    beta: scale; None: the run's own.
    template: where a reference is named; auto: the policy's own or usual one.

  Raises:
    XpoError: a reference that does not go with the policy, or none.
  """
  if is_run(policy) and not reference:
    return _run_judge(policy, wants_head=False, beta=beta)
  if not reference or beta is None:
    raise usage_error(
      f"implicit reward of {policy}: name a reference and beta, or a run"
    )
  if not (beta > 0 and math.isfinite(beta)):
    raise usage_error(f"implicit reward: beta={beta}; want a number > 0")
  own = pretrained.load_pretrained(policy)
  other = pretrained.load_pretrained(reference)
  made = make_template(policy, own, template)
  if other.model.config != own.model.config or (
    other.tokenizer is not None
    and other.tokenizer.fingerprint() != own.tokenizer.fingerprint()
  ):
    raise usage_error(
      f"reference={reference!r} has another architecture or tokenizer than "
      f"{policy}"
    )
  ratio = implicit.LogpReward(scale=beta, reference=True)
  score_ = group_numbers.scores_of(make_scorer(own, "dpo", ratio, other))
  return pointwise.make_judge(score_, made, own.model.config.max_length)


def _run_judge(source: str, wants_head: bool, beta: float | None) -> Judge:
  """What `xpo score` computes for a run, as a judge."""
  found = score.open_run(source)
  if found.method.trains_reward != wants_head:
    kind, other = "a reward model", "a policy"
    if not wants_head:
      kind, other = other, kind
    raise usage_error(
      f"judge: {source} ({found.method.id}) is {other}; want {kind}"
    )
  reward = implicit.define(found.method, found.settings, beta)
  scorer = score_forward.load(
    f"{found.folder}@{found.step}",
    found.config,
    found.method,
    reward,
    found.tokenizer,
  )
  if wants_head and "reward_head" not in scorer.params["policy"]:
    raise checkpoint_error(
      f"{source}: its checkpoint has no reward head; train it again"
    )
  template = templates.make_template(
    found.tokenizer, found.config.data.template
  )
  sizes = json.loads((found.folder / "model.json").read_text(encoding="utf-8"))
  room = sizes["transformer"]["max_length"]
  return pointwise.make_judge(group_numbers.scores_of(scorer), template, room)


def make_scorer(
  model: Pretrained,
  method: str,
  reward: implicit.Reward,
  reference: Pretrained | None = None,
) -> Scorer:
  """A scorer over whole models, the batch shared by all devices."""
  mesh = parallel.all_devices(model.model.config)
  plain = dataclasses.replace(model.model, trunk_blocks=0, lora=(0, 1.0))
  put = lambda params: parallel.put_params(mesh, params, lm.specs(plain))
  policy = {"top": put(model.params)}
  if model.reward_head is not None:
    one = parallel.replicated(mesh)
    policy["reward_head"] = jax.device_put(model.reward_head, one)
  frozen = Frozen(reference=reference and put(reference.params))
  forward = score_forward.make_score(plain, methods.get(method), reward)
  return Scorer(
    mesh, group_numbers.ROW_LENGTH, {"policy": policy}, frozen, jax.jit(forward)
  )
