"""`xpo verify`: what it prints, and that it sees a changed byte."""

import json
import subprocess
import sys

import pytest

from tests import runs
from xpo_jax import sealing

META = {
  "config": {"method": {"name": "dpo", "beta": 0.125}, "seed": 31},
  "fingerprints": {"data": "d" * 16, "base": ""},
  "rows": {"read": 24, "used": 23, "dropped: null": 1},
  "versions": {"jax": "9.9.9", "python": "3.11.7"},
  "code": "c0ffee+",
}


def put(run, step, content=b"arrays"):
  folder = run / "checkpoints"
  path = sealing.saving(folder, step)
  for name in ("state", "data", "meta"):
    (path / name).mkdir(parents=True)
  (path / "state" / "d").write_bytes(content)
  (path / "data" / "metadata").write_text('{"next_index": 3}')
  (path / "meta" / "metadata").write_text(json.dumps(META))
  sealing.seal(path, step)
  sealing.commit(path, folder / str(step))
  return folder / str(step)


def test_a_sound_run(xpo, tmp_path):
  put(tmp_path, 10), put(tmp_path, 20, b"other")
  code, out, err = xpo("verify", str(tmp_path))
  assert (code, err) == (0, [])
  for step in ("10", "20"):
    path = tmp_path / "checkpoints" / step
    seal = json.loads((path / "manifest.json").read_text())["seal"]
    assert seal[:16] in out
  assert out.count("intact") == 2
  for words in ("c0ffee+", "d" * 16, "0.125", "config: seed", "9.9.9", "23"):
    assert words in out
  code, out, _ = xpo("verify", str(tmp_path), "--json")
  (steps,) = json.loads(out).values()
  assert [s["step"] for s in steps] == [10, 20] and code == 0
  for name, value in META.items():
    assert steps[1][name] == value
  assert steps[0]["files"]["state/d"]["bytes"] == 6
  assert steps[0]["seal"] != steps[1]["seal"]


def test_stages_are_all_verified(xpo, tmp_path):
  put(tmp_path / "sft", 5), put(tmp_path / "dpo", 7)
  (tmp_path / "notes.txt").write_text("")
  code, out, _ = xpo("verify", str(tmp_path))
  assert code == 0 and f"{tmp_path}/sft" in out and f"{tmp_path}/dpo" in out


@pytest.mark.parametrize(
  "break_it, words",
  [
    (lambda s: (s / "state/d").write_bytes(b"arrayz"), "state/d has changed"),
    (lambda s: (s / "state/d").unlink(), "state/d is gone"),
    (lambda s: (s / "manifest.json").unlink(), "has no manifest.json"),
    (lambda s: (s / "meta/x").write_bytes(b""), "meta/x does not belong"),
    (
      lambda s: (s / "manifest.json").write_text(
        (s / "manifest.json").read_text().replace('"step": 20', '"step": 21')
      ),
      "manifest.json has changed",
    ),
  ],
)
def test_a_damaged_step(xpo, tmp_path, break_it, words):
  put(tmp_path, 10)
  break_it(put(tmp_path, 20))
  code, out, err = xpo("verify", str(tmp_path))
  assert (code, len(err)) == (66, 1)
  assert f"checkpoints/20: {words}" in err[0] and "1 damaged" in err[0]
  assert "intact" in out and words.split()[-1] in out


def test_no_run(xpo, tmp_path):
  code, _, err = xpo("verify", str(tmp_path))
  assert code == 66 and "no checkpoint in it" in err[0]
  code, _, err = xpo("verify", str(tmp_path / "absent"))
  assert code == 64 and "is no folder" in err[0]
  # Sealed, but by no training run: still one line.
  path = put(tmp_path, 3)
  (path / "meta" / "metadata").unlink()
  sealing.seal(path, 3)
  code, _, err = xpo("verify", str(tmp_path))
  assert code == 66 and "meta/metadata: No such file" in err[0]


def test_it_needs_no_jax(tmp_path):
  put(tmp_path, 10)
  code = (
    "import sys; from xpo_jax import cli\n"
    f"assert cli.main(['verify', {str(tmp_path)!r}]) == 0\n"
    "assert 'jax' not in sys.modules"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
