"""Training curves as one PNG a stage: small multiples over the steps."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from matplotlib.axes import Axes
import numpy as np

from xpo_jax import report_axes as paper

Series = Mapping[str, Sequence[tuple[int, float]]]  # read_metrics' answer

EVAL = "eval/"  # prefix of a metric measured on held-out data
SECONDS = "perf/seconds_"  # parts of a step, drawn by report_figures
# Held-out prompts sampled and judged, measured as the rollouts are.
SAME = {
  "eval/reward": "eval/rewards/judge",
  "eval/gold": "eval/rewards/gold",
  "eval/kl": "eval/kl/k1",
  "eval/tokens": "eval/completions/tokens",
  "eval/ended": "eval/completions/ended",
}
COLUMNS = 3
SMOOTH_FROM = 40  # points; shorter curves are drawn as they are


@dataclasses.dataclass(frozen=True)
class Panel:
  title: str
  unit: str
  names: tuple[str, ...]


PANELS = (
  Panel("Loss", "nats", ("loss",)),
  Panel("Reward (proxy)", "mean score", ("rewards/judge",)),
  Panel("Reward of tokens", "sum / completion", ("rewards/token_sum",)),
  Panel("Reward (gold)", "mean score", ("rewards/gold",)),
  Panel(
    "Reward as trained on", "mean score", ("rewards/shaped", "rewards/mean")
  ),
  Panel("Spread of rewards", "standard deviation", ("rewards/judge_std",)),
  Panel("Win rate", "share of comparisons", ("rewards/win_rate",)),
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
  Panel("KL to the reference", "nats / completion", ("kl/k1", "kl/k3")),
  Panel("KL to the reference", "nats / completion", ("kl/reference",)),
  Panel("KL to the sampler", "nats / token", ("kl/sampler",)),
  Panel("Length", "tokens / completion", ("completions/tokens",)),
  Panel("Ended with EOS", "share of completions", ("completions/ended",)),
  Panel("Entropy", "nats / token", ("policy/entropy",)),
  Panel(
    "Clipped ratios",
    "share of tokens",
    ("policy/clip_fraction", "policy/clip_high_fraction"),
  ),
  Panel("Ratio to the sampler", "mean over tokens", ("policy/ratio",)),
  Panel("Gradient norm", "before clipping", ("optimizer/gradient_norm",)),
  Panel("Learning rate", "per step", ("optimizer/learning_rate",)),
  Panel("Speed", "tokens / s", ("perf/tokens_per_second",)),
  Panel("Skipped steps", "in a row, not finite", ("optimizer/skipped",)),
)
# Title and unit of a metric that no panel names, by a word in its last part.
FAMILIES = {
  "length": ("Length", "tokens / completion"),
  "sequence_entropy": ("Entropy", "nats / completion"),
  "entropy": ("Entropy", "nats / token"),
  "clip": ("Clipped", "share"),
  "ended": ("Ended with EOS", "share of completions"),
  "eos": ("Ended with EOS", "share of completions"),
  "distinct": ("Distinct", "share of n-grams"),
  "invalid": ("Unscorable", "share of answers"),
  "scored": ("Scored", "share of completions"),
  "flagged": ("Saying nothing", "share of completions"),
  "equal": ("All scores equal", "share of prompts"),
  "used": ("Used", "share of prompts"),
  "explained": ("Explained", "share of variance"),
  "gap": ("Gap", "nats"),
  "staleness": ("Off-policy", "optimizer steps"),
  "seconds": ("Time", "s"),
}
EXACT = ("optimizer/learning_rate", "optimizer/skipped")  # never smoothed


def panels_of(metrics: Series) -> list[Panel]:
  """The known panels that have data, and one for every other metric.

  `eval/x` joins the panel of `x`. Lengths share panels; seconds of a step's
  parts have a figure of their own, and a counter that stays at 0 has none.
  """
  names = [SAME.get(name, name) for name in metrics]
  present = dict.fromkeys(name.removeprefix(EVAL) for name in names)
  if not any(value for _, value in metrics.get("optimizer/skipped", ())):
    present.pop("optimizer/skipped", None)
  found = []
  for panel in PANELS:
    names = tuple(name for name in panel.names if name in present)
    if names:
      unit = kl_unit(metrics) if "kl/reference" in names else panel.unit
      found.append(Panel(panel.title, unit, names))
  known = {name for panel in PANELS for name in panel.names}
  others = [n for n in present if n not in known and not n.startswith(SECONDS)]
  found += _others(others)
  # What was learnt first, how the machine did it last.
  machine = lambda panel: panel.names[0].startswith(("optimizer/", "perf/"))
  return sorted(found, key=machine)


def kl_unit(metrics: Series) -> str:
  """Policy gradients report the KL per token, others per completion."""
  return "nats / token" if "kl/sampler" in metrics else "nats / completion"


def _others(names: Sequence[str]) -> list[Panel]:
  together: dict[tuple[str, str], list[str]] = {}
  alone = []
  for name in names:
    family = _family(name)
    # Lengths are all tokens; shares of different things are told apart.
    if family and family[0] == "Length":
      together.setdefault(family, []).append(name)
    elif family:
      alone.append(Panel(f"{family[0]} ({name})", family[1], (name,)))
    else:
      alone.append(Panel(name, "", (name,)))
  size = len(paper.COLOURS)
  return [
    Panel(title, unit, tuple(group[i : i + size]))
    for (title, unit), group in together.items()
    for i in range(0, len(group), size)
  ] + alone


def _family(name: str) -> tuple[str, str] | None:
  for word, family in FAMILIES.items():
    if word in name.rsplit("/", 1)[-1] or name.startswith(word + "/"):
      return family
  return None


def draw_curves(metrics: Series) -> bytes:
  """A PNG of all metrics of one stage, a dashed line for held-out data.

  Args:
    metrics: name -> [(step, value)]; at least one name.
  """
  panels = panels_of(metrics)
  metrics = {SAME.get(name, name): v for name, v in metrics.items()}
  rows = max(1, math.ceil(len(panels) / COLUMNS))
  figure, axes = paper.new_figure(rows, COLUMNS, (3.7 * COLUMNS, 2.45 * rows))
  for place, panel in zip(axes, panels):
    _draw_panel(place, panel, metrics)
  for place in axes[len(panels) :]:
    place.set_visible(False)
  return paper.png(figure)


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


def window(points: int) -> int:
  """How many points `smooth` should take of a curve of `points`; 1 = none."""
  return 1 if points < SMOOTH_FROM else max(5, points // 20)


def _draw_panel(axes: Axes, panel: Panel, metrics: Series) -> None:
  lines = 0
  for number, name in enumerate(panel.names):
    colour = paper.COLOURS[number % len(paper.COLOURS)]
    alone = len(panel.names) == 1
    label = "training" if alone else paper.literal(name.rsplit("/", 1)[-1])
    held_out = "held out" if alone else f"{label} (held out)"
    if name in metrics:
      _draw_line(axes, metrics[name], colour, label, name in EXACT)
      lines += 1
    if EVAL + name in metrics:
      steps, values = arrays(metrics[EVAL + name])
      style = {"color": colour, "linestyle": "--", "marker": "o"}
      axes.plot(steps, values, markersize=4, label=held_out, **style)
      lines += 1
  paper.style(axes, panel.title, "step", panel.unit)
  paper.few_ticks(axes)
  if lines > 1:
    axes.legend(fontsize=7, frameon=False)


def _draw_line(
  axes: Axes,
  series: Sequence[tuple[int, float]],
  colour: str,
  label: str,
  exact: bool,
) -> None:
  steps, values = arrays(series)
  marker = "o" if len(values) < 8 else None
  style = {"color": colour, "marker": marker, "markersize": 3}
  width = window(len(values))
  if width == 1 or exact:
    axes.plot(steps, values, linewidth=1.5, label=label, **style)
    return
  axes.plot(steps, values, linewidth=0.8, alpha=0.3, **style)
  mean = smooth(values, width)
  axes.plot(steps, mean, linewidth=1.8, label=label, **style)


def arrays(
  series: Sequence[tuple[int, float]],
) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values) of a series."""
  steps, values = zip(*series)
  return np.asarray(steps), np.asarray(values, np.float64)
