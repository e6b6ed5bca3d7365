"""What reward costs in KL: policies and the best of n of the reference."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from xpo_jax.evals import overoptimization as over

FIT_POINTS = 3  # a curve of two parameters through two points says nothing


@dataclasses.dataclass(frozen=True)
class Point:
  """A policy: d = sqrt(KL to the reference) in sqrt(nats), mean rewards.

  `proxy` is the reward that chose the best of n; "" for a policy.
  """

  name: str
  distance: float
  rewards: dict[str, float]
  proxy: str = ""


def points(
  rewards: Sequence[str],
  kl: str,
  scores: Mapping[str, Mapping[str, np.ndarray]],
  reference: str,
  completions: int,
) -> list[Point]:
  """Every policy, then the best of 2 .. K samples of the reference.

  The KL of a policy is the mean of k1, 0 where that is negative by chance, NaN
  with a sample that has none: the policy is on no frontier and no curve. The
  best of n is chosen by each reward in turn, at KL ln n - (n - 1) / n; prompts
  with a sample that has no reward are left out.

  Args:
    rewards: names in `scores`.
    kl: name of k1 in `scores`.
    scores: policy -> measure -> [prompts x K].
    reference: a policy's name.
    completions: K.
  """
  out = [
    Point(
      name,
      float(np.sqrt(np.maximum(0.0, np.mean(own[kl])))),
      {reward: _mean(own[reward]) for reward in rewards},
    )
    for name, own in scores.items()
  ]
  table = np.stack([scores[reference][r] for r in rewards])
  table = table.reshape(len(rewards), -1, completions)
  table = table[:, np.isfinite(table).all((0, 2))]
  for proxy, chosen in zip(rewards, table) if table.size else ():
    for n in range(2, completions + 1):
      best = {
        reward: float(
          np.mean([over.best_of_n(*both, n) for both in zip(chosen, own)])
        )
        for reward, own in zip(rewards, table, strict=True)
      }
      name = f"best of {n} of {reference} by {proxy}"
      distance = float(np.sqrt(over.best_of_n_kl(n)))
      out.append(Point(name, distance, best, proxy))
  return out


def _mean(scores: np.ndarray) -> float:
  known = scores[np.isfinite(scores)]
  return float(known.mean()) if len(known) else np.nan


def table(found: Sequence[Point], reference: str) -> dict:
  """The points and Gao's curves, as the tables of a report."""
  rewards = list(found[0].rewards)
  on = {
    reward: over.frontier(
      [p.distance for p in found], [p.rewards[reward] for p in found]
    )
    for reward in rewards
  }
  rows = [
    [
      point.name,
      f"{point.distance:.3f}",
      *(f"{point.rewards[r]:.3f}{' *' if on[r][n] else ''}" for r in rewards),
    ]
    for n, point in enumerate(found)
  ]
  return {
    "title": f"Reward against sqrt(KL to {reference}); * on the frontier",
    "columns": ["policy", "sqrt(KL)", *rewards],
    "rows": rows + _fits(found, reference),
  }


def _fits(found: Sequence[Point], reference: str) -> list[list[str]]:
  """A row a kind of curve that has the points: its parameters and its peak."""
  (start,) = [p for p in found if p.name == reference]
  own_of = lambda proxy: [p for p in found if p.proxy == proxy]
  curves = [
    ("bon", own_of(name), f"best of n by {name}: d (a - b d)")
    for name in start.rewards
  ]
  curves.append(("rl", own_of(""), "policies: d (a - b ln d)"))
  rows = []
  for kind, own, words in curves:
    cells = [_fitted(kind, own, start, reward) for reward in start.rewards]
    if not any(cells):
      continue
    rows.append([words, "", *cells])
  return rows


def _fitted(kind: str, own: Sequence[Point], start: Point, reward: str) -> str:
  """The curve through the points that have both numbers; "" for too few."""
  pairs = [(p.distance, p.rewards[reward] - start.rewards[reward]) for p in own]
  pairs = [both for both in pairs if np.isfinite(both).all()]
  if len({d for d, _ in pairs if d > 0}) < FIT_POINTS:
    return ""
  curve = over.fit(*zip(*pairs, strict=True), kind)
  return f"a {curve.a:.3f}, b {curve.b:.3f}, peak at d = {curve.peak:.2f}"
