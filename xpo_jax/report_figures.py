"""Figures of a run beside its curves: reward against KL, where time went."""

from collections.abc import Mapping, Sequence
import math

from matplotlib.colors import LinearSegmentedColormap
import numpy as np

from xpo_jax import report_axes as paper
from xpo_jax import report_curves
from xpo_jax.evals import overoptimization
from xpo_jax.progress import clock_text
from xpo_jax.report_curves import SECONDS, Series

# (title, reward, KL): one panel each, since scales and units differ. Of those
# with one title the first that was measured.
FRONTIERS = (
  ("Proxy reward, rollouts", "rewards/judge", "kl/k1"),
  ("Proxy reward, rollouts", "rewards/mean", "kl/reference"),
  ("Gold reward, rollouts", "rewards/gold", "kl/k1"),
  ("Gold reward, rollouts", "rewards/gold", "kl/reference"),
  ("Proxy reward, held out", "eval/reward", "eval/kl/k1"),
  ("Proxy reward, held out", "eval/reward", "eval/kl"),
  ("Gold reward, held out", "eval/gold", "eval/kl/k1"),
  ("Gold reward, held out", "eval/gold", "eval/kl"),
)
UPDATE = "update"
ORDER = ("sampling", "judging", "scoring", UPDATE)
BINS = 40
LATER = LinearSegmentedColormap.from_list(
  "later", ("#9cc3ea", "#2f74c0", "#0d2440")
)
OTHER = "other"
FIT_POINTS = 4  # away from the start; Gao's curve has two free numbers


def draw_all(metrics: Series) -> dict[str, bytes]:
  """{name of the figure: PNG} of all figures that have data, curves first."""
  found = {
    "curves": report_curves.draw_curves(metrics) if metrics else None,
    "reward-kl": draw_frontier(metrics),
    "seconds": draw_seconds(metrics),
  }
  return {name: image for name, image in found.items() if image}


def draw_frontier(metrics: Series) -> bytes | None:
  """PNG of rewards against sqrt(KL to the reference); None without both.

  Reward is bought with KL, and a gold reward that falls while the proxy still
  rises shows over-optimisation; both go about with sqrt(KL) at first (Gao et
  al. 2022, arXiv 2210.10760), whose curve is drawn where there are points
  enough.
  """
  panels = {}
  for title, reward, kl in FRONTIERS:
    points = frontier(metrics, reward, kl)
    if len(points) and title not in panels:
      per = "nats / completion"
      unit = report_curves.kl_unit(metrics) if kl == "kl/reference" else per
      panels[title] = unit, points
  if not panels:
    return None
  rows = math.ceil(len(panels) / 2)
  figure, axes = paper.new_figure(rows, 2, (9.2, 3.0 * rows))
  for place in axes[len(panels) :]:
    place.set_visible(False)
  last = max(points[-1, 0] for _, points in panels.values())
  first = min(points[0, 0] for _, points in panels.values())
  dots = None
  for place, (title, (unit, points)) in zip(axes, panels.items()):
    _, x, y = points.T
    width = report_curves.window(len(x))
    path = [report_curves.smooth(v, width) for v in (x, y)]
    place.plot(*path, color=paper.INK, linewidth=1.0, alpha=0.6)
    dots = place.scatter(
      x, y, c=points[:, 0], cmap=LATER, s=14, vmin=first, vmax=last
    )
    _draw_fit(place, points)
    paper.style(place, title, f"√KL to the reference, √({unit})", "mean score")
    paper.few_ticks(place, whole=False)
  bar = figure.colorbar(dots, ax=axes.tolist(), aspect=30, pad=0.01)
  bar.set_label("step", fontsize=8, color=paper.INK)
  bar.ax.tick_params(labelsize=8, colors=paper.INK, length=0)
  bar.outline.set_visible(False)
  return paper.png(figure)


def frontier(metrics: Series, reward: str, kl: str) -> np.ndarray:
  """[N, 3] step, sqrt(KL), reward where both were measured, in step order.

  An estimate of the KL below 0 counts as 0.
  """
  distance = dict(metrics.get(kl, ()))
  rows = [
    (step, math.sqrt(max(0.0, distance[step])), value)
    for step, value in sorted(dict(metrics.get(reward, ())).items())
    if math.isfinite(distance.get(step, math.nan)) and math.isfinite(value)
  ]
  return np.array(rows, np.float64).reshape(-1, 3)


def gao_curve(points: np.ndarray) -> overoptimization.Curve | None:
  """d (a - b ln d) through what was gained; None of fewer than FIT_POINTS.

  Args:
    points: [N, 3] of `frontier`, the first of them at the start, d = 0.
  """
  d, gain = points[:, 1], points[:, 2] - points[0, 2]
  if d[0] > 0 or len(np.unique(d[d > 0])) < FIT_POINTS:
    return None
  return overoptimization.fit(d, gain, "rl")


def _draw_fit(place, points: np.ndarray) -> None:
  curve = gao_curve(points)
  if curve is None:
    return
  d = np.linspace(0, points[:, 1].max(), 100)
  sign = "-" if curve.b > 0 else "+"
  label = f"d ({curve.a:.2f} {sign} {abs(curve.b):.2f} ln d), d = √KL"
  place.plot(
    d,
    points[0, 2] + curve.gain(d),
    color=paper.COLOURS[1],
    linewidth=1.2,
    linestyle="--",
    label=label.replace("-", "−"),
  )
  place.legend(fontsize=7, frameon=False, loc="lower right")


def parts(metrics: Series) -> tuple[list[str], np.ndarray, np.ndarray]:
  """perf/seconds_NAME by rollout: names [P], last steps [N], seconds [P, N].

  Names are those of ORDER, then the others. Every step of a rollout repeats
  what making it took and adds to "update": the last one stands for all.
  """
  named = {
    name.removeprefix(SECONDS): dict(series)
    for name, series in metrics.items()
    if name.startswith(SECONDS)
  }
  names = [*(n for n in ORDER if n in named), *sorted({*named} - {*ORDER})]
  steps = sorted({step for series in named.values() for step in series})
  table = np.array([[named[n].get(s, 0.0) for s in steps] for n in names])
  table = np.nan_to_num(table).reshape(len(names), len(steps))
  made = table[[i for i, n in enumerate(names) if n != UPDATE]]
  last = np.ones(len(steps), bool)
  if len(made):
    last[:-1] = np.any(made[:, 1:] != made[:, :-1], axis=0)
  return names, np.array(steps, int)[last], table[:, last]


def draw_seconds(metrics: Series) -> bytes | None:
  """PNG of a rollout's seconds by part, stacked over the steps; None without.

  Of five rollouts or more the first is left out: it carries the compilation.
  """
  names, steps, table = parts(metrics)
  skipped = len(steps) >= 5
  if skipped:
    steps, table = steps[1:], table[:, 1:]
  if not len(steps):
    return None
  groups = np.array_split(np.arange(len(steps)), min(BINS, len(steps)))
  bars = np.stack([table[:, g].mean(axis=1) for g in groups], axis=1)
  centres = np.array([steps[g].mean() for g in groups])
  gap = np.min(np.diff(centres)) if len(centres) > 1 else 1.0
  figure, (axes,) = paper.new_figure(1, 1, (11.1, 3.0))
  bottom, total = np.zeros(len(groups)), max(table.sum(), 1e-12)
  for number, (name, heights) in enumerate(zip(names, bars)):
    mean, share = table[number].mean(), table[number].sum() / total
    axes.bar(
      centres,
      heights,
      0.9 * gap,
      bottom=bottom,
      color=paper.COLOURS[number % len(paper.COLOURS)],
      label=paper.literal(f"{name}: {mean:.3g} s, {share:.0%}"),
    )
    bottom += heights
  note = ", without the first (compilation)" if skipped else ""
  paper.style(axes, "Time of a rollout by part" + note, "step", "s / rollout")
  paper.few_ticks(axes)
  axes.grid(axis="x", visible=False)
  axes.legend(
    fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0),
    reverse=True,
  )  # fmt: skip
  return paper.png(figure)


def split_seconds(seconds: float, metrics: Series) -> dict[str, float]:
  """A stage's seconds by part; what no part accounts for is "other".

  A resumed run's parts may be older than its clock: they are scaled to it.
  """
  names, _, table = parts(metrics)
  sums = dict(zip(names, table.sum(axis=1).tolist()))
  total = sum(sums.values())
  if not total:
    return {OTHER: seconds}
  scale = min(1.0, seconds / total)
  found = {name: value * scale for name, value in sums.items()}
  return found | {OTHER: max(0.0, seconds - total * scale)}


def draw_stages(stages: Sequence[Mapping]) -> bytes:
  """PNG: a bar a stage, its seconds stacked by part.

  Args:
    stages: {"name", "seconds", "metrics"} each, in the order run; not empty.
  """
  split = [split_seconds(s["seconds"], s["metrics"]) for s in stages]
  names = [*dict.fromkeys(n for one in split for n in one if n != OTHER), OTHER]
  size = (11.1, 0.9 + 0.32 * len(stages))
  figure, (axes,) = paper.new_figure(1, 1, size)
  rows, left = np.arange(len(stages)), np.zeros(len(stages))
  for number, name in enumerate(names):
    widths = np.array([one.get(name, 0.0) for one in split]) / 60
    alone = len(names) == 1
    colour = paper.COLOURS[number % (len(paper.COLOURS) - 1)]
    colour = paper.COLOURS[-1] if name == OTHER and not alone else colour
    axes.barh(rows, widths, 0.7, left, color=colour, label=paper.literal(name))
    left += widths
  for row, (end, stage) in enumerate(zip(left, stages)):
    text = " " + clock_text(stage["seconds"])
    axes.text(end, row, text, va="center", fontsize=8, color=paper.INK)
  labels = [paper.literal(stage["name"]) for stage in stages]
  axes.set_yticks(rows, labels)
  axes.invert_yaxis()
  axes.set_xlim(0.0, max(1.08 * left.max(), 1e-3))
  paper.style(axes, "Time of the stages", "min", "")
  axes.grid(axis="y", visible=False)
  if len(names) > 1:
    axes.legend(fontsize=8, frameon=False, loc="upper left",
                bbox_to_anchor=(1.0, 1.0))  # fmt: skip
  return paper.png(figure)
