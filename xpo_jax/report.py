"""The report of a run: report.html, its curves, samples on the terminal.

`report.html` is one file that needs nothing else: images and style inside, no
script, no request. Texts of models and data are escaped.
"""

import base64
from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
import re

import jinja2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xpo_jax import progress
from xpo_jax.errors import storage_error
from xpo_jax.report_figures import draw_all, draw_stages
from xpo_jax.report_page import PAGE, REPORT_STYLE, STYLE

FILM_NOTES = (
  "The labels are human sentiment ratings of film review sentences turned into "
  "pairs (the controlled-sentiment task, with people instead of a "
  'classifier). They do not say "which reply is better".',
  "VADER's lexicon shares its authors with these ratings, so it is no "
  "independent judge. TextBlob's lexicon has other authors; the second reward "
  "model starts from the SFT policy and is fitted to ratings of films that no "
  "other stage sees.",
  "The policy starts from an already instruction-tuned model with 4-bit "
  "weights, not from a base model.",
  "Means are over generations for held-out films; ± is one standard error "
  "clustered by film, [95%] a paired bootstrap over films, and the last column "
  "the share of pairs in which the new text scores higher (a tie is half).",
)
CAPTIONS = {
  "curves": "Over the steps; dashed lines are held-out data.",
  "reward-kl": "Reward against the distance from the reference, which buys it.",
  "seconds": "What a rollout takes.",
}
NEGATIVE, NEUTRAL, POSITIVE = (246, 178, 120), (238, 240, 243), (134, 207, 165)


def write_report(folder: str | os.PathLike, run: Mapping) -> pathlib.Path:
  """Writes `report.html` and `plots/*.png` into `folder`.

  A plot is plots/<stage>-<figure>.png, of a single stage plots/<figure>.png,
  where figure is one of CAPTIONS; plots/stages.png shows where time went.

  Args:
    folder: made if missing.
    run: what happened. All texts are plain text.
      title, model, data, method: str.
      seed: int.
      facts: optional {name: text}, further lines of the header.
      headline: optional [{"label", "value", "detail"}] texts, the key figures.
      notes: [str], honest caveats; FILM_NOTES for the embedded data.
      tables: [{"title", "columns": [str], "rows": [[str]]}], as made by
        evals.compare.final_table; with "folded": True it opens on a click.
      samples: [{"prompt": str, "texts": {stage: str}, "scores": {stage:
        {judge: float}}}]; stages in the order shown; a score in about -1 .. 1,
        or in the optional "range": (lowest, highest). Instead of one text and
        its scores a stage may have a list of texts and one of scores.
      stages: [{"name": str, "config": dict, "metrics": read_metrics' answer,
        "seconds": float}] in the order run.

  Returns:
    The path of report.html.

  Raises:
    XpoError: the folder cannot be written.
    jinja2.UndefinedError, KeyError: `run` lacks a key.
  """
  folder = pathlib.Path(folder)
  stages = run["stages"]
  images = {s["name"]: draw_all(s["metrics"]) for s in stages}
  plots = {
    f"{_slug(stage)}-{name}" if len(stages) > 1 else name: image
    for stage, found in images.items()
    for name, image in found.items()
  }
  overview = draw_stages(stages) if len(stages) > 1 else b""
  page = render(run, images, overview)
  try:
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, image in (plots | {"stages": overview}).items():
      if image:
        (folder / "plots" / f"{name}.png").write_bytes(image)
    fresh = folder / "report.html.new"
    fresh.write_text(page, encoding="utf-8")
    os.replace(fresh, folder / "report.html")
  except OSError as error:
    raise storage_error(
      f"{folder}: cannot write the report ({error.strerror}); free some space "
      "or choose another --workdir"
    ) from error
  return folder / "report.html"


def render(
  run: Mapping,
  images: Mapping[str, Mapping[str, bytes]],
  overview: bytes = b"",
) -> str:
  """The page of `run` (see `write_report`).

  Args:
    run: what happened.
    images: stage name -> {figure's name: PNG}.
    overview: PNG of the stages' times, if there are several.
  """
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  environment.filters["data"] = lambda image: base64.b64encode(image).decode()
  total = sum(stage["seconds"] for stage in run["stages"])
  stages = [
    {
      "name": stage["name"],
      "images": images.get(stage["name"], {}),
      "time": progress.clock_text(stage["seconds"]),
      "share": 100 * stage["seconds"] / total if total else 0.0,
      "config": json.dumps(stage["config"], indent=2, default=str),
    }
    for stage in run["stages"]
  ]
  facts = [
    (n.capitalize(), run[n]) for n in ("model", "data", "method", "seed")
  ]
  facts += run.get("facts", {}).items()
  return environment.from_string(PAGE).render(
    run={"headline": ()} | dict(run),
    samples=[_versions(sample) for sample in run["samples"]],
    style=STYLE + REPORT_STYLE,
    facts=facts,
    stages=stages,
    captions=CAPTIONS,
    overview=overview,
    total_time=progress.clock_text(total),
  )


def _versions(sample: Mapping) -> dict:
  """A sample as the page shows it: stages, their replies, chips of scores."""
  low, high = sample.get("range", (-1.0, 1.0))
  place = lambda x: 2 * (x - low) / (high - low) - 1 if high > low else 0.0
  versions = []
  for stage, texts in sample["texts"].items():
    scores = sample["scores"].get(stage, {})
    if isinstance(texts, str):
      texts, scores = [texts], [scores]
    replies = [
      {
        "text": text,
        "chips": [
          (f"{judge} {_score_text(x)}", score_colour(place(x)))
          for judge, x in found.items()
        ],
      }
      for text, found in zip(texts, scores, strict=True)
    ]
    versions.append({"name": stage, "replies": replies})
  return {"prompt": sample["prompt"], "versions": versions}


def score_colour(score: float) -> str:
  """A CSS colour: orange at -1, grey at 0 and for NaN, green at 1."""
  if math.isnan(score):
    score = 0.0
  share = min(1.0, abs(score))
  end = POSITIVE if score > 0 else NEGATIVE
  parts = (round(a + share * (b - a)) for a, b in zip(NEUTRAL, end))
  return "#" + "".join(f"{part:02x}" for part in parts)


def print_samples(
  samples: Sequence[Mapping], *, console: Console | None = None
) -> None:
  """Prints samples (see `write_report`) side by side, one column a stage."""
  if not samples:
    return
  console = console or progress.make_console()
  names = list(samples[0]["texts"])
  table = Table(show_lines=True, expand=True)
  for name in ["prompt", *names]:
    # Ratios let the texts share the width, the prompt taking less.
    ratio = 2 if name == "prompt" else 3
    table.add_column(Text(progress.plain(name, console)), ratio=ratio)
  for sample in samples:
    cells = [Text(progress.plain(sample["prompt"], console), "dim")]
    for name in names:
      cell = Text(progress.plain(sample["texts"][name], console))
      for judge, score in sample["scores"].get(name, {}).items():
        label = progress.plain(f"{judge} {_score_text(score)}", console)
        cell.append(f"\n{label}", f"black on {score_colour(score)}")
      cells.append(cell)
    table.add_row(*cells)
  console.print(table)


def _score_text(score: float) -> str:
  return "n/a" if math.isnan(score) else f"{score:+.2f}"


def _slug(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stage"
