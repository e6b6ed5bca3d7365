"""The only list of methods. A file in this folder registers itself."""

from collections.abc import Callable, Mapping
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import pkgutil
import typing
from typing import Any, Literal

from xpo_jax import ops
from xpo_jax.errors import usage_error
from xpo_jax.types import Feedback, LossInputs, LossOutput

# What the trio can compute or carry; see types.LossInputs. "noise" asks for a
# key; the two of FROM_DATA are no fields.
NEEDS = frozenset(
  (
    "reference_logps sampler_logps old_values advantages token_feedback values "
    "scores token_scores token_kl:forward token_kl:reverse token_kl:js entropy "
    "log_collision contrast_logps noise mismatched_completion comparison"
  ).split()
)
# Another prompt's completion at index 1 (KTO's z0); a prompt that shows both
# texts of a pair, with the two possible answers as completions.
FROM_DATA = frozenset({"mismatched_completion", "comparison"})


@dataclasses.dataclass(frozen=True)
class Survey:
  """The 13 axes of arXiv 2407.16216 (methods.md, section 17)."""

  reward_model: Literal["explicit", "implicit", "likelihood", "direct"]
  reward_form: Literal["pointwise", "preference", "none"]
  reward_level: Literal["response", "token"]
  negative: Literal["both", "negative", "positive", "scalar"]
  feedback: Literal["preference", "binary", "scalar", "ranks", "demonstration"]
  arrangement: Literal["pair", "list", "one"]
  labeler: Literal["human", "ai", "both"]
  reference: Literal["yes", "no", "optional"]
  length_control: bool
  divergence: str
  policy: Literal["on", "off", "mixed"]
  iteration: Literal["offline", "iterative"]
  sft: Literal["separate", "merged", "parallel"]


@dataclasses.dataclass(frozen=True)
class Limit:
  """A range check on one keyword, with the words for the error."""

  holds: Callable[[Any], bool]
  text: str


POSITIVE = Limit(lambda v: v > 0, "must be > 0")
NONNEGATIVE = Limit(lambda v: v >= 0, "must be >= 0")
SMOOTHING = Limit(lambda v: 0 <= v < 0.5, "must be in [0, 0.5)")
UNIT = Limit(lambda v: 0 <= v <= 1, "must be in [0, 1]")


@dataclasses.dataclass(frozen=True)
class Method:
  """A registered loss and everything the rest of the house asks about it."""

  id: str
  loss: Callable[..., LossOutput]
  paper: str
  completions: tuple[int, int | None]  # inclusive range of K
  feedback: frozenset[Feedback]
  survey: Survey
  needs_of: Callable[[Any], frozenset[str]]
  couples: Callable[[Any], bool]
  limits: Mapping[str, Limit]
  prepare: Callable[..., LossInputs] | None
  init_state: Callable[..., Any] | None
  prepare_needs_of: Callable[[Any], frozenset[str]]

  @functools.cached_property
  def keywords(self) -> dict[str, Any]:
    """Keyword -> default, read from the loss's signature."""
    return {
      name: p.default
      for name, p in inspect.signature(self.loss).parameters.items()
      if p.kind is inspect.Parameter.KEYWORD_ONLY
    }

  @property
  def trains_reward(self) -> bool:
    """True for reward models: they need no vocabulary head."""
    return bool({"scores", "token_scores"} & self.needs({}))

  def settings(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overridden by `keywords`, checked.

    Raises:
      XpoError: unknown keyword, wrong type, or a value out of range.
    """
    for name in keywords:
      if name not in self.keywords:
        near = difflib.get_close_matches(name, self.keywords, 1)
        hint = (
          f"did you mean {near[0]!r}?"
          if near
          else (f"{self.id} takes {', '.join(self.keywords) or 'no keywords'}")
        )
        raise usage_error(
          f"method.{name}: {self.id} has no such keyword; {hint}"
        )
    settings = {**self.keywords, **keywords}
    hints = typing.get_type_hints(self.loss)
    for name, value in settings.items():
      _check_type(self.id, name, value, hints[name])
      limit = self.limits.get(name)
      if limit is not None and value is not None and not limit.holds(value):
        raise usage_error(f"method.{name}={value} of {self.id} {limit.text}")
    return settings

  def needs(self, keywords: Mapping[str, Any]) -> frozenset[str]:
    """What LossInputs must hold under these keywords."""
    h = type("Settings", (), {**self.keywords, **keywords})
    return frozenset(self.needs_of(h))

  def prepare_needs(self, keywords: Mapping[str, Any]) -> frozenset[str]:
    """What `prepare` reads besides `needs`, once a rollout."""
    h = type("Settings", (), {**self.keywords, **keywords})
    return frozenset(self.prepare_needs_of(h))

  def couples_batch(self, keywords: Mapping[str, Any]) -> bool:
    """True if a prompt's loss depends on other prompts."""
    return self.couples(type("Settings", (), {**self.keywords, **keywords}))

  def check(self, x: LossInputs, keywords: Mapping[str, Any]) -> None:
    """One-line errors for a wrong K, feedback kind or missing input."""
    low, high = self.completions
    k = x.completion_mask.shape[1]
    if k < low or (high is not None and k > high):
      want = f"{low}" if low == high else f"{low} to {high or 'any'}"
      raise usage_error(
        f"{self.id} takes K = {want} completions a prompt, the batch has {k}; "
        "choose data of that shape or another method"
      )
    if x.feedback_kind not in self.feedback:
      kinds = ", ".join(sorted(f.name for f in self.feedback))
      raise usage_error(
        f"{self.id} learns from {kinds} feedback, the batch carries "
        f"{x.feedback_kind.name}; convert the data or change the method"
      )
    fields = {need.split(":")[0] for need in self.needs(keywords)}
    if not self.trains_reward:
      fields.add("policy_logps")
    if self.init_state is not None and self.init_state(keywords) is not None:
      fields.add("state")
    for field in sorted(fields - FROM_DATA):
      if getattr(x, field) is None:
        raise usage_error(
          f"{self.id} needs {field} and the batch has none; "
          f"fill LossInputs.{field} (the trio does so from the config)"
        )
    if "reference_logps" not in fields and x.reference_logps is not None:
      raise usage_error(
        f"{self.id} uses no reference_logps with these keywords, but they are "
        "given; remove the reference"
      )


_METHODS: dict[str, Method] = {}


def register(
  *,
  paper: str,
  completions: int | tuple[int, int | None],
  feedback: set[Feedback],
  survey: Survey,
  needs: frozenset[str] | set[str] | Callable[[Any], Any] = frozenset(),
  couples_batch: bool | Callable[[Any], bool] = False,
  limits: Mapping[str, Limit] | None = None,
  prepare: Callable[..., LossInputs] | None = None,
  init_state: Callable[..., Any] | None = None,
  prepare_needs: Callable[[Any], Any] = lambda h: frozenset(),
) -> Callable[[Callable[..., LossOutput]], Callable[..., LossOutput]]:
  """Registers a loss under its function's name.

  Args:
    paper: URL.
    completions: K, or an inclusive range (low, high or None).
    feedback: kinds that the loss understands.
    survey: the 13 axes.
    needs: names out of NEEDS, or a function of the settings (attributes).
    couples_batch: a prompt's loss depends on the other prompts of the batch.
    limits: keyword -> Limit.
    prepare: for policy gradients, run once a rollout on frozen numbers; takes
      the LossInputs and, by keyword, those of the loss's keywords that it uses.
      Call it as `Method.prepare(x, **settings)`.
    init_state: checked settings (a dict) -> the method's running statistics, or
      None when these settings keep none.
    prepare_needs: settings -> names out of NEEDS that only `prepare` reads.
  """
  span = (
    (completions, completions)
    if isinstance(completions, int)
    else (completions)
  )

  def add(loss):
    name = loss.__name__
    if name in _METHODS:
      raise ValueError(f"method {name!r} is registered twice")
    method = Method(
      id=name,
      loss=_checked(name, loss),
      paper=paper,
      completions=span,
      feedback=frozenset(feedback),
      survey=survey,
      needs_of=needs if callable(needs) else lambda h: needs,
      couples=couples_batch
      if callable(couples_batch)
      else (lambda h: couples_batch),
      limits=dict(limits or {}),
      prepare=_prepared(loss, prepare) if prepare else None,
      init_state=init_state,
      prepare_needs_of=prepare_needs,
    )
    unknown = set(method.needs({})) - NEEDS
    if unknown:
      raise ValueError(f"{name}: unknown needs {sorted(unknown)}")
    _METHODS[name] = method
    return loss

  return add


def get(name: str) -> Method:
  """The method of that id.

  Raises:
    XpoError: no such method; the nearest name is suggested.
  """
  _load()
  if name not in _METHODS:
    near = difflib.get_close_matches(str(name), _METHODS, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise usage_error(
      f"method.name={name!r} is no method; {hint}known: {', '.join(names())}"
    )
  return _METHODS[name]


def names() -> list[str]:
  """All registered ids, sorted."""
  _load()
  return sorted(_METHODS)


@functools.cache
def _load() -> None:
  package = importlib.import_module("xpo_jax.methods")
  for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"xpo_jax.methods.{module.name}")


def _checked(name, loss):
  @functools.wraps(loss)
  def checked(x: LossInputs, **keywords) -> LossOutput:
    method = _METHODS[name]
    settings = method.settings(keywords)
    method.check(x, settings)
    return loss(ops.settled(x), **settings)

  return checked


def _prepared(loss, prepare):
  """Hands `prepare` the keywords that it takes out of all settings."""
  taken = list(inspect.signature(prepare).parameters)[1:]
  unknown = set(taken) - set(inspect.signature(loss).parameters)
  if unknown:
    raise ValueError(f"{prepare.__name__}: unknown keywords {sorted(unknown)}")

  @functools.wraps(prepare)
  def prepared(x: LossInputs, **settings) -> LossInputs:
    for need in _METHODS[loss.__name__].prepare_needs(settings):
      if getattr(x, need.split(":")[0]) is None:
        raise usage_error(
          f"{loss.__name__}: prepare needs {need} and the rollout has none"
        )
    return prepare(ops.settled(x), **{k: settings[k] for k in taken})

  return prepared


def _check_type(method: str, name: str, value: Any, hint: Any) -> None:
  where = f"method.{name}={value!r} of {method}"
  options = typing.get_args(hint)
  if typing.get_origin(hint) is Literal:
    if value not in options:
      raise usage_error(
        f"{where}: choose one of {', '.join(map(str, options))}"
      )
    return
  if value is None and type(None) in options:
    return
  if bool in (hint, *options):
    if not isinstance(value, bool):
      raise usage_error(f"{where} must be True or False")
    return
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise usage_error(f"{where} must be a number")
  if int in (hint, *options) and not float(value).is_integer():
    raise usage_error(f"{where} must be an integer")
  if not math.isfinite(value) and value != math.inf:
    raise usage_error(f"{where} must be a number, not {value}")
