"""Tokenizers, templates, data and run folders that are made to harm."""

import dataclasses
import gzip
import json
import pickle

from tests import verify_test
from tests.models.weights import bad_weights_test
from xpo_jax import config, sealing
from xpo_jax.models.weights import tokenizer_files
from xpo_jax.models.weights.tokenizer import byte_tokenizer

ROW = '{"prompt": "Name a colour.", "chosen": " Blue.", "rejected": " 7."}\n'

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
