"""Folders and files of weights that are made to harm, and the payload."""

import dataclasses
import json
import os
import pickle
import struct
import zipfile

import numpy as np

from tests.models.weights import bad_weights_test, tiny_gguf, tiny_llama


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


# A case is (what makes it, exit code, words of the line).


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
