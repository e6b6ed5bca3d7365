"""What every rollout of a run uses, opened once."""

from collections.abc import Callable, Mapping
import contextlib

import jax

from xpo_jax import judge_config, placement_table, stopping, token_rewards
from xpo_jax.online import columns, draw, rollout, trunk


def make(job, alive: Callable[[], None], models: Mapping) -> rollout.Tools:
  """Opens the judges, and prints what all models of the run hold.

  Args:
    job: of the run.
    alive: told after every slice of a judge.
    models: name -> arrays of those that are there already.

  Raises:
    XpoError: one cannot be opened, or its tokens are not the policy's.
  """
  online, config = job.online, job.config
  held, source = dict(models), config.rollout.token_rewards
  tokens = judge = gold = None
  if source:
    with _counted(held, "token rewards"):
      tokens = token_rewards.open_run(source, job.tokenizer)
  if config.judge.name:
    with _counted(held, f"judge ({config.judge.name})"):
      judge = judge_config.build(config.judge, "judge", config.seed)
  if config.gold.name:
    with _counted(held, f"gold ({config.gold.name})"):
      gold = judge_config.build(config.gold, "gold", config.seed)
  if jax.process_index() == 0:
    placement_table.show(held)
  return rollout.Tools(
    job=job,
    drawer=draw.make_drawer(
      job,
      job.train.groups + (online.held.groups if online.held else []),
      online.end_id,
    ),
    score=columns.make_score(job.objective),
    trunk=trunk.make(job.objective.model),
    prepare=columns.make_prepare(job.objective, config.rollout.importance_cap),
    judge=heard(judge, alive),
    gold=heard(gold, alive),
    token_rewards=tokens,
    alive=alive,
  )


@contextlib.contextmanager
def _counted(held: dict, name: str):
  """The arrays that the block has put on the devices go to `held`."""
  before = jax.live_arrays()  # themselves: an id may be given again
  yield
  known = {id(a) for a in before}
  held[name] = [a for a in jax.live_arrays() if id(a) not in known]


def heard(built, alive: Callable[[], None] | None = None, told=None):
  """The judge with a sign of life after every slice, and `told` before each."""
  if built is None:
    return None

  def hear(ask):
    def answer(candidates):
      if told:
        told()
      found = ask(candidates)
      if alive:
        alive()
      return found

    return ask and answer

  return built._replace(judge=hear(built.judge), pairs=hear(built.pairs))


def interruptible(tools: rollout.Tools, asked: Callable[[], int]):
  """The tools, whose rollouts end early if `asked` has a signal to end with.

  Between slices of a judge only where one process is: with several not all of
  them ask it, but all have to stop at the same place.
  """

  def told():
    number = asked()
    if number:
      raise stopping.Told(number)

  if jax.process_count() == 1:
    tools = tools._replace(judge=heard(tools.judge, told=told))
  return tools._replace(told=told)
