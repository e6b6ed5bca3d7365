"""The page of report.html: one jinja2 template, no request to anywhere.

Kept in a module so that it needs no package data. Rendered with autoescape:
every value is text, never markup.
"""

STYLE = """
:root { color-scheme: light; --ink: #1d2530; --soft: #5b6675; --line: #e1e5ea;
  --tint: #f5f7f9; --accent: #1f5fa8; --paper: #fff; --note: #fff8ea; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5
  system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 16px; }
h2 { font-size: 19px; margin: 40px 0 12px; padding-top: 16px;
  border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 20px 0 8px; }
p { margin: 6px 0; }
.soft { color: var(--soft); }
.facts { display: grid; grid-template-columns: max-content 1fr; margin: 0;
  gap: 4px 20px; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0 0; }
.tile { flex: 1 1 200px; border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13px; color: var(--soft); }
.notes { background: var(--note); border-left: 4px solid #d99a2b;
  margin: 24px 0 0; padding: 10px 16px; font-size: 14px;
  border-radius: 0 8px 8px 0; }
.notes ul { margin: 4px 0; padding-left: 20px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding: 14px 0 8px; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:hover { background: var(--tint); }
.sample { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 14px;
  overflow: hidden; break-inside: avoid; }
.prompt { background: var(--tint); padding: 9px 14px; font-size: 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.versions { display: grid; grid-auto-flow: column;
  grid-auto-columns: minmax(0, 1fr); }
.version { padding: 10px 14px; border-left: 1px solid var(--line); }
.version:first-child { border-left: 0; }
.version h4 { margin: 0 0 4px; font-size: 12px; color: var(--soft); }
.version p { margin: 0 0 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
.chip { color: #1d2530; display: inline-block; border-radius: 10px;
  padding: 1px 9px; margin: 0 4px 4px 0; font-size: 12px;
  font-variant-numeric: tabular-nums; }
img { display: block; max-width: 100%; height: auto; margin: 8px 0 20px; }
td.bar { width: 55%; }
td.bar i { display: block; height: 12px; border-radius: 3px; min-width: 2px;
  background: var(--accent); }
pre { background: var(--tint); border-radius: 8px; padding: 12px 16px;
  overflow-x: auto; font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono",
  monospace; }
summary { cursor: pointer; padding: 6px 0; font-weight: 600; }
@media (max-width: 720px) {
  .versions { grid-auto-flow: row; }
  .version { border-left: 0; border-top: 1px solid var(--line); }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 8px; }
}
"""

# Of reports alone: `xpo score` has tooltips that must not be cut. In the dark,
# figures keep their white paper and become cards.
REPORT_STYLE = """
.version p { max-height: 30em; overflow-y: auto; }
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e4e8ee; --soft: #9aa6b6; --line: #343c48;
    --tint: #222933; --accent: #6fa8e8; --paper: #171c23; --note: #2e2818; }
  img { background: #fff; padding: 10px; border-radius: 8px; }
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ run.title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ run.title }}</h1>
<dl class="facts">
{%- for name, value in facts %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{%- endfor %}
</dl>
{%- if run.headline %}
<div class="tiles">
{%- for tile in run.headline %}
<div class="tile"><span>{{ tile.label }}</span><b>{{ tile.value }}</b>
<span>{{ tile.detail }}</span></div>
{%- endfor %}
</div>
{%- endif %}
{%- if run.notes %}
<div class="notes"><b>Read this first</b>
<ul>
{%- for note in run.notes %}
<li>{{ note }}</li>
{%- endfor %}
</ul></div>
{%- endif %}

<h2>Results</h2>
{%- for table in run.tables %}
{%- if table.folded is defined %}
<details><summary>{{ table.title }}</summary>
{%- endif %}
<div class="wide"><table>
{%- if table.folded is not defined %}<caption>{{ table.title }}</caption>
{%- endif %}
<thead><tr>
{%- for column in table.columns %}<th>{{ column }}</th>{% endfor -%}
</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- if table.folded is defined %}</details>{% endif %}
{%- else %}
<p class="soft">This run measured nothing.</p>
{%- endfor %}

{%- if samples %}
<h2>Samples</h2>
<p class="soft">The same prompts before and after. Colour is the score: orange
is low, green is high.</p>
{%- for sample in samples %}
<div class="sample"><div class="prompt">{{ sample.prompt }}</div>
<div class="versions">
{%- for version in sample.versions %}
<div class="version"><h4>{{ version.name }}</h4>
{%- for reply in version.replies %}
<p>{{ reply.text or "(empty)" }}</p>
{%- for text, colour in reply.chips %}
<span class="chip" style="background:{{ colour }}">{{ text }}</span>
{%- endfor %}
{%- endfor %}
</div>
{%- endfor %}
</div></div>
{%- endfor %}
{%- endif %}

<h2>Training</h2>
{%- for stage in stages %}
{%- if stage.images %}
<h3>{{ stage.name }}</h3>
{%- for name, image in stage.images.items() %}
<p class="soft">{{ captions[name] }}</p>
<img alt="{{ name }} of {{ stage.name }}" src="data:image/png;base64,
{{- image | data }}">
{%- endfor %}
{%- endif %}
{%- endfor %}

<h2>Time</h2>
<table>
<thead><tr><th>stage</th><th>time</th><th>share</th><th></th></tr></thead>
<tbody>
{%- for stage in stages %}
<tr><td>{{ stage.name }}</td><td>{{ stage.time }}</td>
<td>{{ "%.0f" | format(stage.share) }}%</td>
<td class="bar"><i style="width:{{ "%.1f" | format(stage.share) }}%"></i></td>
</tr>
{%- endfor %}
<tr><td><b>all</b></td><td><b>{{ total_time }}</b></td><td></td><td></td></tr>
</tbody></table>
{%- if overview %}
<img alt="Time of the stages" src="data:image/png;base64,{{ overview | data }}">
{%- endif %}

<h2>Configuration</h2>
{%- for stage in stages %}
<details><summary>{{ stage.name }}</summary>
<pre>{{ stage.config }}</pre></details>
{%- endfor %}
</main>
</body>
</html>
"""
