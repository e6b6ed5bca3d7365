import io
import math

from matplotlib import image as images
import numpy as np
import pytest
from rich.console import Console

from xpo_jax import recipe_table, report_axes
from xpo_jax.errors import Exit, XpoError

ROWS = [
  {"recipe": "a|b", "gold": None, "kl": 1.0, "minutes": 2},
  {"recipe": "dpo", "gold": 0.25, "kl": 3.0, "minutes": 1.25},
  {"recipe": "<i>", "gold": 0.5, "kl": math.nan, "minutes": math.inf},
]


def test_sorted_by_gold_and_the_unknown_last():
  names = lambda rows: [row["recipe"] for row in rows]
  assert names(recipe_table.ordered(ROWS)) == ["<i>", "dpo", "a|b"]
  assert names(recipe_table.ordered(ROWS, "kl")) == ["dpo", "a|b", "<i>"]
  # Nothing known: by name.
  assert names(recipe_table.ordered(ROWS, "length")) == ["<i>", "a|b", "dpo"]


def test_markdown():
  assert recipe_table.markdown(ROWS).splitlines() == [
    "| recipe | gold reward (mean score) | KL to SFT (nats / completion) "
    "| time (min) |",
    "| --- | ---: | ---: | ---: |",
    "| <i> | +0.500 |  |  |",
    "| dpo | +0.250 | 3.00 | 1.2 |",
    "| a\\|b |  | 1.00 | 2.0 |",
  ]


def test_on_the_terminal():
  console = Console(file=io.StringIO(), width=100)
  recipe_table.show(ROWS, "Films", console=console)
  lines = console.file.getvalue().splitlines()
  assert lines[0].strip() == "Films"
  order = [n for name in ("<i>", "dpo", "a|b")
           for n, line in enumerate(lines) if name in line]  # fmt: skip
  assert len(order) == 3 and order == sorted(order)


def test_a_narrow_terminal_gets_whole_columns_one_below_the_other():
  name = "slic_sample_rank"
  rows = [{"recipe": name, "gold": 4.5, "change": (0.25, -0.5, 1), "kl": 2}]
  rows[0] |= {"length": 18, "minutes": 9.25}

  def lines(width):
    console = Console(file=io.StringIO(), width=width)
    recipe_table.show(rows, console=console)
    found = console.file.getvalue().splitlines()
    assert max(map(len, found)) <= width
    return [line for line in found if name in line]

  cells = ("+4.500", "+0.25 [-0.50, +1.00]", "2.00", "18.0", "9.2")
  for width, count in ((110, 1), (60, 2), (44, 3)):
    found = lines(width)
    assert len(found) == count
    for cell in cells:
      assert sum(f" {cell} " in line for line in found) == 1


def test_bars_have_the_length_of_their_numbers():
  rows = [{"recipe": "x", "gold": 1.0}, {"recipe": "$y$", "gold": 0.25}]
  pixels = images.imread(io.BytesIO(recipe_table.draw(rows)))[..., :3]
  colour = np.array(
    [int(report_axes.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
  )
  blue = np.all(abs(pixels * 255 - colour) < 1, axis=-1).sum(axis=1)
  lengths = blue[blue > 0]
  top, bottom = lengths[0], lengths[-1]
  assert bottom / top == pytest.approx(0.25, abs=0.02)


def test_files(tmp_path):
  rows = [*ROWS, {"recipe": "sft", "start": True, "change": (-0.5, -1, 0.5)}]
  path = recipe_table.write(tmp_path / "new", rows, notes=["n < 3"])
  page = path.read_text(encoding="utf-8")
  assert "<td>&lt;i&gt;</td>" in page and "n &lt; 3" in page
  assert "data:image/png;base64,iVBOR" in page and "http" not in page.replace(
    "http-equiv", ""
  )
  text = (tmp_path / "new" / "recipes.md").read_text(encoding="utf-8")
  assert text == recipe_table.markdown(rows)
  assert (tmp_path / "new" / "recipes.png").read_bytes()[1:4] == b"PNG"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(XpoError, match="cannot write the table") as caught:
    recipe_table.write(tmp_path / "file", ROWS)
  assert caught.value.code == Exit.STORAGE


def test_the_start_comes_first_and_intervals_are_shown():
  rows = [
    {"recipe": "dpo", "gold": 2.0, "change": (1.5, 1.25, 1.75)},
    {"recipe": "one film", "gold": 1.0, "change": (0.5, math.nan, math.nan)},
    {"recipe": "sft", "gold": 0.5, "start": True},
    {"recipe": "rm", "accuracy": 0.625},
  ]
  assert recipe_table.markdown(rows).splitlines()[2:] == [
    "| sft | +0.500 |  |  |",
    "| dpo | +2.000 | +1.50 [+1.25, +1.75] |  |",
    "| one film | +1.000 | +0.50 |  |",
    "| rm |  |  | 0.625 |",
  ]


def test_names_and_numbers_are_never_cut():
  names = ("anthropic_hh_long_name", "anthropic_online_long")
  rows = [{"recipe": n, "gold": 1.0, "change": (1, 0, 2)} for n in names]
  console = Console(file=io.StringIO(), width=40)
  recipe_table.show(rows, console=console)
  assert "…" not in console.file.getvalue()
