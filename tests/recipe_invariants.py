"""What makes a recipe that recipe, read from the folder of its tiny run."""

from collections.abc import Callable
import json
import math
import pathlib
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import runs
from xpo_jax import pretrained, run_folder
from xpo_jax.data import load
from xpo_jax.judges import wording
from xpo_jax.stages import merge

Kept = Callable[[pathlib.Path, object], None]  # (folder of the run, config)


def read(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def first_loss(run: pathlib.Path) -> float:
  return runs.lines(run)[0]["loss"]


def numbers(stage: pathlib.Path) -> dict:
  return json.loads((stage / "generate.json").read_text())["numbers"]


def check_online(run: pathlib.Path, stage) -> None:
  """What every loop leaves, and what holds of its first rollout."""
  first = runs.lines(run)[0]
  assert first["sampler/gap"] < 1e-4 and math.isfinite(first["loss"])
  if "kl/k1" in first and stage.model.source == "stage:sft":
    assert abs(first["kl/k1"]) < 1e-4  # the policy still is the reference
  texts = sorted((run / "rollouts").glob("*.jsonl"))
  size = stage.rollout.prompts or stage.batch.prompts
  updates = size // stage.batch.prompts
  assert len(texts) == stage.train.steps // (stage.rollout.epochs * updates)
  rows = read(texts[0])
  assert len(rows) in [
    size * n for n in range(1, 1 + stage.rollout.max_batches)
  ]
  for row in rows:
    assert len(row["completions"]) == stage.rollout.completions
    assert len(row["scores"]) == len(row["ended"]) == stage.rollout.completions
  scores = [s for row in rows for s in row["scores"] if s is not None]
  if "rewards/judge" in first:
    assert first["rewards/judge"] == pytest.approx(np.mean(scores), abs=1e-5)


def every(*kept: Kept) -> Kept:
  def all_of_them(folder, chosen):
    for own in kept:
      own(folder, chosen)

  return all_of_them


# Data out of samples.


def scored(folder, stage) -> dict[tuple[str, str], float]:
  """(prompt, text) -> its score, of all samples of a stage."""
  return {
    (json.dumps(row["prompt"]), text): score
    for row in read(folder / stage / "samples.jsonl")
    for text, score in zip(row["texts"], row["scores"], strict=True)
    if score is not None
  }


def pairs_follow_scores(*stages: str, least: float = 0.0) -> Kept:
  """Chosen scored higher than rejected, among the samples of its prompt."""

  def kept(folder, chosen):
    for stage in stages:
      scores, gaps = scored(folder, stage), []
      for row in read(folder / stage / "data.jsonl"):
        key = json.dumps(row["prompt"])
        if (key, row["chosen"]) in scores:  # else of an earlier round
          gaps.append(scores[key, row["chosen"]] - scores[key, row["rejected"]])
      assert gaps and min(gaps) > 0 and min(gaps) >= least

  return kept


def best_is_kept(folder, chosen):
  stage = next(n for n in chosen.order if "select" in chosen.stages[n])
  kept = {json.dumps(r["prompt"]): r["completion"]
          for r in read(folder / stage / "data.jsonl")}  # fmt: skip
  for row in read(folder / stage / "samples.jsonl"):
    best = row["texts"][int(np.argmax(row["scores"]))]
    assert kept[json.dumps(row["prompt"])] == best


def soft_labels(folder, chosen):
  for row in read(folder / "pairs" / "data.jsonl"):
    p, q = row["win_rates"]
    assert 0 <= p <= 1 and p + q == pytest.approx(1)


def self_samples(folder, chosen):
  asked = chosen.stages.samples.completions
  for row in read(folder / "samples" / "data.jsonl"):
    assert 0 < len(row["samples"]) <= asked and row["rejected"].strip()


def accepted(folder, chosen):
  """At most n a prompt meet once, and they are better than all samples."""
  found, stage = numbers(folder / "pairs"), chosen.stages.pairs
  rows = read(folder / "pairs" / "data.jsonl")
  assert 0 < found["rows"] == len(rows)
  scores, met = scored(folder, "pairs"), {}
  for row in rows:
    key = json.dumps(row["prompt"])
    met.setdefault(key, []).extend([row["chosen"], row["rejected"]])
  for texts in met.values():
    assert len(texts) == len({t.strip() for t in texts}) <= stage.accept
  means = []
  for key, texts in met.items():
    all_ = [score for (own, _), score in scores.items() if own == key]
    means.append((np.mean([scores[key, t] for t in texts]), np.mean(all_)))
  taken, drawn = np.mean(means, axis=0)
  assert taken > drawn and 0 < found["acceptance"] < 1


def revised(folder, chosen):
  """What is imitated are other texts than the first answers, all of them."""
  wanted = []
  for row in read(folder / "revisions" / "chains.jsonl"):
    steps = zip(row["revisions"], row["problems"], strict=True)
    good = [text for text, problem in steps if not problem]
    assert len(row["revisions"]) == chosen.stages.revisions.revisions
    assert row["answer"] not in good
    wanted += [(row["prompt"], text.strip()) for text in good]
  made = read(folder / "revisions" / "data.jsonl")
  found = [(r["prompt"], r["completion"].strip()) for r in made]
  assert found == wanted and found
  assert all("loss/aux" in line for line in runs.lines(folder / "cai"))


# Rounds.


def starts_at_log_2(*stages: str) -> Kept:
  """The policy that starts is its own reference."""

  def kept(folder, chosen):
    for stage in stages:
      assert first_loss(folder / stage) == pytest.approx(math.log(2), abs=1e-3)

  return kept


def rounds_go_on(folder, chosen):
  """Each draws from the newest policy, and about prompts that are new."""
  seen: set[str] = set()
  for name in [n for n in chosen.order if n.startswith("samples")]:
    rows = read(folder / name / "samples.jsonl")
    prompts = {json.dumps(row["prompt"]) for row in rows}
    assert prompts and not prompts & seen
    seen |= prompts
    (policy,) = chosen.stages[name].policies
    learns = chosen.stages[name.replace("samples", "round")]
    assert learns.model.source == policy
    assert learns.data.source == f"stage:{name}/data.jsonl"
  assert (
    chosen.stages["evaluate"].policies[chosen.stages["evaluate"].final]
    == f"stage:{name.replace('samples', 'round')}"
  )


def rounds_add_up(folder, chosen):
  """Every round keeps the rows of those before it."""
  before: list = []
  for stage in [n for n in chosen.order if n.startswith("pairs")]:
    now = read(folder / stage / "data.jsonl")
    assert now[: len(before)] == before and len(now) > len(before)
    before = now
  starts_at_log_2("dpo1", "dpo2", "dpo3")(folder, chosen)


def references_move(folder, chosen):
  """Every step of sDPO starts as its own reference: a loss of log 2."""
  own = [n for n in chosen.order if n.startswith("dpo")]
  assert len(own) > 1
  starts_at_log_2(*own)(folder, chosen)
  for before, after in zip(own, own[1:], strict=False):
    assert chosen.stages[after].model.source == f"stage:{before}"


def gold_never_loses(folder, chosen):
  """DNO: the data's own text, policy -1, may only be chosen."""
  for name in [n for n in chosen.order if n.startswith("samples")]:
    own = {
      (json.dumps(row["prompt"]), row["texts"][row["policy"].index(-1)])
      for row in read(folder / name / "samples.jsonl")
    }
    rows = read(folder / name / "data.jsonl")
    sides = lambda side: {(json.dumps(r["prompt"]), r[side]) for r in rows}
    assert own & sides("chosen") and not own & sides("rejected")


def squares_of_win_rates(folder, chosen):
  """SPPO's first loss: (eta (P - 1/2))^2, as no log-ratio has moved yet."""
  for n in (1, 2):
    rates = np.array(
      [r["win_rates"] for r in read(folder / f"samples{n}" / "data.jsonl")]
    )
    assert (rates[:, 0] > rates[:, 1]).all() and 0 <= rates.min()
    eta = chosen.stages[f"round{n}"].method.eta
    wanted = np.mean((eta * (rates - 0.5)) ** 2, axis=1)
    loss = first_loss(folder / f"round{n}")
    assert wanted.min() * 0.999 <= loss <= wanted.max() * 1.001


def snapshots_are_judged(folder, chosen):
  """The second reward model learns from texts of the first round's policy."""
  samples, wanted = chosen.stages.pairs2, set()
  assert samples.policies[1:] and all("ppo1" in p for p in samples.policies[1:])
  for row in read(folder / "pairs2" / "samples.jsonl"):
    texts = zip(row["texts"], row["policy"], strict=True)
    wanted |= {(json.dumps(row["prompt"]), t) for t, own in texts if own > 0}
  groups, _ = load.load_groups(str(folder / "pairs2" / "data.jsonl"))
  found = {(json.dumps(g.prompt), t) for g in groups for t in g.completions}
  assert len(found & wanted) > len(found) / 3
  assert chosen.stages.reward2.data.source == "stage:pairs2/data.jsonl"
  assert chosen.stages.ppo2.judge.source == "stage:reward2"
  assert chosen.stages.ppo2.model.source == "stage:sft"
  one, two = (run_folder.read(folder / n).policy for n in ("reward", "reward2"))
  kernel = lambda tree: np.asarray(tree["reward_head"]["kernel"])
  assert np.abs(kernel(one) - kernel(two)).max() > 1e-4


# Loops.


def last_advantages(run: pathlib.Path, stage):
  """(reward, advantage) [B, K] of the newest rollout, all tokens' [N].

  NaN is a sample without a score: it is no part of its group.
  """
  found = load_file(sorted((run / "rollouts").glob("*.rollout"))[-1])
  assert (found["completions"] == stage.rollout.completions).all()
  tokens = found["column:advantages"]
  ends = np.cumsum(found["lengths"])
  of_samples = tokens[ends - found["lengths"]]
  rows = read(sorted((run / "rollouts").glob("*.jsonl"))[-1])
  rewards = np.array([row["scores"] for row in rows], float)  # null: NaN
  there = np.isfinite(rewards)
  shape = rewards.shape
  np.testing.assert_allclose(
    found["feedback"].reshape(shape)[there], rewards[there], atol=1e-5
  )
  return rewards, np.where(there, of_samples.reshape(shape), np.nan), tokens


def advantages_of_groups(name: str, scale: Callable) -> Kept:
  """A = (r - mean of the group) scale(r) for every sample of a prompt."""

  def kept(folder, chosen):
    stage = chosen.stages[name]
    rewards, found, _ = last_advantages(folder / name, stage)
    gap = rewards - np.nanmean(rewards, 1, keepdims=True)
    assert np.nanmax(gap) > 0 and len(rewards) == (
      stage.rollout.prompts or stage.batch.prompts
    )
    np.testing.assert_allclose(found, gap * scale(rewards), atol=1e-5)

  return kept


def by_deviation(rewards: np.ndarray) -> np.ndarray:
  return 1 / (np.nanstd(rewards, 1, ddof=1, keepdims=True) + 1e-4)


def others_are_the_baseline(name: str) -> Kept:
  """RLOO: reward - beta KL, less the others' mean: a group adds up to 0."""

  def kept(folder, chosen):
    stage = chosen.stages[name]
    rewards, found, _ = last_advantages(folder / name, stage)
    np.testing.assert_allclose(np.nansum(found, 1), 0, atol=1e-5)
    total = np.nansum(rewards, 1, keepdims=True)
    count = np.isfinite(rewards).sum(1, keepdims=True)
    without_kl = rewards - (total - rewards) / (count - 1)
    assert np.nanstd(without_kl) > 0
    np.testing.assert_allclose(found, without_kl, atol=0.1)  # a step's KL

  return kept


def advantages_are_white(folder, chosen):
  """REINFORCE++: over all tokens of a rollout."""
  stage = chosen.stages.reinforce_pp
  *_, tokens = last_advantages(folder / "reinforce_pp", stage)
  assert abs(tokens.mean()) < 1e-5
  assert tokens.std() == pytest.approx(1, abs=0.02)


def loss_starts_at_zero(stage: str) -> Kept:
  """Advantages sum to 0 (in groups, or over all tokens); ratios are 1."""

  def kept(folder, chosen):
    first = runs.lines(folder / stage)[0]
    assert abs(first["loss"]) < 1e-5 and first["optimizer/gradient_norm"] > 1e-3

  return kept


def wins_are_probabilities(stage: str) -> Kept:
  """Of two samples that differ: no verdict is exactly even."""

  def kept(folder, chosen):
    for line in runs.lines(folder / stage):
      if "rewards/judge" in line:
        assert 0 <= line["rewards/judge"] <= 1
    rows = read(folder / stage / "rollouts" / "000000.jsonl")
    scores = [s for row in rows for s in row["scores"]]
    assert all(0 <= s <= 1 for s in scores) and any(s != 0.5 for s in scores)

  return kept


def explores(folder, chosen):
  """XPO: alpha times the reference sample's log-prob is added, below 0."""
  bonus = math.log(2) - first_loss(folder / "xpo")
  alpha, most = 1e-5, chosen.stages.xpo.data.max_completion_length
  assert chosen.stages.xpo.method.alpha == alpha
  assert alpha * 0.1 < bonus < alpha * 12 * most  # of nats a token


def undecided_are_drawn_again(folder, chosen):
  """DAPO: what is used of what was drawn are prompts of different scores."""
  stage = chosen.stages.dapo
  size = stage.rollout.prompts
  lines = [x for x in runs.lines(folder / "dapo") if "prompts/used" in x]
  lines = lines[:: size // stage.batch.prompts]  # one a rollout, not an update
  texts = sorted((folder / "dapo" / "rollouts").glob("*.jsonl"))
  for path, line in zip(texts, lines, strict=True):
    decided = [len(set(row["scores"])) > 1 for row in read(path)]
    used = min(size, sum(decided)) / len(decided)
    assert line["prompts/used"] == pytest.approx(used)
    enough = sum(decided) >= size or len(decided) == 3 * size
    assert enough and sum(decided[:-size]) < size


def words_are_counted(folder, chosen):
  """The judge's scores are s / sqrt(s^2 + 15) of the lexicon's values."""
  lists = json.loads((wording.FOLDER / "lexicon.json").read_text())["words"]
  values = {w: int(n) for n, words in lists.items() for w in words.split()}
  rows = read(folder / "rloo" / "rollouts" / "000000.jsonl")
  seen = set()
  for row in rows:
    for text, score in zip(row["completions"], row["scores"], strict=True):
      words = re.findall(r"[a-z]+", text.lower())
      total = sum(values.get(word, 0) for word in words)
      assert score == pytest.approx(total / math.sqrt(total**2 + 15), abs=1e-6)
      seen.add(score)
  assert len(seen) > 1


def value_starts_as_reward(folder, chosen):
  """The value head still points where the reward head does; ptx is there."""
  assert chosen.stages.ppo.rollout.value_source == "stage:reward"
  head = run_folder.read(folder / "reward").policy["reward_head"]["kernel"]
  state = runs.bits(folder / "ppo")[1]
  (own,) = [
    leaf
    for key, leaf in state.items()
    if key.startswith("['params']['value']") and "head']['kernel']" in key
  ]
  one, two = np.ravel(head), np.ravel(own)
  assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.9
  steps = [x for x in runs.lines(folder / "ppo") if "loss" in x]
  assert all(x["loss/aux"] > 0 for x in steps)


def tokens_are_rewarded(folder, chosen):
  """PPO on the sums of a token reward model; no judge says anything."""
  assert run_folder.read(folder / "reward").settings.method.name == "rm_token"
  lines = [x for x in runs.lines(folder / "ppo") if "rewards/token_sum" in x]
  sums = [x["rewards/token_sum"] for x in lines]
  assert len(set(sums)) > 1 and all(map(math.isfinite, sums)) and any(sums)
  assert all(x["rewards/judge"] == 0 for x in lines)


# Judges.


def two_reward_models(folder, chosen):
  """Of different films; the second watches along the run and at the end."""
  stages = chosen.stages
  sources = [stages[name].data.source for name in ("reward", "gold")]
  films = [{g.prompt for g in load.load_groups(s)[0]} for s in sources]
  assert films[0] and films[1] and not films[0] & films[1]
  read_one = [x for x in runs.lines(folder / "ppo") if "eval/gold" in x]
  assert read_one and all(x["eval/gold"] != x["eval/reward"] for x in read_one)
  assert {*stages.evaluate.rewards} == {"reward", "gold"}


def ranks_held_out(stage: str, least: float) -> Kept:
  """The accuracy that is told is that of the held-out rows."""

  def kept(folder, chosen):
    run = folder / stage
    told = json.loads((run / "summary.json").read_text())["held_out"]
    rows = read(run / "held_out.jsonl")
    right = [row["rewards/margin"] > 0 for row in rows]
    assert told["rewards/accuracy"] == pytest.approx(np.mean(right))
    assert np.mean(right) >= least
    assert runs.lines(run)[-1]["eval/rewards/accuracy"] == np.mean(right)

  return kept


# PAFT.


def merged_by_hand(folder, chosen):
  """A tensor of the merge of both parts, by every operator's formula."""
  params = lambda path: pretrained.load_pretrained(path).params
  three = [params(folder / name) for name in ("sft", "sparse", "dpo")]
  leaves = [jax.tree.leaves(tree) for tree in three]
  moved = [
    n
    for n, (z, a, b) in enumerate(zip(*leaves, strict=True))
    if not np.array_equal(z, a) and not np.array_equal(z, b)
  ]
  z, a, b = (np.asarray(own[moved[0]], np.float64) for own in leaves)
  changes = [
    np.abs(np.float32(y) - np.float32(x)).ravel()
    for x, y in zip(leaves[0], leaves[2], strict=True)
    if not np.array_equal(x, y)  # what has a LoRA factor
  ]
  whole = np.sort(np.concatenate(changes))
  least = whole[-int(0.2 * whole.size)]
  one, two = a - z, b - z
  wanted = {
    "ties": z + _elected(one, np.where(np.abs(two) >= least, two, 0)),
    "linear": (a + b) / 2,
    "task_arithmetic": z + one + two,
    "slerp": np.stack([_halfway(*own) for own in zip(a, b, strict=True)]),
  }
  settings = dict(
    sources=(str(folder / "sparse"), str(folder / "dpo")),
    base=str(folder / "sft"),
  )
  for name in merge.OPTIONS:
    out = folder / "merge"
    if name != "ties":
      out = folder / f"merge-{name}"
      more = {"drop": 0.5} if name.startswith("dare") else {}
      merge.run(merge.section(operator=name, **settings, **more), out)
    found = jax.tree.leaves(params(out / "model"))[moved[0]]
    if name in wanted:
      np.testing.assert_allclose(found, wanted[name], rtol=0, atol=1e-6)
    elif name == "dare_linear":  # halves are kept, doubled, and averaged
      parts = np.stack([0 * z, one, two, one + two])
      _is_one_of(np.float64(found) - z, parts)


def _halfway(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """SLERP at 1/2 of one layer's tensors."""
  dot = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
  if dot > 0.9995:
    return (a + b) / 2
  angle = math.acos(dot)
  return math.sin(angle / 2) / math.sin(angle) * (a + b)


def _elected(one: np.ndarray, two: np.ndarray) -> np.ndarray:
  """TIES of two: the mean where the signs agree, else the larger."""
  mean = np.where((one != 0) & (two != 0), (one + two) / 2, one + two)
  return np.where(one * two < 0, np.where(abs(one) > abs(two), one, two), mean)


def _is_one_of(found: np.ndarray, parts: np.ndarray) -> None:
  far = np.abs(parts - found)
  assert far.min(0).max() < 1e-6
  shares = np.bincount(far.argmin(0).ravel(), minlength=4) / found.size
  np.testing.assert_allclose(shares, 0.25, atol=0.1)


KEPT: dict[str, Kept] = {
  "anthropic_hh": two_reward_models,
  "anthropic_online": every(
    snapshots_are_judged, pairs_follow_scores("pairs2")
  ),
  "best_of_n": best_is_kept,
  "cai_rl": every(soft_labels, revised),
  "cai_sl": revised,
  "d2o": self_samples,
  "dapo": undecided_are_drawn_again,
  "dno": every(
    rounds_go_on,
    gold_never_loses,
    pairs_follow_scores("samples1", "samples2", least=0.5),
    starts_at_log_2("round1", "round2"),
  ),
  "dr_grpo": advantages_of_groups("dr_grpo", np.ones_like),
  "grpo": every(
    loss_starts_at_zero("grpo"), advantages_of_groups("grpo", by_deviation)
  ),
  "instructgpt": value_starts_as_reward,
  "iterative_cringe": every(rounds_go_on, pairs_follow_scores("samples1")),
  "nash_ema": wins_are_probabilities("nash_ema"),
  "nash_md": wins_are_probabilities("nash_md"),
  "online_dpo": starts_at_log_2("online_dpo"),
  "online_rlhf": rounds_add_up,
  "paft": merged_by_hand,
  "preference_model": ranks_held_out("preference", 0.0),
  "reinforce_pp": every(
    loss_starts_at_zero("reinforce_pp"), advantages_are_white
  ),
  "reward_model": ranks_held_out("reward", 0.75),
  "rlaif_direct": every(words_are_counted, others_are_the_baseline("rloo")),
  "rlaif_distilled": soft_labels,
  "rloo": others_are_the_baseline("rloo"),
  "rso": accepted,
  "sdpo": references_move,
  "self_rewarding": every(
    rounds_go_on,
    pairs_follow_scores("samples1", "samples2"),
    starts_at_log_2("round1", "round2"),
  ),
  "slic_sample_rank": pairs_follow_scores("pairs"),
  "sppo": every(rounds_go_on, squares_of_win_rates),
  "token_ppo": tokens_are_rewarded,
  "xpo": every(explores, wins_are_probabilities("xpo")),
}
