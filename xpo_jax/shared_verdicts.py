"""Judges in their journals, on one process or on several.

A judge whose model lies on the mesh of all devices is asked by all processes
at once. Any other is asked by process 0 alone: nobody is paid or given the time
to answer twice, and all hear the same.
"""

from pathlib import Path

import jax

from xpo_jax import hosts, judge_config, progress
from xpo_jax.judges import journal
from xpo_jax.judges.candidates import Candidates, Judge, Judgement, PairJudge
from xpo_jax.judges.tally import Tally

# Those of `judge_options.USES` that go through `judging.make_scorer`,
# `score_forward.load` or `spread.place`, whose mesh has the devices of all
# processes.
ON_MESH = (
  "reward_model",
  "implicit",
  "preference_model",
  "pairwise",
  "rating",
  "principles",
  "additive",
  "verdict_rating",
  "verdict_pair",
)

MOST = 0.5  # of the pairs; more, and a judge follows the place, not the text


def journaled(
  name: str, judge: Judge | PairJudge, path: Path, size: int = 16
) -> Judge | PairJudge:
  """`journal.journaled`, its file written and read by process 0 alone.

  Args:
    name: of the judge's section.
    judge: of `judge_config`; what it answers must follow from the candidates.
    path: in a folder that process 0 sees.
    size: prompts of a slice.

  Raises:
    XpoError: as of `journal.journaled`, on all processes.
  """
  return journal.journaled(judge, path, size, hosts.first, name in ON_MESH)


def kept(
  built: judge_config.Built, judge: Judge | PairJudge, path: Path | None
) -> Judge | PairJudge:
  """The judge as a run asks it: journaled, and guarded around the journal.

  Args:
    built: whose name and guard count.
    judge: made of `built`: its own, its scores or its wins.
    path: see `journaled`; None keeps nothing.
  """
  if path is not None:
    judge = journaled(built.name, judge, path)
  return judge_config.guarded(built, judge)


def ask(
  built: judge_config.Built,
  inner: Judge | PairJudge,
  what: Candidates,
  path: Path,
) -> Judgement:
  """The verdicts, shown as they come and kept a few prompts at a time.

  Warns of a pair judge that mostly follows the order of the texts.

  Args:
    built: see `kept`.
    inner: see `kept`.
    what: to judge.
    path: see `journaled`.

  Raises:
    XpoError: (70) too many replies are no verdict; see `tally`.
  """
  tally = Tally()
  with progress.track(len(what.prompts), f"judge, {built.name}") as task:

    def watched(part: Candidates) -> Judgement:
      nonlocal tally
      found, tally = judge_config.judged(built, inner, part, tally)
      task.advance(n=len(part.prompts))
      return found

    found = kept(built, watched, path)(what)
    earlier = len(what.prompts) - task.done
    if earlier:
      task.advance(n=earlier)
  Tally().add(found).check(built.max_invalid, built.name)
  bias = found.metrics.get("judge/position_bias", 0.0)
  if bias > MOST and jax.process_index() == 0:
    print(
      f"warning: {built.name}: in {bias:.1%} of the pairs the place decides "
      "(judge/position_bias), not the texts; name a larger judge, or one that "
      "scores texts alone"
    )
  return found
