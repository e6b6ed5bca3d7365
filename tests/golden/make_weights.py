"""Makes the reference numbers of the weight readers.

Run in a throw-away environment, never in the project's: the numbers must come
from independent implementations. From the repository's root:

  pip install llama-cpp-python torch transformers safetensors numpy
  python tests/golden/make_weights.py llama FILE.gguf
  python tests/golden/make_weights.py torch FOLDER     # after `llama`
  python tests/golden/make_weights.py tiny

FILE.gguf is the model of the preset smollm2-135m-instruct; FOLDER is that model
as the project exports it (float32), so `torch` proves the export and the
forward pass, and `llama` the reading of the GGUF file.
"""

import importlib.metadata
import json
from pathlib import Path
import sys
import tempfile

import numpy as np

HERE = Path(__file__).parent
LOGPS = HERE / "smollm2_logps.json"
TINY = HERE / "tiny_llama_logits.json"
DATE = "2026-11-23"
SENTENCES = (
  "The lighthouse keeper wrote down the weather every evening, and on the 14th"
  " of March 1907 he drew a small whale beside the barometer reading.",
  "<|im_start|>user\nName three things a baker checks before opening the oven."
  "<|im_end|>\n<|im_start|>assistant\nA baker checks the temperature, the time,"
  " and the colour of the crust.<|im_end|>\n",
  "def area(width, height):\n    # rectangles only\n    return width * height\n"
  "\nprint(area(3, 4))  # naïve café test: 東京 \U0001f680",
)
TEXTS = (
  "Hello world",
  "The year 2018 had 365 days,  and 7.5% were wet.",
  "It's a dog's life; we'll see what they'd've done. I'LL SHOUT!!! ...\r\nok",
  "  leading,\ttab \n\n\n and trailing  ",
  "naïve café Ωμέγα 東京 \U0001f469\U0001f3fd\u200d\U0001f680 e\u0301 \x00"
  " x\u202e",
  "١٢٣ ½ ² Ⅷ 12",
  "<|im_end|><|im_start|>system",
  "\u00a0nbsp\u3000ideographic\u2028line",
)


def _log_softmax(x: np.ndarray) -> np.ndarray:
  x = x.astype(np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _taken(logits: np.ndarray, ids: list[int]) -> list[float]:
  logps = _log_softmax(logits)
  return [round(float(logps[i, t]), 7) for i, t in enumerate(ids[1:])]


def _version(*names: str) -> str:
  return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)


def make_llama(path: str) -> None:
  import llama_cpp

  model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
  encode = lambda text, special: [
    int(i)
    for i in model.tokenize(text.encode(), add_bos=False, special=special)
  ]
  ids = [encode(text, True) for text in SENTENCES]
  with tempfile.TemporaryDirectory() as folder:
    whole = str(Path(folder) / "f32.gguf")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    settings.allow_requantize = True
    llama_cpp.llama_model_quantize(path.encode(), whole.encode(), settings)
    f32 = _llama_logps(whole, ids)
  rows = zip(SENTENCES, ids, f32, _llama_logps(path, ids))
  sentences = [
    dict(text=t, ids=i, llama_cpp_f32=a, llama_cpp_q4=b) for t, i, a, b in rows
  ]
  provenance = dict(
    date=DATE,
    llama_cpp=_version("llama-cpp-python"),
    command="python tests/golden/make_weights.py llama FILE.gguf",
    note="llama_cpp_f32: dequantised by llama.cpp itself, then float32;"
    " llama_cpp_q4: the file as it is, activations rounded to 8 bits."
    " Key-value cache float32.",
  )
  texts = [dict(text=t, ids=encode(t, False)) for t in TEXTS]
  _write(LOGPS, dict(provenance=provenance, texts=texts, sentences=sentences))


def _llama_logps(path: str, sentences: list[list[int]]) -> list[list[float]]:
  import llama_cpp

  model = llama_cpp.Llama(
    path,
    logits_all=True,
    n_ctx=512,
    n_threads=1,
    type_k=llama_cpp.GGML_TYPE_F32,
    type_v=llama_cpp.GGML_TYPE_F32,
    verbose=False,
  )
  logps = []
  for ids in sentences:
    model.reset()
    model.eval(ids)
    logps.append(_taken(np.asarray(model.scores[: len(ids)]), ids))
  return logps


def make_torch(folder: str) -> None:
  import torch
  import transformers

  torch.set_num_threads(1)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  golden = json.loads(LOGPS.read_text(encoding="utf-8"))
  for sentence in golden["sentences"]:
    ids = tokenizer(sentence["text"]).input_ids
    if ids != sentence["ids"]:
      raise SystemExit(f"token ids differ: {ids} {sentence['ids']}")
    with torch.no_grad():
      logits = model(torch.tensor([ids])).logits[0].double().numpy()
    sentence["torch"] = _taken(logits, ids)
  golden["provenance"] |= dict(
    torch=_version("torch", "transformers"),
    torch_command="python tests/golden/make_weights.py torch FOLDER",
    torch_note="float32, eager attention, the folder the project exports",
  )
  _write(LOGPS, golden)


def make_tiny() -> None:
  import torch
  import transformers

  sys.path.insert(0, str(HERE.parents[1]))
  from tests.models.weights import tiny_llama

  provenance = dict(
    date=DATE,
    library=_version("torch", "transformers"),
    command="python tests/golden/make_weights.py tiny",
    note="LlamaForCausalLM in float64 on the float32 weights of tiny_llama.py",
  )
  golden = dict(provenance=provenance, tokens=tiny_llama.TOKENS, logits={})
  for case in tiny_llama.CASES:
    with tempfile.TemporaryDirectory() as folder:
      tiny_llama.write(Path(folder), case)
      model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
      )
    with torch.no_grad():
      logits = model(torch.tensor([tiny_llama.TOKENS])).logits[0]
    golden["logits"][case] = np.round(logits.numpy(), 6).tolist()
  _write(TINY, golden)


def _write(path: Path, value: dict) -> None:
  text = json.dumps(value, ensure_ascii=True)
  path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
  command, *rest = sys.argv[1:]
  {"llama": make_llama, "torch": make_torch, "tiny": make_tiny}[command](*rest)
