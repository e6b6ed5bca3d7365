"""Stages that recipes are made of, on the film ratings that come with xpo.

Every recipe begins with the same stages, so that `xpo run --reuse` takes them
from an earlier run: `sft`, and `gold`, a reward model of films that nothing
else learns from, which only watches. Any of it is changed by a flag, for
example --config.stages.sft.data.source=mine.jsonl.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from xpo_jax import config, evaluation, judge_options
from xpo_jax.report import FILM_NOTES
from xpo_jax.stages import generate as generate_stage

VARIANTS = ("smollm", "tiny")
START = "smollm2-135m-instruct"
SYNTHETIC = (
  "The tiny model starts from random weights: read its numbers as a check of "
  "the machinery, not as a result."
)
_NEW = 40  # tokens of a sampled review


def start(variant: str) -> str:
  """The model before any stage."""
  return "tiny" if variant == "tiny" else START


def pick(variant: str, tiny, other):
  """What the tiny model takes, or any other."""
  return tiny if variant == "tiny" else other


def train(variant: str, method: str, source: str, **keywords: Any):
  """A training stage on film pairs.

  Args:
    variant: of the recipe.
    method: its loss.
    source: "stage:NAME", or where a model is.
    **keywords: of the loss.
  """
  c = config.base(variant)
  c.method = config.method(method, **keywords)
  c.model.source = source
  c.data.source = "films"
  c.data.eval_limit = 192
  c.data.limit = pick(variant, 1000, 720)
  c.train.save_every = 25
  c.optimizer.schedule = "linear"
  c.optimizer.warmup_steps = 5
  c.optimizer.learning_rate = pick(variant, 5e-4, 2e-4)
  return c


def sft(variant: str):
  """Imitates review sentences."""
  c = train(variant, "sft", start(variant))
  c.data.format = "texts"
  c.data.limit = pick(variant, 3000, 800)
  c.optimizer.learning_rate = pick(variant, 3e-3, 3e-4)
  return c


def reward(variant: str, method: str = "rm_bt", **keywords: Any):
  """A reward model of the training films."""
  c = train(variant, method, "stage:sft", **keywords)
  c.optimizer.learning_rate = pick(variant, 1e-3, 1e-4)
  return c


def gold(variant: str):
  """A reward model of other films; no policy is trained on it."""
  c = reward(variant)
  c.data.split = "gold"
  c.data.limit = pick(variant, 600, 480)
  return c


def preference_model(variant: str):
  """P(the first of two texts is better), which need not be transitive."""
  c = train(variant, "rm_pairwise", "stage:sft")
  c.data.limit = pick(variant, 512, 720)
  c.data.max_prompt_length = 224
  c.data.max_completion_length = 8
  c.optimizer.learning_rate = pick(variant, 1e-3, 1e-4)
  return c


def online(variant: str, method: str, judge: dict | None = None, **keywords):
  """A training stage on samples of the policy.

  Args:
    variant: of the recipe.
    method: its loss.
    judge: keys of the judge section; the reward model of stage `reward` if
      None, no judge if empty.
    **keywords: of the loss.
  """
  c = train(variant, method, "stage:sft", **keywords)
  c.data.limit = 0
  c.data.eval_limit = pick(variant, 16, 32)
  c.data.max_prompt_length = 24
  c.data.max_completion_length = pick(variant, 24, _NEW)
  c.rollout.completions = 4
  c.batch.prompts = pick(variant, 8, 16)
  c.batch.row_length = 512
  c.train.epochs, c.train.steps = 0.0, pick(variant, 24, 16)
  c.train.eval_every = pick(variant, 12, 8)
  c.train.save_every = 8
  c.optimizer.warmup_steps = 2
  c.optimizer.schedule = "constant"
  c.optimizer.learning_rate = pick(variant, 5e-4, 1e-4)
  if judge is None:
    judge = {"name": "reward_model", "source": "stage:reward"}
  c.judge.update(judge)
  c.gold.name, c.gold.source = "reward_model", "stage:gold"
  return c


def ppo(variant: str, reward: str = "stage:reward", **keywords):
  """PPO on one sample a prompt; the value model starts from the reward model.

  Args:
    variant: of the recipe.
    reward: the reward model's stage.
    **keywords: of the loss.
  """
  judge = {"name": "reward_model", "source": reward}
  c = online(variant, "ppo", judge, **keywords)
  c.rollout.completions = 1
  c.batch.prompts = pick(variant, 8, 32)
  c.train.steps, c.train.eval_every = pick(variant, (24, 12), (36, 12))
  c.rollout.prompts, c.rollout.epochs = 2 * c.batch.prompts, 2
  c.rollout.value_source = reward
  return c


def sampled(variant: str, method: str, completions: int = 4, **keywords):
  """A run of a single command: samples scored by a small list of words.

  The judge needs no model; name another one with --config.judge.name.

  Args:
    variant: of the config.
    method: its loss.
    completions: samples a prompt.
    **keywords: of the loss.
  """
  c = config.base(variant)
  c.method = config.method(method, **keywords)
  c.data.source = "films"
  c.data.eval_limit = 32
  if variant in ("tiny", "smollm"):
    c.data.max_prompt_length = 24
    c.data.max_completion_length = _NEW
  room = c.data.max_prompt_length
  room += max(2, completions) * c.data.max_completion_length
  c.batch.row_length = max(c.batch.row_length, room)
  c.rollout.completions = completions
  c.judge.name = "sentiment"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 40, "tiny": 100}.get(variant, 1000)
  c.train.eval_every = 20
  return c


def generate(variant: str, select: str, policies=("stage:sft",), **keywords):
  """A stage that makes data of samples, judged by stage `reward`."""
  named = dict(name="reward_model", source="stage:reward")
  judge = keywords.pop("judge", named)
  return generate_stage.section(
    **{
      "select": select,
      "policies": tuple(policies),
      "data": dict(
        source="films", split="train", format="auto", on_bad_row="error"
      ),
      "prompts": pick(variant, 32, 64),
      "completions": 8,
      "max_new_tokens": pick(variant, 24, _NEW),
      "template": "plain",
      "judge": judge_options.section(**judge),
      **keywords,
    }
  )


def on_rows(stage, source: str, steps: int = 0):
  """The stage on what a `generate` stage has left in `source`."""
  stage.data.source = source
  stage.data.limit = 0
  if steps:
    stage.train.epochs, stage.train.steps = 0.0, steps
  return stage


def and_films(reward):
  """The reward model's stage on pairs of films too, half of every step."""
  reward.aux.method, reward.aux.source = "rm_bt", "films"
  reward.aux.limit = 1000
  reward.data.eval_source = "films"
  return reward


def against(variant: str, method: str, opponent: str, judge, **keywords):
  """`online`, one sample a prompt, held against one of the opponent's."""
  c = online(variant, method, judge, **keywords)
  c.rollout.select, c.rollout.opponent = "against", opponent
  c.rollout.completions = 1
  c.batch.prompts *= 2
  return c


def iterate(variant: str, method: str, policy: str, **keywords):
  """The training stage of a round: a few steps from `policy`, against it."""
  c = train(variant, method, policy, **keywords)
  c.train.epochs, c.train.steps = 0.0, 8
  c.optimizer.warmup_steps = 2
  return c


def rounds(
  number: int,
  draw: Callable[[str], Any],
  learn: Callable[[str], Any],
  policy: str = "stage:sft",
):
  """Stages samples1, round1, samples2, ..: a policy's samples make the next.

  Every round has prompts of its own; its policy and its reference start from
  the policy that drew the samples. A flag that changes `prompts` of one round
  moves the `first` of no other: set both, or rounds overlap.

  Args:
    number: of rounds.
    draw: policy -> a `generate` stage.
    learn: policy -> a training stage that starts from it.
    policy: the first.

  Returns:
    the stages, and the policies for `evaluate`.
  """
  stages, policies = {}, {}
  for n in range(1, number + 1):
    samples = stages[f"samples{n}"] = draw(policy)
    samples.first = (n - 1) * samples.prompts
    rows = f"stage:samples{n}/data.jsonl"
    stages[f"round{n}"] = on_rows(learn(policy), rows)
    policy = policies[f"round {n}"] = f"stage:round{n}"
  return stages, policies


def evaluate(variant: str, policies: dict[str, str], reference: str = "sft"):
  """Compares the last of `policies` with the SFT policy on held-out films."""
  every = {"sft": "stage:sft", **policies}
  return dict(
    policies=every,
    columns=tuple(every),
    baseline="sft",
    final=list(every)[-1],
    reference=reference,
    rewards={"gold": "stage:gold"},
    data=dict(
      source="films", split="validation", format="auto", on_bad_row="error"
    ),
    prompts=pick(variant, 24, 0),
    prompts_at_once=pick(variant, 24, 64),
    template="plain",
    completions=2,
    max_new_tokens=pick(variant, 24, _NEW),
    temperature=1.0,
    top_p=1.0,
    seed=0,
    shared_blocks=pick(variant, 0, 24),
  )


def _watch_reward(stages: dict[str, Any]) -> None:
  """The evaluation asks the last reward model too, for gold to be compared."""
  pointwise = lambda k: stages[k].method.name in ("rm_bt", "rm_kwise")
  made = [k for k in stages if k.startswith("reward") and pointwise(k)]
  if made and "evaluate" in stages:
    stages["evaluate"]["rewards"].setdefault("reward", f"stage:{made[-1]}")


def _whole_evaluation(stages: dict[str, Any]) -> None:
  """Every key of the evaluation is there, so that a flag can set it."""
  if "evaluate" in stages:
    whole = evaluation.DEFAULTS | stages["evaluate"]
    for key in ("judge", "harmless"):
      whole[key] = judge_options.section(**whole[key])
    stages["evaluate"] = whole


def recipe(title: str, variant: str, stages: dict[str, Any], notes=()):
  """The whole config: sft, gold, then `stages` in their order."""
  every = {"sft": sft(variant), "gold": gold(variant), **stages}
  _watch_reward(every)
  _whole_evaluation(every)
  tiny = variant == "tiny"
  return ConfigDict(
    dict(
      title=f"xpo_jax recipe: {title}",
      model="tiny, from scratch" if tiny else "SmolLM2-135M-Instruct (4-bit)",
      data="film review sentences rated by 15+ people, split by film",
      notes=(*notes, FILM_NOTES[0], SYNTHETIC if tiny else FILM_NOTES[2]),
      seed=0,
      lora=dict(rank=0, alpha=0.0),
      order=tuple(every),
      stages=every,
    )
  )
