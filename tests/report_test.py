import html.parser
import io
import math
import re

import jinja2
import numpy as np
import pytest
from rich.console import Console

from xpo_jax import report, report_curves
from xpo_jax.errors import Exit, XpoError

ATTACK = "<script>alert(1)</script> & <img src=http://evil.test/x.png>"


def make_run():
  curve = [(step, 0.7 - step / 100) for step in range(1, 50)]
  return {
    "title": "Run " + ATTACK,
    "model": "tiny",
    "data": "own rows",
    "method": "dpo",
    "seed": 7,
    "notes": ["labels are ratings " + ATTACK],
    "tables": [
      {"title": "T", "columns": ["measure", "SFT"], "rows": [["a", ATTACK]]}
    ],
    "samples": [
      {
        "prompt": "p " + ATTACK,
        "texts": {"SFT": "", "DPO": ATTACK},
        "scores": {"DPO": {"VADER": 0.5, "judge": math.nan}},
      }
    ],
    "stages": [
      {
        "name": "SFT",
        "config": {"lr": 1e-5, "note": ATTACK},
        "metrics": {"loss": curve, "eval/loss": [(10, 0.6)]},
        "seconds": 30.0,
      },
      {"name": "Eval", "config": {}, "metrics": {}, "seconds": 90.0},
    ],
  }


class Page(html.parser.HTMLParser):
  """Tags, attributes and the visible text."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.attributes, self.text = [], [], ""
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attrs]

  def handle_data(self, data):
    self.text += " " + data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return report.write_report(folder, make_run())


@pytest.fixture(scope="module")
def page(written):
  return Page(written.read_text(encoding="utf-8"))


def test_texts_are_shown_and_never_run(page):
  assert "script" not in page.tags
  assert page.tags.count("img") == 2  # the curves of SFT, the stages' times
  # title twice (head and h1), note, table, prompt, sample, config
  assert page.text.count("<script>alert(1)</script>") == 7


def test_the_page_asks_for_nothing(page):
  loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
  targets = [value for _, name, value in page.attributes if name in loading]
  assert len(targets) == 2
  assert all(x.startswith("data:image/png;base64,iVBOR") for x in targets)
  assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
  source = report.PAGE + report.STYLE + report.REPORT_STYLE
  assert not re.search(r"https?:|//|@import|url\(", source)
  policy = dict((t, v) for t, n, v in page.attributes if n == "content")["meta"]
  assert policy.startswith("default-src 'none'")


def test_header_time_and_scores(page):
  words = " ".join(page.text.split())
  for expected in ("Model tiny", "Seed 7", "VADER +0.50", "judge n/a"):
    assert expected in words
  # 30 s of 120 s, 90 s of 120 s.
  assert "SFT 0:30 25%" in words and "Eval 1:30 75%" in words
  assert "all 2:00" in words
  assert "(empty)" in words


def test_figures_are_files_too(written):
  names = sorted(path.name for path in (written.parent / "plots").iterdir())
  assert names == ["sft-curves.png", "stages.png"]


def test_a_single_stage_needs_no_prefix(tmp_path):
  run = make_run()
  report.write_report(tmp_path, run | {"stages": run["stages"][:1]})
  assert [p.name for p in (tmp_path / "plots").iterdir()] == ["curves.png"]


def test_replies_of_a_sample_each_have_their_score():
  sample = {
    "prompt": "p",
    "range": (2.0, 6.0),
    "texts": {"before": ["a", "b"], "after": ["c", "d"]},
    "scores": {
      "before": [{"score": 2.0}, {"score": 4.0}],
      "after": [{"score": 6.0}, {"score": math.nan}],
    },
  }
  run = make_run() | {"samples": [sample], "stages": []}
  source = report.render(run, {})
  words = " ".join(Page(source).text.split())
  assert (
    "before a score +2.00 b score +4.00 after c score +6.00 d score n/a"
  ) in words
  # The lowest is orange, the middle and NaN grey, the highest green.
  colours = re.findall(r"background:(#\w+)\">score", source)
  assert colours == ["#f6b278", "#eef0f3", "#86cfa5", "#eef0f3"]


def test_a_folded_table_opens_on_a_click():
  table = {"title": "Long", "columns": ["a"], "rows": [], "folded": True}
  run = make_run() | {"tables": [table], "samples": [], "stages": []}
  page = report.render(run, {})
  assert "<details><summary>Long</summary>" in page
  assert "<caption>" not in page


def test_a_missing_key_is_named():
  run = make_run()
  del run["notes"]
  with pytest.raises(jinja2.UndefinedError, match="notes"):
    report.render(run, {})


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(XpoError, match="cannot write the report") as caught:
    report.write_report(tmp_path / "file", make_run() | {"stages": []})
  assert caught.value.code == Exit.STORAGE


@pytest.mark.parametrize(
  "score, colour",
  [(0.0, "#eef0f3"), (1.0, "#86cfa5"), (9.0, "#86cfa5"), (-1.0, "#f6b278"),
   (math.nan, "#eef0f3"), (0.5, "#bae0cc")],
)  # fmt: skip
def test_score_colours(score, colour):
  # 0.5: (238+134)/2 = 186 = ba, (240+207)/2 = 223.5 -> e0, (243+165)/2 = 204.
  assert report.score_colour(score) == colour


def test_samples_stand_side_by_side():
  console = Console(file=io.StringIO(), width=90)
  sample = {
    "prompt": "Film: [b]X[/b]",
    "texts": {"start": "dull\x1b[2J", "DPO": "lovely"},
    "scores": {"DPO": {"VADER": 0.59}},
  }
  report.print_samples([sample], console=console)
  lines = console.file.getvalue().splitlines()
  [row] = [line for line in lines if "dull" in line]
  assert row.index("[b]X[/b]") < row.index("dull") < row.index("lovely")
  assert any("VADER +0.59" in line for line in lines)
  assert "\x1b" not in "".join(lines)


def test_no_samples_print_nothing():
  console = Console(file=io.StringIO(), width=90)
  report.print_samples([], console=console)
  assert console.file.getvalue() == ""


def test_panels_hold_every_metric_once():
  metrics = dict.fromkeys(
    ["z/new", "rewards/rejected", "loss", "eval/loss", "rewards/chosen"],
    [(1, 1)],
  )
  panels = report_curves.panels_of(metrics)
  assert [panel.names for panel in panels] == [
    ("loss",),
    ("rewards/chosen", "rewards/rejected"),
    ("z/new",),
  ]


def test_held_out_and_machine_find_their_places():
  metrics = dict.fromkeys(
    ["optimizer/learning_rate", "perf/seconds_update", "eval/reward",
     "rewards/judge", "eval/kl/k1", "optimizer/skipped", "eval/ended",
     "kl/reference", "kl/sampler", "length/chosen", "length/rejected"],
    [(1, 0.0)],
  )  # fmt: skip
  panels = [(p.unit, p.names) for p in report_curves.panels_of(metrics)]
  # Seconds have another figure, and no step was skipped.
  assert panels == [
    ("mean score", ("rewards/judge",)),
    ("nats / completion", ("kl/k1",)),
    ("nats / token", ("kl/reference",)),
    ("nats / token", ("kl/sampler",)),
    ("share of completions", ("completions/ended",)),
    ("tokens / completion", ("length/chosen", "length/rejected")),
    ("per step", ("optimizer/learning_rate",)),
  ]
  skipped = {
    "optimizer/skipped": [(1, 0.0), (2, 1.0)],
    "kl/reference": [(1, 1)],
  }
  panels = [(p.unit, p.names[0]) for p in report_curves.panels_of(skipped)]
  assert panels == [
    ("nats / completion", "kl/reference"),
    ("in a row, not finite", "optimizer/skipped"),
  ]


def test_smooth_by_hand():
  values = np.asarray([1.0, 3.0, np.nan, 5.0, 7.0])
  # Windows of three: {1 3} {1 3} {3 5} {5 7} {5 7}.
  assert report_curves.smooth(values, 3).tolist() == [2, 2, 4, 6, 6]
  assert np.isnan(report_curves.smooth(np.full(3, np.nan), 3)).all()


def test_curves_with_nan_and_dollars_draw():
  curve = [(step, math.nan if step == 5 else step) for step in range(60)]
  image = report_curves.draw_curves({"$loss$ $x_$": curve, "one": [(1, 2.0)]})
  assert image.startswith(b"\x89PNG")
