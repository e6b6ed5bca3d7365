"""The rollout section: its sizes, and what excludes what."""

from typing import NamedTuple

from xpo_jax.errors import usage_error
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
    return
  steps, updates = config.train.steps, sizes(config).updates
  if steps % updates:
    raise usage_error(
      f"train.steps={steps} ends inside of a rollout of {updates} steps; use "
      f"{max(1, steps // updates) * updates}"
    )
  _check_select(config, method)
  if method.trains_reward:
    raise usage_error(
      f"method.name={method.id!r} trains a reward model, which does not "
      "sample; set rollout.completions=0"
    )
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
  if (own.kl_budget or own.patience) and not config.train.eval_every:
    raise usage_error(
      "rollout.kl_budget and rollout.patience are looked at when the run is "
      "evaluated; set train.eval_every"
    )
  if own.patience and not config.gold.name:
    raise usage_error(
      f"rollout.patience={own.patience} watches the gold judge; set gold.name"
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
  if own.select == "best_worst" and own.completions < 2:
    raise usage_error(
      f"rollout.completions={own.completions}: best_worst needs 2 or more"
    )
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


def wants_reference(config) -> bool:
  """Whether samples of the reference are drawn."""
  return config.rollout.opponent in ("reference", "mixture")
