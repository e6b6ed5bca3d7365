"""What all figures of the reports share: paper, ink, colours, PNG bytes.

Paper is white and ink dark in every figure, so that a PNG reads alike alone, in
a light page and, as a white card, in a dark one.
"""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

# Told apart by every kind of colour vision in this order.
COLOURS = ("#1f5fa8", "#d0691a", "#2b8a57", "#8a4fa3", "#c2405f", "#6b7685")
INK, GRID = "#333a45", "#e3e6eb"
DPI = 120


def new_figure(
  rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, np.ndarray]:
  """An empty figure of `size` (width, height in inches) and its flat axes."""
  figure = Figure(figsize=size, layout="constrained", dpi=DPI)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  return figure, axes


def style(axes: Axes, title: str, across: str, up: str) -> None:
  """Titles one plot, labels its axes (with units), draws a quiet grid."""
  axes.set_title(literal(title), loc="left", fontsize=10, color=INK)
  axes.set_xlabel(literal(across), fontsize=8, color=INK)
  axes.set_ylabel(literal(up), fontsize=8, color=INK)
  axes.tick_params(labelsize=8, colors=INK, length=0)
  axes.grid(color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  for side in ("top", "right", "left", "bottom"):
    axes.spines[side].set_visible(False)


def few_ticks(axes: Axes, whole: bool = True) -> None:
  """Round ticks on linear axes; `whole`: x counts something."""
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
  axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  axes.ticklabel_format(axis="y", scilimits=(-3, 5))
  axes.yaxis.get_offset_text().set_fontsize(8)


def png(figure: Figure) -> bytes:
  """The figure's bytes."""
  file = io.BytesIO()
  # savefig would draw everything twice.
  FigureCanvasAgg(figure).print_png(file)
  return file.getvalue()


def literal(text: str) -> str:
  """Matplotlib would read a pair of dollar signs as a formula."""
  return text.replace("$", r"\$")
