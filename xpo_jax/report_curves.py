"""Training curves as one PNG a stage: small multiples over the steps."""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

Series = Mapping[str, Sequence[tuple[int, float]]]  # read_metrics' answer

EVAL = "eval/"  # prefix of a metric measured on held-out data
COLOURS = ("#1f5fa8", "#d0691a", "#2b8a57", "#8a4fa3")
INK, GRID = "#333a45", "#e3e6eb"
COLUMNS = 3
SMOOTH_FROM = 40  # points; shorter curves are drawn as they are


@dataclasses.dataclass(frozen=True)
class Panel:
  title: str
  unit: str
  names: tuple[str, ...]


PANELS = (
  Panel("Loss", "nats", ("loss",)),
  Panel("Reward margin", "chosen - rejected", ("rewards/margin",)),
  Panel("Reward accuracy", "share of pairs", ("rewards/accuracy",)),
  Panel("Rewards", "reward", ("rewards/chosen", "rewards/rejected")),
  Panel(
    "Rewards by label", "reward", ("rewards/desirable", "rewards/undesirable")
  ),
  Panel(
    "Log-probability", "nats / completion", ("logps/chosen", "logps/rejected")
  ),
  Panel("Log-probability", "nats / token", ("logps/token",)),
  Panel("KL to the reference", "nats / completion", ("kl/reference",)),
  Panel("Gradient norm", "before clipping", ("optimizer/gradient_norm",)),
  Panel("Learning rate", "per step", ("optimizer/learning_rate",)),
  Panel("Speed", "tokens / s", ("perf/tokens_per_second",)),
  Panel("Skipped steps", "in a row, not finite", ("optimizer/skipped",)),
)


def panels_of(metrics: Series) -> list[Panel]:
  """The known panels that have data, then one for every other metric.

  `eval/x` joins the panel of `x`.
  """
  present = {name.removeprefix(EVAL): None for name in metrics}
  found = []
  for panel in PANELS:
    names = tuple(name for name in panel.names if name in present)
    if names:
      found.append(Panel(panel.title, panel.unit, names))
  known = {name for panel in PANELS for name in panel.names}
  others = [name for name in present if name not in known]
  return found + [Panel(name, "", (name,)) for name in others]


def draw_curves(metrics: Series) -> bytes:
  """A PNG of all metrics of one stage, a dashed line for held-out data.

  Args:
    metrics: name -> [(step, value)]; at least one name.
  """
  panels = panels_of(metrics)
  rows = math.ceil(len(panels) / COLUMNS)
  figure = Figure(figsize=(3.7 * COLUMNS, 2.45 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
  for place, panel in zip(axes, panels):
    _draw_panel(place, panel, metrics)
  for place in axes[len(panels) :]:
    place.set_visible(False)
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=120)
  return file.getvalue()


def smooth(values: np.ndarray, width: int) -> np.ndarray:
  """Centred running mean over `width` points, shorter at the ends.

  NaN counts as missing: a window without any number gives NaN.
  """
  valid = ~np.isnan(values)
  totals = np.cumsum(np.append(0.0, np.where(valid, values, 0.0)))
  counts = np.cumsum(np.append(0, valid))
  place = np.arange(len(values))
  low = np.maximum(place - width // 2, 0)
  high = np.minimum(place + width // 2 + 1, len(values))
  count = counts[high] - counts[low]
  total = totals[high] - totals[low]
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw_panel(axes: Axes, panel: Panel, metrics: Series) -> None:
  lines = 0
  for number, name in enumerate(panel.names):
    colour = COLOURS[number % len(COLOURS)]
    label = name.rsplit("/", 1)[-1]
    if name in metrics:
      _draw_line(axes, metrics[name], colour, label)
      lines += 1
    if EVAL + name in metrics:
      steps, values = _arrays(metrics[EVAL + name])
      style = {"color": colour, "linestyle": "--", "marker": "o"}
      axes.plot(
        steps, values, markersize=3, label=label + " (held out)", **style
      )
      lines += 1
  axes.set_title(_literal(panel.title), loc="left", fontsize=10, color=INK)
  axes.set_xlabel("step", fontsize=8, color=INK)
  axes.set_ylabel(panel.unit, fontsize=8, color=INK)
  axes.tick_params(labelsize=8, colors=INK, length=0)
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  axes.grid(color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.ticklabel_format(axis="y", scilimits=(-3, 5))
  axes.yaxis.get_offset_text().set_fontsize(8)
  for side in ("top", "right", "left", "bottom"):
    axes.spines[side].set_visible(False)
  if lines > 1:
    axes.legend(fontsize=7, frameon=False)


def _draw_line(
  axes: Axes, series: Sequence[tuple[int, float]], colour: str, label: str
) -> None:
  steps, values = _arrays(series)
  marker = "o" if len(values) < 8 else None
  style = {"color": colour, "marker": marker, "markersize": 3}
  if len(values) < SMOOTH_FROM:
    axes.plot(steps, values, linewidth=1.5, label=label, **style)
    return
  axes.plot(steps, values, linewidth=0.8, alpha=0.3, **style)
  mean = smooth(values, max(5, len(values) // 20))
  axes.plot(steps, mean, linewidth=1.8, label=label, **style)


def _arrays(
  series: Sequence[tuple[int, float]],
) -> tuple[np.ndarray, np.ndarray]:
  steps, values = zip(*series)
  return np.asarray(steps), np.asarray(values, np.float64)


def _literal(text: str) -> str:
  # Matplotlib would read a pair of dollar signs as a formula.
  return text.replace("$", r"\$")
