"""The page of `xpo score --html`: completions, coloured by credit.

One file that needs nothing else: no script, no request. Rendered with
autoescape: texts of models and data are never markup.
"""

from collections.abc import Mapping, Sequence

import jinja2
import numpy as np

from xpo_jax import report_page, score_rows
from xpo_jax.data.records import Group, Prompt
from xpo_jax.score_rows import Scored
from xpo_jax.types import Feedback

# Orange and blue differ for every kind of colour vision; both are light enough
# for dark text (contrast above 5).
NEGATIVE, NEUTRAL, POSITIVE = (239, 138, 53), (250, 250, 250), (96, 165, 224)
FULL_COLOUR = 97  # percentile of |credit| that has the strongest colour

STYLE = """
.legend { position: sticky; top: 0; z-index: 2; background: #fffffff2;
  display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px;
  padding: 10px 0; margin: 0 0 12px; border-bottom: 1px solid var(--line);
  font-size: 13px; color: var(--soft); }
.legend i { width: 220px; height: 14px; border-radius: 3px; }
.legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.sample { overflow: visible; }
.prompt { border-radius: 8px 8px 0 0; }
.prompt small { display: flex; justify-content: space-between; gap: 12px;
  color: var(--soft); font-size: 12px; white-space: normal; }
.versions { grid-auto-flow: row;
  grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); }
.version, .version:first-child { border: 0;
  box-shadow: -1px -1px var(--line); }
.version h4 { display: flex; flex-wrap: wrap; gap: 2px 12px; }
.version h4 b { color: var(--ink); font-variant-numeric: tabular-nums; }
.version p { line-height: 1.75; margin: 0; }
.t { position: relative; border-radius: 3px; padding: 2px 0;
  box-shadow: -1px 0 #fff; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.t:hover { outline: 1px solid var(--ink); z-index: 1; }
.t:hover::after { content: attr(data-tip); position: absolute; left: 0;
  bottom: calc(100% + 4px); background: var(--ink); color: #fff;
  font-size: 12px; line-height: 1.4; padding: 3px 8px; border-radius: 4px;
  white-space: pre; pointer-events: none; }
.end { font-size: 11px; border: 1px solid var(--line); padding: 1px 4px;
  margin-left: 3px; white-space: nowrap; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<dl class="facts">
{%- for name, value in facts.items() %}
<dt>{{ name | capitalize }}</dt><dd>{{ value }}</dd>
{%- endfor %}
</dl>
<div class="tiles">
{%- for tile in tiles %}
<div class="tile"><span>{{ tile.label }}</span><b>{{ tile.value }}</b>
<span>{{ tile.detail }}</span></div>
{%- endfor %}
</div>
<h2>{{ samples | length }} of {{ total }} rows</h2>
{%- for note in notes %}
<p class="soft">{{ note }}</p>
{%- endfor %}
{%- if limit %}
<div class="legend"><span>credit of a token</span><b>{{ low }}</b>
<i style="background:linear-gradient(to right,{{ colours | join(",") }})"></i>
<b>{{ high }}</b><span>beyond: the same colour; point at a token for its
numbers</span></div>
{%- endif %}
{%- for sample in samples %}
<div class="sample"><div class="prompt"><small><span>{{ sample.id }}</span>
<span>{{ sample.verdict }}</span></small>{{ sample.prompt }}</div>
<div class="versions">
{%- for version in sample.versions %}
<div class="version"><h4><span>{{ version.label }}</span>
<span>{{ reward }} <b>{{ version.reward }}</b></span>
<span>{{ version.length }}</span></h4><p>
{%- for piece in version.pieces -%}
<span class="{{ piece.kind }}" {% if piece.colour -%}
style="background:{{ piece.colour }}" data-tip="{{ piece.tip }}"
{%- endif %}>{{ piece.text }}</span>
{%- endfor -%}
</p></div>
{%- endfor %}
</div></div>
{%- endfor %}
</main>
</body>
</html>
"""

_CREDIT = {
  True: "A token's credit is its part of the reward: how much likelier than "
  "its reference the trained policy finds it. Read as a Q-function, that is "
  "the token's advantage (arXiv 2404.12358). Credits sum to the reward.",
  False: "A token's credit is its part of the reward. Credits sum to it.",
}
_WHOLE = "This reward belongs to whole completions: no token has a part of it."
_COMPARE = (
  "Compare completions of one prompt; across prompts the reward lacks a "
  "constant that cannot be known."
)


def render(page: Mapping) -> str:
  """The page as a text.

  Args:
    page: title; facts {name: text}; summary of score_rows.summarise; reward,
      its name; reference, whether it has one; samples [Scored] as shown;
      total, groups in all; tokenizer.
  """
  samples, tokenizer = page["samples"], page["tokenizer"]
  limit = colour_limit(samples)
  notes = [_CREDIT[page["reference"]]] if limit else [_WHOLE]
  if page["reference"]:
    notes.append(_COMPARE)
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  return environment.from_string(PAGE).render(
    title=page["title"],
    style=report_page.STYLE + STYLE,
    facts=page["facts"],
    tiles=[_tile(*item) for item in page["summary"].items()],
    total=page["total"],
    reward=page["reward"],
    notes=notes,
    limit=limit,
    low=f"{-limit:.3g}",
    high=f"{limit:+.3g}",
    colours=[credit_colour(c, 1.0) for c in (-1.0, 0.0, 1.0)],
    samples=[_sample(s, tokenizer, limit) for s in samples],
  )


def colour_limit(samples: Sequence[Scored]) -> float:
  """The |credit| of the strongest colour; 0 without any credit."""
  credits = [c for s in samples for c in s.credits or ()]
  if not credits:
    return 0.0
  sizes = np.abs(np.concatenate(credits))
  # Policies that have not moved yet: grey, not noise in full colour.
  return float(max(np.percentile(sizes, FULL_COLOUR), 1e-6))


def credit_colour(credit: float, limit: float) -> str:
  """A CSS colour: orange from -limit down, near white at 0, blue from limit."""
  share = min(1.0, abs(credit) / limit)
  end = POSITIVE if credit > 0 else NEGATIVE
  parts = (round(a + share * (b - a)) for a, b in zip(NEUTRAL, end))
  return "#" + "".join(f"{part:02x}" for part in parts)


def _tile(name: str, estimate) -> dict:
  error = "" if np.isnan(estimate.se) else f"± {estimate.se:.3f}, "
  value = f"{estimate.mean:+.3f}"
  if name == "rewards/accuracy":
    value = f"{estimate.mean:.1%}"
    error = "" if np.isnan(estimate.se) else f"± {estimate.se:.1%}, "
  return {
    "label": name.replace("rewards/", "").replace("rewards", "reward"),
    "value": value,
    "detail": f"{error}n = {estimate.n}",
  }


def _sample(scored: Scored, tokenizer, limit: float) -> dict:
  group, verdict = scored.group, ""
  place = score_rows.ordered(group)
  if place:
    margin = scored.rewards[place[0]] - scored.rewards[place[1]]
    agrees = "✓ ranked as the feedback" if margin > 0 else "✗ ranked otherwise"
    verdict = f"{agrees}, margin {margin:+.3f}"
  versions = []
  for k, ids in enumerate(scored.tokens.completions):
    cut = "" if scored.tokens.ended[k] else ", cut"
    versions.append(
      {
        "label": _label(group, k),
        "reward": f"{scored.rewards[k]:+.3f}",
        "length": f"{len(ids)} tokens{cut}",
        "pieces": _pieces(scored, k, tokenizer, limit),
      }
    )
  return {
    "id": group.id,
    "prompt": _prompt(group.prompt),
    "verdict": verdict,
    "versions": versions,
  }


def _label(group: Group, k: int) -> str:
  value = group.feedback[k]
  if group.kind is Feedback.BINARY:
    return "desirable" if value > 0 else "undesirable"
  if group.kind is Feedback.SCORE:
    return f"score {value:g}"
  if group.kind is Feedback.PROBABILITY:
    return f"wins with {value:.0%}"
  if group.kind is Feedback.DEMONSTRATION:
    return "completion"
  return "rejected" if k else "chosen"


def _prompt(prompt: Prompt) -> str:
  if isinstance(prompt, str):
    return prompt
  return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def _pieces(scored: Scored, k: int, tokenizer, limit: float) -> list[dict]:
  """Tokens as shown; parts of one character become one piece."""
  ids = scored.tokens.completions[k]
  if scored.credits is None:
    return [
      {"kind": "", "colour": "", "tip": "", "text": tokenizer.decode(ids)}
    ]
  out, waiting = [], []
  for n, (text, control) in enumerate(score_rows.pieces(tokenizer, ids)):
    waiting.append(n)
    if text or control or n + 1 == len(ids):
      credit = float(scored.credits[k][waiting].sum())
      out.append(
        {
          "kind": "t end" if control else "t",
          "colour": credit_colour(credit, limit),
          "tip": _tip(scored, k, waiting, credit),
          "text": control or text.replace("\n", "↵\n"),
        }
      )
      waiting = []
  return out


def _tip(scored: Scored, k: int, places: list[int], credit: float) -> str:
  parts = [f"credit {credit:+.4f}"]
  for name, values in (
    ("log pi", scored.logps),
    ("log ref", scored.reference_logps),
  ):
    if values is not None:
      parts.append(f"{name} {values[k][places].sum():.2f}")
  if len(places) > 1:
    parts.append(f"{len(places)} tokens")
  return "  ".join(parts)
