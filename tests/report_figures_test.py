"""Figures beside the curves: their numbers, and what the paper shows."""

import io
import math

from matplotlib import image as images
from matplotlib.colors import to_rgb
import numpy as np
import pytest

from xpo_jax import report_axes, report_figures

# Two rollouts of two steps, then one of one step. A step repeats what making
# its rollout took and adds to "update".
METRICS = {
  "perf/seconds_update": [(1, 0.5), (2, 1.0), (3, 0.25), (4, 1.0), (5, 1.0)],
  "perf/seconds_sampling": [(1, 3.0), (2, 3.0), (3, 6.0), (4, 6.0), (5, 3.0)],
  "perf/seconds_waiting": [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.5)],
  "loss": [(1, 1.0)],
}


def paint(png: bytes, colour: str, width: slice) -> int:
  """Pixels of exactly one colour in some columns (shares of the width)."""
  pixels = images.imread(io.BytesIO(png))[..., :3]
  columns = pixels.shape[1]
  part = slice(*(int(x * columns) for x in (width.start, width.stop)))
  return int(np.sum(np.all(abs(pixels[:, part] - to_rgb(colour)) < 2e-3, -1)))


def test_parts_count_every_rollout_once():
  names, steps, table = report_figures.parts(METRICS)
  assert names == ["sampling", "update", "waiting"]
  assert steps.tolist() == [2, 4, 5]
  assert table.tolist() == [[3, 6, 3], [1, 1, 1], [0.5, 0.5, 0.5]]


def test_steps_that_only_update_are_all_counted():
  _, steps, table = report_figures.parts(
    {"perf/seconds_update": [(1, 2.0), (2, 2.0)]}
  )
  assert steps.tolist() == [1, 2] and table.tolist() == [[2, 2]]


def test_a_stage_is_split_by_its_parts():
  found = report_figures.split_seconds(20.0, METRICS)
  assert found == {"sampling": 12, "update": 3, "waiting": 1.5, "other": 3.5}
  # After a resume the parts (16.5 s) are older than the clock (8.25 s).
  found = report_figures.split_seconds(8.25, METRICS)
  assert found == {"sampling": 6, "update": 1.5, "waiting": 0.75, "other": 0}
  assert report_figures.split_seconds(5.0, {}) == {"other": 5.0}


def test_a_stacked_bar_has_the_area_of_its_seconds():
  series = {
    "perf/seconds_sampling": [(s, 3.0 + s % 2) for s in range(1, 9)],
    "perf/seconds_update": [(s, 1.0) for s in range(1, 9)],
  }
  png = report_figures.draw_seconds(series)
  first, second = (
    paint(png, colour, slice(0.0, 0.8)) for colour in report_axes.COLOURS[:2]
  )
  # Steps 2 .. 8 sample 3, 4, 3, 4, 3, 4, 3 = 24 s against 7 s of updates.
  assert first / second == pytest.approx(24 / 7, rel=0.03)


def test_bars_of_stages_have_the_area_of_their_seconds():
  stages = [
    {"name": "sft $x$", "seconds": 30.0, "metrics": {}},
    {"name": "online", "seconds": 33.0, "metrics": METRICS},
  ]
  png = report_figures.draw_stages(stages)
  sampling, update, waiting = (
    paint(png, colour, slice(0.0, 0.85)) for colour in report_axes.COLOURS[:3]
  )
  other = paint(png, report_axes.COLOURS[-1], slice(0.0, 0.85))
  assert sampling / update == pytest.approx(12 / 3, rel=0.05)
  assert sampling / waiting == pytest.approx(12 / 1.5, rel=0.05)
  # 30 s of sft, 33 - 16.5 s of the other.
  assert other / sampling == pytest.approx(46.5 / 12, rel=0.05)


def test_frontier_pairs_what_was_measured_together():
  metrics = {
    "rewards/judge": [(3, 0.9), (1, 0.1), (2, math.nan), (4, 1.0)],
    "kl/k1": [(1, -0.2), (2, 1.0), (3, 4.0)],
  }
  points = report_figures.frontier(metrics, "rewards/judge", "kl/k1")
  assert points.tolist() == [[1, 0, 0.1], [3, 2, 0.9]]
  assert report_figures.frontier({}, "rewards/judge", "kl/k1").shape == (0, 3)


def test_gao_s_curve_needs_a_start_and_four_points():
  d = np.array([0, 0.5, 1, 2, 3])
  gain = d * (1.5 - 0.4 * np.log(np.maximum(d, 1e-9)))
  points = np.stack([np.arange(5), d, 2 + gain], -1)
  found = report_figures.gao_curve(points)
  assert (found.a, found.b) == pytest.approx((1.5, 0.4))
  assert report_figures.gao_curve(points[1:]) is None  # no start
  assert report_figures.gao_curve(points[:4]) is None
  series = lambda column: [*zip(points[:, 0], column)]
  metrics = {"eval/gold": series(2 + gain), "eval/kl/k1": series(d**2)}
  # Dashes of the second colour, which points and path have not.
  orange = lambda png: paint(png, report_axes.COLOURS[1], slice(0.0, 0.8))
  assert orange(report_figures.draw_frontier(metrics)) > 0
  few = {name: own[:4] for name, own in metrics.items()}
  assert orange(report_figures.draw_frontier(few)) == 0


def test_figures_are_drawn_where_their_series_are():
  kl = {"kl/k1": [(1, 0.0), (2, 1.0)], "eval/kl/k1": [(2, 1.2)]}
  reward = {"rewards/judge": [(1, 0.0), (2, 1.0)], "eval/gold": [(2, 0.3)]}
  names = lambda metrics: [*report_figures.draw_all(metrics)]
  assert names({}) == []
  assert names(kl) == names(reward) == ["curves"]
  assert names(kl | reward) == ["curves", "reward-kl"]
  assert names(METRICS) == ["curves", "seconds"]
  for png in report_figures.draw_all(kl | reward | METRICS).values():
    assert png.startswith(b"\x89PNG")
