"""Files made to harm: none runs code, each ends `xpo` with one line, soon.

Every case is a process of its own with limits of CPU time and memory, so that
what hangs or swells is killed and fails the test. All payloads would create one
file, the canary.
"""

import pickle
import subprocess
import sys

import jinja2
import pytest

from tests import malicious_files as files
from tests import malicious_weights, runs
from tests.faults.farm import Farm
from tests.malicious_weights import Payload
from tests.models.weights import tiny_gguf
from xpo_jax.models.weights import load, tokenizer_files

CPU_SECONDS = 5  # of a case
MEMORY = 3 << 30  # address space; imports alone take up to 1.7 GiB


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
  return tmp_path_factory.mktemp("payload") / "canary"


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
  made = Farm(runs.environment(tmp_path_factory.mktemp("cache")))
  yield made
  made.close()


def test_the_payloads_would_work(tmp_path):
  """Else the rest would prove nothing."""
  one = Payload(str(tmp_path / "a"))
  script = "import pickle, sys; pickle.load(sys.stdin.buffer)"
  subprocess.run([sys.executable, "-c", script], input=pickle.dumps(one))
  two = Payload(str(tmp_path / "b"))
  subprocess.run([sys.executable, "-c", two.code])
  three = Payload(str(tmp_path / "c"))
  jinja2.Template(files.TEMPLATES["escape by globals"][0](three)).render()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def cases(folder, payload):
  """name -> (arguments of xpo, exit code, words)."""
  place = iter(range(10**6))

  def fresh():
    made = folder / str(next(place))
    made.mkdir()
    return made

  for name, (make, code, words) in malicious_weights.WEIGHTS.items():
    source = make(fresh(), payload)
    yield name, ["sample", f"--model={source}", "--prompt=x"], code, words
  for name, (changes, words) in files.TOKENIZERS.items():
    here = fresh()
    path = files.tokenizer(here, **changes)
    if "EOS" in words:
      (path / "tokenizer_config.json").unlink()
    yield name, files.inspect(here, path), 66, words
  for name, (make, words) in files.TEMPLATES.items():
    here = fresh()
    path = files.tokenizer(here, chat_template=make(payload))
    yield f"template: {name}", files.inspect(here, path), 66, words
  for name, (make, words) in files.DATA.items():
    here = fresh()
    rows = make(here, payload)
    yield name, files.inspect(here, files.tokenizer(here), rows), 65, words
  for name, (make, args, code, words) in files.CHECKPOINTS.items():
    path = make(fresh(), payload)
    yield name, [a.format(path, path) for a in args], code, words


def test_each_ends_in_one_line_and_runs_nothing(tmp_path, farm, canary):
  limits = {"RLIMIT_CPU": CPU_SECONDS, "RLIMIT_AS": MEMORY}
  wrong, count = [], 0
  for name, argv, code, words in cases(tmp_path, Payload(str(canary))):
    log = tmp_path / f"{count}.log"
    process = farm.start(*argv, log=log, limits=limits)
    found = process.wait(60)
    lines = process.text().splitlines()
    # `xpo verify` prints its table first.
    errors = lines if argv[0] != "verify" else lines[-1:]
    good = found == code and len(errors) == 1
    if (
      not good or not errors[0].startswith("error: ") or words not in errors[0]
    ):
      wrong.append(f"{name}: exit {found}, want {code} and {words!r}: {lines}")
    if canary.exists():
      wrong.append(f"{name}: its code was run")
      canary.unlink()
    count += 1
  assert not wrong, "\n".join(wrong)
  assert count >= 50


def test_code_beside_sound_weights_is_not_run(tmp_path, canary):
  """A hub's folder may name code; a family that we know needs none."""
  folder = malicious_weights.model(
    tmp_path, auto_map=malicious_weights.AUTO_MAP, trust_remote_code=True
  )
  payload = Payload(str(canary))
  for name in ("modeling_evil.py", "__init__.py", "config.py"):
    (folder / name).write_text(payload.code)
  (folder / "training_args.bin").write_bytes(pickle.dumps(payload))
  tokenizer_files.save_tokenizer(tiny_gguf_tokenizer(tmp_path), folder)
  found = load.load_weights(str(folder))
  assert found.config_kwargs["layers"] == 3
  assert not canary.exists() and "modeling_evil" not in sys.modules


def tiny_gguf_tokenizer(folder):
  return load.load_weights(
    str(tiny_gguf.write(folder / "m.gguf", "tied"))
  ).tokenizer
