"""Sealed folders: no byte changes unseen, no interruption leaves a half."""

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import runs
from xpo_jax import sealing

FILES = {
  "state/d/0a1b": bytes(range(256)) * 40,
  "state/manifest.ocdbt": b"\x0c\xdb\x3a" * 90,
  "state/_METADATA": b'{"tree": 1}',
  "data/metadata": b'{"next_index": 7}',
  "meta/metadata": b"{}",
  "meta/empty": b"",
}


def make(folder, step, salt=b""):
  """A folder as a writer leaves it, not yet sealed."""
  path = sealing.saving(folder, step)
  for name, content in FILES.items():
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(content + salt)
  (path / "state" / "hollow").mkdir()
  return path


def put(folder, step, salt=b""):
  path = make(folder, step, salt)
  sealing.seal(path, step)
  sealing.commit(path, folder / str(step))
  return folder / str(step)


def test_a_manifest_spelled_out(tmp_path):
  step = put(tmp_path, 40)
  found = json.loads((step / "manifest.json").read_text())
  seal = found.pop("seal")
  sha = lambda b: hashlib.sha256(b).hexdigest()
  assert found == {
    "format": 1,
    "step": 40,
    "folders": ["data", "meta", "state", "state/d", "state/hollow"],
    "files": {
      name: {"bytes": len(content), "sha256": sha(content)}
      for name, content in FILES.items()
    },
  }
  assert seal == sha(json.dumps(found, sort_keys=True).encode())
  assert sealing.damage(step) == "" and sealing.steps(tmp_path) == [40]
  assert sealing.read_file(step, "data/metadata") == FILES["data/metadata"]
  assert not list(tmp_path.glob(".*"))


def corrupt(noise, step, other):
  """One random damage of a sealed step; returns what it did."""
  files = sorted(p for p in step.rglob("*") if p.is_file())
  full = [p for p in files if p.stat().st_size]
  path, spare = noise.choice(full), noise.choice(files)
  whole = bytearray(path.read_bytes())
  kind = noise.choice(
    "flip cut zero gone new swap stale link hollow seal grown name".split()
  )
  if kind == "flip":
    whole[noise.randrange(len(whole))] ^= 1 << noise.randrange(8)
    path.write_bytes(whole)
  elif kind == "cut":
    path.write_bytes(whole[: noise.randrange(len(whole))])
  elif kind == "grown":
    path.write_bytes(whole + b"\0")
  elif kind == "zero":
    path.write_bytes(bytes(len(whole)))
  elif kind == "gone":
    spare.unlink()
  elif kind == "new":
    (noise.choice(files).parent / "extra").write_bytes(b"x")
  elif kind == "swap":
    one, two = step / "state/d/0a1b", step / "state/manifest.ocdbt"
    one.rename(step / "t"), two.rename(one), (step / "t").rename(two)
  elif kind == "stale":
    old = other / spare.relative_to(step)
    if old.read_bytes() == spare.read_bytes():  # the same in all steps
      return corrupt(noise, step, other)
    shutil.copyfile(old, spare)
  elif kind == "link":
    spare.unlink()
    spare.symlink_to(other / spare.relative_to(step))
  elif kind == "hollow":
    (step / "state" / "hollow").rmdir()
  elif kind == "name":
    spare.rename(spare.with_name("renamed"))
  else:  # a manifest that was edited by hand
    manifest = step / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"bytes": ', '"bytes": 1'))
  return kind


def test_200_corruptions_are_seen_and_passed_over(tmp_path):
  noise = random.Random(0)
  older, step = put(tmp_path, 10, b"older"), tmp_path / "20"
  sound = put(tmp_path / "sound", 20)
  whole = {p: p.read_bytes() for p in older.rglob("*") if p.is_file()}
  seen = {}
  for _ in range(200):
    shutil.copytree(sound, step)
    kind = corrupt(noise, step, older)
    chosen, wrong = sealing.newest_intact(tmp_path)
    assert chosen == 10 and len(wrong) == 1, kind
    seen.setdefault(kind, set()).add(wrong[0].removeprefix(f"{step}: "))
    shutil.rmtree(step)
  assert len(seen) == 12, sorted(seen)
  assert "data/metadata has changed (SHA-256)" in seen["flip"]
  assert "manifest.json has changed" in seen["seal"]
  assert seen["hollow"] == {"folder state/hollow is new or gone"}
  assert whole == {p: p.read_bytes() for p in whole}


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "unreadable"),
    ("[" * 100_000, "unreadable"),
    ("[1]", "no manifest"),
    ('{"seal": 1}', "has changed"),
    (sealing._text({"format": 2, "step": 5}), "format 2, this version reads 1"),
    (sealing._text({"format": 1, "step": 5}), "no manifest"),
    (
      sealing._text(
        {"format": 1, "step": 5, "folders": [], "files": {"../x": 3}}
      ),
      "no manifest",
    ),
    (
      sealing._text({"format": 1, "step": 6, "folders": [], "files": {}}),
      "is of step 6",
    ),
  ],
)
def test_manifests_of_others(tmp_path, text, words):
  step = put(tmp_path, 5)
  (step / "manifest.json").write_text(text)
  assert words in sealing.damage(step)
  with pytest.raises(ValueError, match=words):
    sealing.read_file(step, "data/metadata")


def test_what_is_no_step_is_left_alone(tmp_path):
  put(tmp_path, 7)
  (tmp_path / "9").mkdir()  # empty
  (tmp_path / "11").write_text("a file")
  (tmp_path / "08").mkdir()
  (tmp_path / "notes").mkdir()
  (tmp_path / "12").symlink_to(tmp_path / "7")
  (tmp_path / "13").symlink_to(tmp_path / "nowhere")
  before = sorted(p.name for p in tmp_path.iterdir())
  assert sealing.numbered(tmp_path) == [7, 9]
  assert sealing.steps(tmp_path) == [7]
  step, wrong = sealing.newest_intact(tmp_path)
  assert step == 7 and len(wrong) == 1 and "9: has no manifest" in wrong[0]
  sealing.sweep(tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == before
  for number in (9, 11, 12, 13):  # in the way: kept under another name
    put(tmp_path, number)
  assert sealing.newest_intact(tmp_path) == (13, [])
  assert (tmp_path / "damaged-11").read_text() == "a file"
  assert (tmp_path / "damaged-12").is_symlink()
  assert sealing.damage(tmp_path / "7") == ""


def test_what_is_kept():
  losses = {1: 0.3, 2: math.nan, 3: None, 4: 0.1, 5: math.inf, 6: 0.1, 7: 0.2}
  found = list(range(1, 10))
  assert sealing.lowest(found, losses) == [6, 4, 7, 1]
  assert sealing.retained(found, 2, losses, 1) == {8, 9, 6}
  assert sealing.retained(found, 2, losses, 9) == {8, 9, 6, 4, 7, 1}
  assert sealing.retained(found, 3, {}, 1) == {7, 8, 9}
  assert sealing.retained(found, 1, {n: math.nan for n in found}, 3) == {9}


# Interruptions.


class Killed(BaseException):
  """Ends whatever is running where a kill would."""


_armed: list = []  # [folder, calls left]
_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"}


def _audit(event, args):
  if not _armed or event not in _EVENTS:
    return
  if event == "open" and not (isinstance(args[1], str) and "w" in args[1]):
    return
  _armed[0] -= 1
  if _armed[0] < 0:
    raise Killed


@contextlib.contextmanager
def killed_after(calls):
  """Every change of the file system after so many raises Killed."""
  if not getattr(sys, "_xpo_audited", False):
    sys.addaudithook(_audit)  # for good; it sleeps while `_armed` is empty
    sys._xpo_audited = True
  _armed.append(calls)
  try:
    yield
  finally:
    _armed.clear()


def test_a_kill_at_any_change_of_the_disk_loses_nothing(tmp_path, monkeypatch):
  """A save, its commit over a broken step, and the removal of an old one."""
  points = 0
  monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and seen by no kill
  while True:
    folder = tmp_path / str(points)
    put(folder, 10, b"a"), put(folder, 20, b"b")
    (folder / "30").mkdir()
    path, done = make(folder, 30, b"c"), []
    with contextlib.suppress(Killed), killed_after(points):
      sealing.seal(path, 30)
      sealing.commit(path, folder / "30")
      done.append("commit")
      sealing.discard(folder / "10")
      done.append("prune")
    step, _ = sealing.newest_intact(folder)
    assert step in (20, 30) and (step == 30 or not done)
    salt = {20: b"b", 30: b"c"}[step]
    for name, content in FILES.items():
      assert (folder / str(step) / name).read_bytes() == content + salt
    for number in sealing.steps(folder):  # a half never has a step's name
      assert sealing.damage(folder / str(number)) == ""
    sealing.sweep(folder)
    assert not list(folder.glob(".*"))
    put(folder, 31)  # and life goes on
    assert sealing.newest_intact(folder)[0] == 31
    if "prune" in done:
      break
    points += 1
  # Manifest, its folder's name, the broken one aside; 2 + 6 + 6 removals.
  assert points >= 15


WRITER = """
import sys
from pathlib import Path
from xpo_jax import sealing
folder = Path(sys.argv[1])
sealing.sweep(folder)
first, _ = sealing.newest_intact(folder)
for step in range((first or 0) + 1, 10**6):
  path = sealing.saving(folder, step)
  for name in ("state/a", "state/b", "data/c"):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(f"{step} {name} " * 50)
  sealing.seal(path, step)
  sealing.commit(path, folder / str(step))
  print(step, flush=True)
  for old in sealing.steps(folder)[:-2]:
    sealing.discard(folder / str(old))
"""


def test_random_kills_lose_no_committed_step(tmp_path):
  noise, last = random.Random(1), 0
  for _ in range(12):
    with subprocess.Popen(
      [sys.executable, "-c", WRITER, str(tmp_path)],
      env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
      stdout=subprocess.PIPE,
      text=True,
    ) as process:
      process.stdout.readline()
      time.sleep(noise.uniform(0, 0.1))
      process.kill()
      told = process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL
    last = max([last, *map(int, told[:-1])])  # the last word may be torn
    step, wrong = sealing.newest_intact(tmp_path)
    assert step >= last and not wrong
    text = (tmp_path / str(step) / "data" / "c").read_text()
    assert text == f"{step} data/c " * 50
    last = step
