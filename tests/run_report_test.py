"""The report of a single run, from a folder written here."""

import json
import math

import pytest

from xpo_jax import report_figures, run_report

CONFIG = {
  "method": {"name": "dpo", "beta": 0.1},
  "model": {"source": "tiny"},
  "data": {"source": "rows <b>.jsonl"},
  "seed": 3,
  "batch": {"prompts": 8},
  "optimizer": {"learning_rate": 1e-5},
  "judge": {"name": "length"},
}


def lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(CONFIG))
  summary = {"steps": 30, "seconds": 75.0, "rows": {"read": 1234, "used": 9}}
  summary["stopped"] = "kl/k1=9 exceeds rollout.kl_budget=8"
  (folder / "summary.json").write_text(json.dumps(summary))
  steps = [{"step": s, "loss": s / 10, "kl/k1": None} for s in range(1, 31)]
  lines(folder / "metrics.jsonl", [*steps, {"step": 30, "eval/loss": 0.25}])
  rows = [("a", 1.0), ("b", 2.0), ("c", -1.0), ("d", 3.0)]
  lines(
    folder / "held_out.jsonl",
    [{"id": i, "cluster": "", "rewards/margin": m} for i, m in rows],
  )
  (folder / "rollouts").mkdir()
  for number, text in ((0, "dull"), (1, "<script>lovely")):
    row = {"prompt": "p", "completions": [text], "scores": [number]}
    lines(folder / "rollouts" / f"00000{number}.jsonl", [row])
  return folder


def test_a_run_folder_becomes_one_page(run, capsys):
  path = run_report.write(run)
  assert path == run / "report.html"
  assert capsys.readouterr().out == f"report: {path}\n"
  page = path.read_text(encoding="utf-8")
  for part in (
    "<h1>dpo: run</h1>", "<dd>rows &lt;b&gt;.jsonl</dd>", "<dd>30</dd>",
    "<dd>length</dd>", "kl_budget=8", "data:image/png;base64,iVBOR",
    "<td>1,234</td>", "before, rollout 0", "&lt;script&gt;lovely",
    "score +1.00", "<td>1:15</td>",
  ):  # fmt: skip
    assert part in page, part
  assert "<script" not in page
  # 3 of 4 margins are positive: 0.75, se = sqrt(.75 * .25 / 3) = 0.25.
  assert "<td>0.750 ± 0.250</td>" in page
  # The first and the last 3 of 30 losses: .2 and 2.9; .25 held out.
  assert "<td>loss</td><td>0.2</td><td>2.9</td><td>0.25</td>" in page
  assert [p.name for p in (run / "plots").iterdir()] == ["curves.png"]


def test_tiles_say_where_a_run_began(run):
  first, second = run_report.describe(run)["headline"]
  assert first["label"] == "held-out loss" and first["value"] == "0.250"
  assert first["detail"] == "measured once, at the end"
  assert second == {
    "label": "training loss",
    "value": "2.900",
    "detail": "0.200 at the start",
  }


def test_ends_by_hand():
  assert run_report.ends([(1, 5.0), (2, math.nan), (3, 7.0)]) == (5.0, 7.0)
  series = [(s, float(s)) for s in range(20)]
  assert run_report.ends(series) == (0.5, 18.5)  # two of twenty
  assert all(map(math.isnan, run_report.ends([(1, math.nan)])))


def test_held_out_rewards_stand_beside_those_of_rollouts():
  series = {"rewards/judge": [(1, 0.5)], "eval/reward": [(1, 0.75)]}
  (table,) = run_report.numbers(series)
  assert table["rows"] == [["rewards/judge", "0.5", "0.5", "0.75"]]


def test_an_empty_folder_has_a_report_too(tmp_path, capsys):
  assert run_report.write(tmp_path) is not None
  assert "measured nothing" in (tmp_path / "report.html").read_text()


def test_what_goes_wrong_is_one_line(run, capsys, monkeypatch):
  def broken(_):
    raise RuntimeError("no ink\nin the pen")

  monkeypatch.setattr(report_figures.report_curves, "draw_curves", broken)
  assert run_report.write(run) is None
  out = capsys.readouterr().out
  assert out == f"warning: {run}: no report.html (RuntimeError: no ink)\n"
  assert not (run / "report.html").exists()


def test_a_damaged_or_full_folder_is_one_line(run, capsys):
  (run / "plots").write_text("in the way")
  assert run_report.write(run) is None
  (run / "config.json").write_text("{")
  assert run_report.write(run) is None
  out = capsys.readouterr().out.splitlines()
  assert len(out) == 2 and all(x.startswith("warning: ") for x in out)
  assert "cannot write the report" in out[0] and "JSONDecodeError" in out[1]


def test_a_signal_is_not_swallowed(run, monkeypatch):
  def stopped(_):
    raise KeyboardInterrupt

  monkeypatch.setattr(run_report, "describe", stopped)
  with pytest.raises(KeyboardInterrupt):
    run_report.write(run)
