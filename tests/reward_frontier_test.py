"""Points, best of n and curves from tables of numbers."""

import math

import numpy as np
import pytest

from xpo_jax import reward_frontier

KL = "KL to sft, k1"
# Two prompts x three samples.
SFT = {
  KL: np.zeros(6),
  "proxy": np.array([1.0, 2, 3, 6, 5, 4]),
  "gold": np.array([0.0, 1, 5, 2, 2, 8]),
}
DPO = {KL: np.full(6, 4.0), "proxy": np.full(6, 7.0), "gold": np.full(6, 2.5)}


def points(**policies):
  return reward_frontier.points(["proxy", "gold"], KL, policies, "sft", 3)


def test_points_by_hand():
  found = {p.name: p for p in points(sft=SFT, dpo=DPO)}
  assert found["dpo"].distance == 2
  assert found["sft"].rewards == {"proxy": 3.5, "gold": 3}
  two = found["best of 2 of sft by proxy"]
  # Pairs of 1 2 3 -> bests 2 3 3; of 6 5 4 -> 6 6 5.
  assert two.rewards["proxy"] == pytest.approx((8 / 3 + 17 / 3) / 2)
  assert two.rewards["gold"] == pytest.approx(((1 + 5 + 5) + (2 + 2 + 2)) / 6)
  assert two.distance == pytest.approx(math.sqrt(math.log(2) - 0.5))
  three = found["best of 3 of sft by gold"]
  assert three.rewards == {"proxy": pytest.approx(3.5), "gold": 6.5}


def test_a_negative_estimate_of_kl_is_no_distance():
  (_, low, *_) = points(sft=SFT, dpo=DPO | {KL: np.full(6, -0.1)})
  assert low.distance == 0


def test_prompts_without_a_reward_are_left_out():
  gold = SFT["gold"].copy()
  gold[0] = np.nan
  found = {p.name: p for p in points(sft=SFT | {"gold": gold})}
  assert found["best of 3 of sft by proxy"].rewards["gold"] == 2
  none = SFT | {"gold": np.full(6, np.nan)}
  assert [p.name for p in points(sft=none)] == ["sft"]


def test_table_marks_the_frontier_and_fits_what_it_can():
  gain = lambda d: np.full(6, d * (2 - 1 * math.log(d)))
  more = {
    f"step {d}": DPO | {KL: np.full(6, d * d), "gold": 3 + gain(d)}
    for d in (1.0, 2.0, 3.0)
  }
  table = reward_frontier.table(points(sft=SFT, dpo=DPO, **more), "sft")
  rows = {row[0]: row[1:] for row in table["rows"]}
  assert rows["sft"] == ["0.000", "3.500 *", "3.000 *"]
  assert not rows["dpo"][2].endswith("*")
  assert len(table["columns"]) == 4 and "sqrt(KL to sft)" in table["title"]
  # Two points of best of n: no curve. Policies: gold 2.5 at d = 2 too.
  assert not any(name.startswith("best of n") for name in rows)
  plain = points(sft=SFT, **more)
  rows = {r[0]: r for r in reward_frontier.table(plain, "sft")["rows"]}
  # peak exp(2 / 1 - 1)
  assert rows["policies: d (a - b ln d)"][3] == (
    "a 2.000, b 1.000, peak at d = 2.72"
  )


def test_a_policy_without_a_kl_or_reward_is_on_no_curve():
  """Not at distance 0, where it would be the best of all."""
  lost, mute = np.full(6, 9.0), np.full(6, np.nan)
  lost[2] = np.nan
  gain = lambda d: np.full(6, 3 + d * (2 - 1 * math.log(d)))
  more = {
    f"step {d}": DPO | {KL: np.full(6, d * d), "gold": gain(d)}
    for d in (1.0, 2.0, 3.0)
  }
  best = DPO | {KL: lost, "gold": np.full(6, 99.0)}
  silent = DPO | {"gold": mute}
  found = points(sft=SFT, best=best, silent=silent, **more)
  assert math.isnan(found[1].distance)
  table = reward_frontier.table(found, "sft")
  rows = {row[0]: row[1:] for row in table["rows"]}
  assert not any("*" in cell for cell in rows["best"])
  assert rows["silent"][2] == "nan"
  curve = rows["policies: d (a - b ln d)"]
  assert curve[2] == "a 2.000, b 1.000, peak at d = 2.72"
