"""The rollout section: its sizes, and what excludes what."""

from typing import NamedTuple

from xpo_jax import judge_options
from xpo_jax.errors import usage_error
from xpo_jax.fields import FIELDS
from xpo_jax.methods.registry import Method
from xpo_jax.rollout import agreement
from xpo_jax.rollout.steps import Sampling
from xpo_jax.types import Feedback

# What a prompt's samples become -> the feedback that the loss then gets.
KINDS = {
  "keep_all": Feedback.SCORE,
  "best_worst": Feedback.ORDER,
  "against": Feedback.PROBABILITY,
  "against_pair": Feedback.PROBABILITY,
}
_RATIO = {"sampler_logps", "old_values"}
# Gradients that hold on samples of this very policy only, unless clipped.
_FRESH = ("rloo", "nash_md", "nash_ema")
# Of scores; P of beating an opponent is taken as it is.
_SHAPING = (
  "missing_eos_penalty",
  "length_penalty",
  "overlong_buffer",
  "clip_scores",
)


class Sizes(NamedTuple):
  """Of one rollout."""

  prompts: int
  minibatches: int  # optimizer steps an epoch
  updates: int  # optimizer steps
  completions: int  # K of the batch that the loss sees


def is_online(config) -> bool:
  return config.rollout.completions > 0


def sizes(config) -> Sizes:
  """Raises XpoError if prompts are no multiple of a step's."""
  own = config.rollout
  prompts, step = own.prompts or config.batch.prompts, config.batch.prompts
  if prompts % step:
    raise usage_error(
      f"rollout.prompts={prompts} is no multiple of batch.prompts={step}, the "
      f"prompts of a step; use {max(1, prompts // step) * step}"
    )
  pair = own.select in ("best_worst", "against_pair")
  return Sizes(
    prompts=prompts,
    minibatches=prompts // step,
    updates=own.epochs * (prompts // step),
    completions=2 if pair else own.completions,
  )


def check(config, method: Method, settings: dict) -> None:
  """What is wrong with an online config before anything is loaded.

  Raises:
    XpoError: (64) a combination that has no meaning.
  """
  own, needs = config.rollout, method.needs(settings)
  if not is_online(config):
    _check_fixed(config, needs)
    return
  steps, updates = config.train.steps, sizes(config).updates
  if steps % updates:
    raise usage_error(
      f"train.steps={steps} ends inside of a rollout of {updates} steps; use "
      f"{max(1, steps // updates) * updates}"
    )
  if method.trains_reward or "comparison" in needs:
    raise usage_error(
      f"method.name={method.id!r} trains a reward model, which does not "
      "sample; set rollout.completions=0"
    )
  _check_select(config, method)
  if not config.judge.name and not own.token_rewards:
    raise usage_error(
      "judge.name is empty: samples need a score; name a judge, for example "
      "--config.judge.name=reward_model --config.judge.source=RUN"
    )
  if own.temperature == 0 or needs & _RATIO:
    agreement.check_ratio(Sampling(temperature=own.temperature))
  longest = config.data.max_prompt_length
  longest += sizes(config).completions * config.data.max_completion_length
  if longest > config.batch.row_length:
    raise usage_error(
      f"data.max_prompt_length={config.data.max_prompt_length} + "
      f"{sizes(config).completions} completions x "
      f"data.max_completion_length={config.data.max_completion_length} = "
      f"{longest} do not fit batch.row_length={config.batch.row_length}; set "
      f"batch.row_length={longest} or shorten them"
    )
  _check_options(config, method, needs)
  _check_pair_judge(config)
  _check_scores(config)
  _check_steps(config, method, settings)
  _check_held_out(config, method, needs)


def has_held_out(config) -> bool:
  return bool(config.data.eval_source) or config.data.source == "films"


def _differs(config, path: str) -> bool:
  """Whether the key is set to something else than its default."""
  section, leaf = path.split(".")
  return config[section][leaf] != FIELDS[path].default


def _check_fixed(config, needs) -> None:
  """On fixed data nothing is drawn, so nothing is said about draws."""
  drawn = [p for p in FIELDS if p.startswith("rollout.")]
  drawn.remove("rollout.show_every")
  if not needs & (_RATIO | {"advantages"}):  # refused by its name, with a mend
    drawn += ["judge.name", "gold.name"]
  for path in drawn:
    if _differs(config, path):
      section, leaf = path.split(".")
      raise usage_error(
        f"{path}={config[section][leaf]!r} is of samples, but rollout."
        "completions=0 learns from fixed data; set rollout.completions or "
        f"leave {path} out"
      )


def _check_options(config, method: Method, needs) -> None:
  """Options that this method, or another option, leaves without a use."""
  own = config.rollout
  if own.ahead and own.max_batches > 1:
    raise usage_error(
      f"rollout.ahead={own.ahead} and rollout.max_batches={own.max_batches}: "
      "what is drawn again depends on scores; set one of them to its default"
    )
  if own.importance_cap and "advantages" not in needs:
    raise usage_error(
      f"rollout.importance_cap={own.importance_cap}: {method.id} has no "
      "advantages that could be weighted; set it to 0"
    )
  if own.token_rewards and "token_feedback" not in needs:
    raise usage_error(
      f"rollout.token_rewards={own.token_rewards!r}: {method.id} has no "
      "reward of single tokens; use ppo"
    )
  if own.value_source and "values" not in needs:
    raise usage_error(
      f"rollout.value_source={own.value_source!r}: {method.id} has no value "
      "model; leave it empty"
    )
  for name, opponent in (("mix", "mixture"), ("ema_decay", "ema")):
    if _differs(config, f"rollout.{name}") and own.opponent != opponent:
      raise usage_error(
        f"rollout.{name}={own[name]} is of rollout.opponent={opponent!r}, this "
        f"is {own.opponent!r}; leave it out"
      )


def is_relative(config) -> bool:
  """Whether scores are win rates among a prompt's samples: 1/2 in the mean."""
  own = config.rollout
  against = own.select.startswith("against")
  return config.judge.name in judge_options.PAIRS and not against


def meets_reference(config, needs) -> bool:
  """Whether evaluations hold such samples against the reference's instead."""
  return is_relative(config) and "reference_logps" in needs


def _check_pair_judge(config) -> None:
  """A judge of two texts has no score for one that stands alone."""
  mend = "name a judge that scores one, as rating"
  if config.gold.name in judge_options.PAIRS:
    raise usage_error(
      f"gold.name={config.gold.name!r} compares two texts, and gold looks at "
      f"the policy's alone; {mend}"
    )
  if is_relative(config) and config.rollout.completions == 1:
    raise usage_error(
      f"judge.name={config.judge.name!r} compares two texts, and rollout."
      "completions=1 gives it one; set rollout.completions to 2 or more, or "
      f"{mend}"
    )


def _check_scores(config) -> None:
  """What is done to the scores of a prompt, or decided by them."""
  own, new = config.rollout, config.data.max_completion_length
  if own.max_batches > 1 and (own.completions < 2 or not config.judge.name):
    raise usage_error(
      f"rollout.max_batches={own.max_batches} leaves out prompts whose scores "
      f"are all equal: with rollout.completions={own.completions} and "
      f"judge.name={config.judge.name!r} all are; set it to 1"
    )
  for name in _SHAPING:
    if own[name] and own.select.startswith("against"):
      raise usage_error(
        f"rollout.{name}={own[name]} changes scores, but rollout.select="
        f"{own.select!r} takes probabilities; set it to 0"
      )
  if own.overlong_buffer > new:
    raise usage_error(
      f"rollout.overlong_buffer={own.overlong_buffer} exceeds "
      f"data.max_completion_length={new}, so that every sample is too long; "
      f"use at most {new}"
    )


def _check_steps(config, method: Method, settings: dict) -> None:
  """A sample may be learned from again only if the loss has a ratio."""
  updates = sizes(config).updates
  ratio = settings.get("clip_low") or settings.get("clip_high")
  if updates > 1 and method.id in _FRESH and not ratio:
    clip = " or set method.clip_low and method.clip_high"
    raise usage_error(
      f"{updates} steps on one rollout: only the first is on samples of the "
      f"policy that it changes, and {method.id} has no importance ratio here; "
      f"set rollout.prompts=0 and rollout.epochs=1"
      f"{clip if 'clip_low' in settings else ''}"
    )


def _check_held_out(config, method: Method, needs) -> None:
  """What is looked at on held-out prompts needs some, and the number."""
  own = config.rollout
  watches = own.kl_budget or own.patience
  if watches and not config.train.eval_every:
    raise usage_error(
      "rollout.kl_budget and rollout.patience are looked at when the run is "
      "evaluated; set train.eval_every"
    )
  if (watches or config.gold.name) and not has_held_out(config):
    raise usage_error(
      "gold.name, rollout.kl_budget and rollout.patience look at held-out "
      "prompts, and there are none; set data.eval_source"
    )
  if own.kl_budget and "reference_logps" not in needs:
    raise usage_error(
      f"rollout.kl_budget={own.kl_budget}: {method.id} uses no reference with "
      "these keywords, so its KL is not known; leave it out"
    )
  if own.patience and not config.gold.name:
    raise usage_error(
      f"rollout.patience={own.patience} watches the gold judge; set gold.name"
    )
  if (
    own.patience and is_relative(config) and not meets_reference(config, needs)
  ):
    raise usage_error(
      f"rollout.patience={own.patience} watches the reward, and judge.name="
      f"{config.judge.name!r} gives only win rates among a prompt's samples, "
      "as this run has no reference to compare with; name a judge that scores "
      "one text, as rating"
    )


def _check_select(config, method: Method) -> None:
  own = config.rollout
  kind = KINDS[own.select]
  if kind not in method.feedback:
    fits = [k for k, v in KINDS.items() if v in method.feedback]
    mend = f"use {' or '.join(fits)}" if fits else "use fixed data"
    raise usage_error(
      f"rollout.select={own.select!r} gives {kind.name} feedback, which "
      f"{method.id} does not take; {mend}"
    )
  low, high = method.completions
  count = sizes(config).completions
  if count < low or (high is not None and count > high):
    raise usage_error(
      f"rollout.completions={own.completions} with rollout.select="
      f"{own.select!r}: {method.id} takes {low} to {high or 'any'} completions "
      f"a prompt, this makes {count}"
    )
  _check_opponent(config, method)
  if own.select == "best_worst" and own.completions < 2:
    raise usage_error(
      f"rollout.completions={own.completions}: best_worst needs 2 or more"
    )


def _check_opponent(config, method: Method) -> None:
  """Whose samples are in the batch, and what their probabilities are of."""
  own = config.rollout
  against = own.select.startswith("against")
  if against != (own.opponent != "none"):
    raise usage_error(
      f"rollout.select={own.select!r} and rollout.opponent={own.opponent!r} "
      "do not go together; an opponent is for against and against_pair"
    )
  if own.select == "against_pair" and own.completions != 1:
    raise usage_error(
      f"rollout.completions={own.completions}: against_pair holds one sample "
      "against one; set it to 1"
    )
  pairs = method.completions == (2, 2)
  if own.select == "against" and pairs:
    raise usage_error(
      f"rollout.select='against': each sample has a chance of its own against "
      f"the opponent, {method.id} compares the two samples of a prompt; use "
      "against_pair"
    )
  if own.select == "against_pair" and not pairs:
    raise usage_error(
      "rollout.select='against_pair' puts the opponent's sample into the "
      f"batch, and {method.id} would take it for the policy's; use against"
    )
  if method.id == "xpo" and (own.select, own.opponent) != (
    "against_pair", "reference",
  ):  # fmt: skip
    raise usage_error(
      f"rollout.select={own.select!r} and rollout.opponent={own.opponent!r}: "
      "xpo moves away from the second sample, which must be the reference's; "
      "use against_pair and reference"
    )


def wants_reference(config) -> bool:
  """Whether samples of the reference are drawn."""
  return config.rollout.opponent in ("reference", "mixture")
