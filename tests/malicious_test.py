"""Files made to harm: none runs code, each ends `xpo` with one line, soon.

Every case is a process of its own with limits of CPU time and memory, so that
what hangs or swells is killed and fails the test. All payloads would create one
file, the canary.
"""

import dataclasses
import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests import runs, verify_test
from tests.faults.farm import Farm
from tests.models.weights import bad_weights_test, tiny_gguf, tiny_llama
from xpo_jax import config, sealing
from xpo_jax.models.weights import load, tokenizer_files
from xpo_jax.models.weights.tokenizer import byte_tokenizer

CPU_SECONDS = 5  # of a case
MEMORY = 8 << 30  # address space; python with jax alone has 4 GiB of it
ROW = '{"prompt": "Name a colour.", "chosen": " Blue.", "rejected": " 7."}\n'


@dataclasses.dataclass(frozen=True)
class Payload:
  """As a pickle, a program and a template it creates the canary."""

  canary: str

  def __reduce__(self):
    return os.system, (f"touch {self.canary}",)

  @property
  def code(self) -> str:
    return f"import os\nos.system('touch {self.canary}')\n"

  @property
  def calls(self) -> str:
    return f".os.system('touch {self.canary}')"


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
  import jinja2

  one = Payload(str(tmp_path / "a"))
  script = "import pickle, sys; pickle.load(sys.stdin.buffer)"
  subprocess.run([sys.executable, "-c", script], input=pickle.dumps(one))
  two = Payload(str(tmp_path / "b"))
  subprocess.run([sys.executable, "-c", two.code])
  three = Payload(str(tmp_path / "c"))
  jinja2.Template(TEMPLATES["escape by globals"][0](three)).render()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


# Folders and files of weights: (what makes it, exit code, words of the line).


def model(folder, **changes):
  """A sound folder whose config.json has these changes."""
  return tiny_llama.write(folder / "m", "tied", **changes)


def without_weights(folder):
  path = model(folder)
  (path / "model.safetensors").unlink()
  return path


def pickled(folder, payload):
  path = without_weights(folder)
  (path / "pytorch_model.bin").write_bytes(pickle.dumps(payload))
  return path


def torch_zip(folder, payload):
  path = without_weights(folder)
  with zipfile.ZipFile(path / "model.pt", "w") as z:
    z.writestr("archive/data.pkl", pickle.dumps(payload))
  return path


def pickle_as_safetensors(folder, payload):
  path = model(folder)
  (path / "model.safetensors").write_bytes(pickle.dumps(payload))
  return path


def npz(folder, payload):
  array = np.array([payload], object)
  np.savez(folder / "m.npz", a=array)
  return folder / "m.npz"


def safetensors(content):
  def make(folder, _):
    path = model(folder)
    (path / "model.safetensors").write_bytes(content)
    return path

  return make


def index(shard):
  def make(folder, _):
    path = model(folder)
    (path / "model.safetensors").rename(folder / "x.safetensors")
    shards = {"weight_map": {"a": shard.format(folder)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(shards))
    return path

  return make


def link(folder, _):
  (folder / "secret").write_text("mine")
  path = model(folder)
  (path / "chat_template.jinja").symlink_to("../secret")
  return path


def settings(**changes):
  return lambda folder, _: model(folder, **changes)


def config_text(text):
  def make(folder, _):
    (model(folder) / "config.json").write_text(text)
    return folder / "m"

  return make


def remote_code(folder, payload):
  """As a hub's model that needs code of its own."""
  path = model(folder, model_type="evil", auto_map=AUTO_MAP)
  (path / "modeling_evil.py").write_text(payload.code)
  return path


AUTO_MAP = {"AutoModelForCausalLM": "modeling_evil.Evil"}
TEXT = lambda s: struct.pack("<Q", len(s)) + s
FIELD = TEXT(b"a") + struct.pack("<I", 9)  # an array


def gguf(tail, tensors=0, fields=1):
  def make(folder, _):
    path = folder / "m.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, tensors, fields)
    path.write_bytes(start + tail + bytes(64))
    return path

  return make


def tensor(shape, offset) -> bytes:
  axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
  return TEXT(b"t") + axes + struct.pack("<IQ", 0, offset)


def cut_gguf(folder, _):
  path = tiny_gguf.write(folder / "m.gguf", "tied")
  path.write_bytes(path.read_bytes()[:-100])
  return path


BYTES = bad_weights_test.FILES
HUGE = dict(hidden_size=2**31 - 1, intermediate_size=2**31 - 1)
WEIGHTS = {
  "pickle": (pickled, 66, "pickle-based weights are never opened"),
  "torch's zip with a pickle": (torch_zip, 66, "are never opened; convert"),
  "pickle named safetensors": (pickle_as_safetensors, 66, "header"),
  "npz with objects": (npz, 64, "is a file, but not .gguf"),
  **{
    case: (safetensors(BYTES[case][0]), 66, BYTES[case][1])
    for case in BYTES
    if case.startswith(("k17", "k18 h", "k19", "k20", "k21 a t", "k24 1"))
  },
  "index with ..": (index("../x.safetensors"), 66, "not a plain *.safetensors"),
  "index with /": (index("{}/x.safetensors"), 66, "not a plain *.safetensors"),
  "link out of the folder": (link, 66, "the link leaves the folder, to "),
  "a billion layers": (
    settings(num_hidden_layers=10**9),
    66,
    "num_hidden_layers=1000000000, want",
  ),
  "1000 layers of 2^31": (settings(num_hidden_layers=1000, **HUGE), 66, "miss"),
  "a head of 2^31": (settings(head_dim=2**31 - 2), 66, "config.json says"),
  "key twice": (config_text('{"a": 1, "a": 2}'), 66, "key 'a' twice"),
  "NaN": (config_text('{"a": NaN}'), 66, "NaN is no JSON number"),
  "deep": (config_text('{"a":' + "[" * 10**6), 66, "recursion"),
  "code of its own": (remote_code, 66, "model_type='evil' is not supported"),
  "gguf of 2^63 fields": (gguf(b"", 0, 2**63), 66, "announces 0 tensors and 9"),
  "gguf with an array of 2^60": (
    gguf(FIELD + struct.pack("<IQ", 0, 2**60)),
    66,
    "an array of 1152921504606846976 in a file of",
  ),
  "gguf with an array of arrays": (
    gguf(FIELD + struct.pack("<IQ", 9, 1) * 5000),
    66,
    "an array of the type 9",
  ),
  "gguf with a text of 2^62": (
    gguf(struct.pack("<Q", 2**62)),
    66,
    "a text of 4611686018427387904 bytes",
  ),
  "gguf offset that wraps": (
    gguf(tensor([1], 2**64 - 32), 1, 0),
    66,
    "lies beyond the file's end",
  ),
  "gguf shape that wraps": (
    gguf(tensor([2**32, 2**32], 0), 1, 0),
    66,
    "lies beyond the file's end",
  ),
  "gguf cut": (cut_gguf, 66, "lies beyond the file's end"),
}

# Tokenizers and templates: changes of tokenizer.json, or a template.

REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
SPECIAL = {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
PAD = {
  "strategy": {"Fixed": 10**10},
  "direction": "Left",
  "pad_to_multiple_of": None,
  "pad_id": 0,
  "pad_type_id": 0,
  "pad_token": "x",
}
MANY = {"id": "<|im_end|>", "ids": [256] * 10**4, "tokens": ["x"] * 10**4}
TOKENIZERS = {
  "a letter that becomes 10^12": (
    {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 12}},
    "make more than 1000 characters of one",
  ),
  "a pattern of exponential time": (
    {"pre_tokenizer": SPLIT | {"pattern": {"Regex": "(a|aa)+$"}}},
    "a group which can be read in several ways",
  ),
  "10^8 ids before every text": (
    {
      "post_processor": {
        "type": "TemplateProcessing",
        "single": [SPECIAL] * 10**4,
        "pair": [],
        "special_tokens": {"<|im_end|>": MANY},
      }
    },
    "may add 100000000 ids",
  ),
  "a padding of 10^10, no EOS": (
    {"padding": PAD, "added_tokens": []},
    "no EOS token",
  ),
  "a merge of tokens that are not there": (
    {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]] * 99}},
    "its merge ['a', 'a'] is not in the vocabulary",
  ),
}
LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
TEMPLATES = {
  "escape by globals": (
    lambda p: "{{ cycler.__init__.__globals__" + p.calls + " }}",
    "SecurityError",
  ),
  "escape by lipsum": (
    lambda p: "{{ lipsum.__globals__['os']" + p.calls[3:] + " }}",
    "'lipsum' is undefined",
  ),
  "escape by classes": (
    lambda p: "{{ ().__class__.__base__.__subclasses__() }}",
    "SecurityError",
  ),
  "escape by attr": (
    lambda p: "{{ cycler | attr('__init__') | attr('__globals__') }}",
    "leaves a turn out of what it writes",
  ),
  "import": (
    lambda p: "{% include '/etc/passwd' %}",
    "cannot be rendered",
  ),
  "hang": (lambda p: LOOPS, "does not end in 2 s of CPU time"),
  "allocate": (lambda p: "{{ 'a' * 10**9 }}", "needs more than 256 MiB"),
  "recurse": (
    lambda p: "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "cannot be rendered (RecursionError",
  ),
  "deep": (lambda p: "{{ " + "(" * 10**5 + " }}", "the chat template "),
}


def tokenizer(folder, **changes):
  """A folder with a tokenizer alone."""
  (folder / "m").mkdir()
  tokenizer_files.save_tokenizer(byte_tokenizer(), folder / "m")
  for name, value in changes.items():
    path = folder / "m" / "tokenizer.json"
    if name == "chat_template":
      path = folder / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
  return folder / "m"


def inspect(folder, chosen, rows=None):
  data = folder / "rows.jsonl"
  data.write_text(ROW)
  kind = f"--tokenizer={chosen}"
  return ["data", "inspect", str(rows or data), kind, "--template=chat"]


# Data.


def bomb(folder, _):
  path = folder / "a.jsonl.gz"
  path.write_bytes(gzip.compress(ROW.encode() + b" " * 20_000_000))
  return path


def liar(folder, _):
  whole = gzip.compress((b" " * 4095 + b"\n") * 5000)
  path = folder / "a.jsonl.gz"
  path.write_bytes(whole[:-4] + b"\x07\0\0\0")
  return path


def content(name, data):
  def make(folder, payload):
    path = folder / name
    path.write_bytes(pickle.dumps(payload) if data is None else data)
    return path

  return make


def script(folder, payload):
  (folder / "set").mkdir()
  (folder / "set" / "set.py").write_text(payload.code)
  return folder / "set"


DATA = {
  "gzip bomb": (bomb, "over 200 times"),
  "gzip bomb with a false size": (liar, "more than 200 times"),
  "Parquet of garbage": (
    content("a.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1"),
    "not a readable Parquet file",
  ),
  "pickle named jsonl": (content("a.jsonl", None), "is not UTF-8"),
  "pickle": (content("a.pkl", None), "not a kind of file that is read"),
  "deep JSON": (content("a.jsonl", b'{"a":' * 10**5), "nested too deep"),
  "JSON key twice": (content("a.jsonl", b'{"a":1,"a":2}'), "twice in one obj"),
  "NaN in JSON": (content("a.jsonl", b'{"a":NaN}'), "NaN is not JSON"),
  "script of a data set": (script, "remote code refused"),
}


# Run folders: (what makes it, the command's arguments, exit code, words).


def run_folder(folder, payload, meta=verify_test.META, **sizes):
  """A sealed run with these sizes, and code beside it."""
  run = folder / "run"
  verify_test.put(run, 5)
  step = run / "checkpoints" / "5"
  text = meta if isinstance(meta, str) else json.dumps(meta)
  (step / "meta" / "metadata").write_text(text)
  sealing.seal(step, 5)
  transformer = dataclasses.asdict(bad_weights_test.SIZES) | sizes
  saved = {"transformer": transformer, "trunk_blocks": 1, "lora": [0, 1.0]}
  (run / "model.json").write_text(json.dumps(saved))
  chosen = config.base("tiny").unlock()
  chosen.method = config.method("dpo")
  (run / "config.json").write_text(config.to_json(chosen))
  for name in ("config.py", "conftest.py", "json.py", "sitecustomize.py"):
    (run / name).write_text(payload.code)
  return run


def deep_model(folder, payload):
  run = run_folder(folder, payload)
  (run / "model.json").write_text('{"transformer":' * 10**5)
  return run


def deep_config(folder, payload):
  run = run_folder(folder, payload)
  (run / "config.json").write_text('{"method":' * 10**5)
  return run


def path_of_a_step(folder, payload):
  return f"{run_folder(folder, payload)}@../../x"


SAMPLE = ("sample", "--checkpoint={}", "--prompt=x")
CHECKPOINTS = {
  "code as config": (
    run_folder,
    ("train", "--config={}/config.py", "--workdir={}/out"),
    64,
    "in a folder of weights: JSON only there",
  ),
  "arrays that are none": (run_folder, SAMPLE, 66, "state: unreadable ("),
  "step with a path": (path_of_a_step, SAMPLE, 66, "../../x: no step; "),
  "deep model.json": (deep_model, SAMPLE, 66, "not a complete run folder"),
  "deep config.json": (
    deep_config,
    ("train", "--config={}/config.json", "--workdir={}/out"),
    64,
    "recursion",
  ),
  "metadata that are a list": (
    lambda f, p: run_folder(f, p, meta=[1]),
    ("verify", "{}"),
    66,
    "meta/metadata is not of a training run",
  ),
  "deep metadata": (
    lambda f, p: run_folder(f, p, meta="[" * 10**5),
    ("verify", "{}"),
    66,
    "recursion",
  ),
}


def cases(folder, payload):
  """name -> (arguments of xpo, exit code, words)."""
  place = iter(range(10**6))

  def fresh():
    made = folder / str(next(place))
    made.mkdir()
    return made

  for name, (make, code, words) in WEIGHTS.items():
    source = make(fresh(), payload)
    yield name, ["sample", f"--model={source}", "--prompt=x"], code, words
  for name, (changes, words) in TOKENIZERS.items():
    here = fresh()
    path = tokenizer(here, **changes)
    if "EOS" in words:
      (path / "tokenizer_config.json").unlink()
    yield name, inspect(here, path), 66, words
  for name, (make, words) in TEMPLATES.items():
    here = fresh()
    path = tokenizer(here, chat_template=make(payload))
    yield f"template: {name}", inspect(here, path), 66, words
  for name, (make, words) in DATA.items():
    here = fresh()
    rows = make(here, payload)
    yield name, inspect(here, tokenizer(here), rows), 65, words
  for name, (make, args, code, words) in CHECKPOINTS.items():
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
  folder = model(tmp_path, auto_map=AUTO_MAP, trust_remote_code=True)
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
