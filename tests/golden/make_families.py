"""Makes families.json: what transformers says of random models of each family.

Run in a throw-away environment, never in the project's: the numbers must come
from an independent implementation. From the repository's root:

  pip install torch transformers safetensors numpy
  python tests/golden/make_families.py
"""

import importlib.metadata
import json
from pathlib import Path
import re
import sys
import tempfile

import numpy as np
from safetensors import safe_open
import torch
import transformers
from transformers import (
  AutoConfig,
  AutoModelForCausalLM,
  AutoModelForSequenceClassification,
)

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.models.weights import tiny_families as tiny  # noqa: E402

DATE = "2026-11-23"
SHOWN = (0, 5, 8, 13, 19, 23, 40, 54)  # positions whose logits are stored
# Keys of config.json whose change must move the logits, by case.
DETAILS = {
  "llama": dict(rope_scaling=None, rope_theta=490.0, rms_norm_eps=1e-6),
  "llama_linear": dict(rope_scaling=None),
  "llama_yarn": dict(rope_scaling=None),
  "mistral": dict(sliding_window=7),
  "qwen2": dict(sliding_window=7, max_window_layers=2),
  "qwen3": dict(rms_norm_eps=1e-6),
  "gemma2": dict(
    sliding_window=6,
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
    query_pre_attn_scalar=12,
  ),
  "gemma3": dict(
    sliding_window=6,
    sliding_window_pattern=2,
    rope_local_base_freq=500.0,
    rope_scaling=None,
    query_pre_attn_scalar=12,
  ),
  "gpt2": dict(activation_function="gelu", layer_norm_epsilon=1e-6),
  "gpt_neox": dict(
    rotary_pct=1.0, hidden_act="gelu_new", use_parallel_residual=False
  ),
  "gpt_neox_serial": dict(use_parallel_residual=True),
}


def _load(kind, folder: Path):
  model, found = kind.from_pretrained(
    folder,
    dtype=torch.float64,
    attn_implementation="eager",
    output_loading_info=True,
  )
  wrong = {k: v for k, v in found.items() if v}
  if wrong:
    raise SystemExit(f"{folder}: {wrong}")
  return model.eval()


def _shapes(folder: Path) -> dict[str, list[int]]:
  """Names and shapes in the file, layers folded into "{}"."""
  found = {}
  with safe_open(folder / "model.safetensors", framework="np") as f:
    for name in sorted(f.keys()):
      short = re.sub(r"\.\d+\.", ".{}.", name)
      found[short] = list(f.get_slice(name).get_shape())
  return found


def _logits(folder: Path, ids) -> np.ndarray:
  model = _load(AutoModelForCausalLM, folder)
  with torch.no_grad():
    return model(torch.tensor([ids])).logits[0].double().numpy()


def _greedy(model, ids: list[int]) -> tuple[list[int], float]:
  """32 likeliest tokens after ids, one full pass each, and the least lead."""
  ids, lead = list(ids), np.inf
  for _ in range(tiny.NEW_TOKENS):
    with torch.no_grad():
      last = model(torch.tensor([ids])).logits[0, -1].numpy()
    second, first = np.sort(last)[-2:]
    lead = min(lead, first - second)
    ids.append(int(np.argmax(last)))
  return ids[len(tiny.PROMPT) :], float(lead)


def _make(case: str, scratch: Path) -> dict:
  old = tiny.CASES[case]
  config = AutoConfig.for_model(**json.loads(json.dumps(old)))
  AutoModelForCausalLM.from_config(config).save_pretrained(scratch / "own")
  new = json.loads((scratch / "own/config.json").read_text())
  new.pop("transformers_version")
  shapes = _shapes(scratch / "own")
  model = _load(
    AutoModelForCausalLM, tiny.write(scratch / "old", case, old, shapes)
  )
  tokens, lead = _greedy(model, tiny.PROMPT)
  whole = [*tiny.PROMPT, *tokens]
  logits = _logits(scratch / "old", whole)
  other = _logits(tiny.write(scratch / "new", case, new, shapes), whole)
  if not np.array_equal(logits, other):
    raise SystemExit(f"{case}: config.json in both layouts differ")
  moves = {}
  for key, value in DETAILS[case].items():
    changed = tiny.write(
      scratch / key, case, json.loads(json.dumps(old)) | {key: value}, shapes
    )
    gap = np.abs(_logits(changed, whole)[-1] - logits[-1]).max()
    moves[f"{key}={value}"] = round(float(gap), 4)
  if lead < 1e-3 or min(moves.values()) < 2e-3:
    raise SystemExit(f"{case}: lead {lead}, moves {moves}")
  shifted = logits - logits.max(-1, keepdims=True)
  logps = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  return dict(
    config=new,
    shapes=shapes,
    logits={i: np.round(logits[i], 6).tolist() for i in SHOWN},
    logps=[round(float(logps[i, t]), 7) for i, t in enumerate(whole[1:])],
    greedy=tokens,
    lead=round(lead, 4),
    moves=moves,
    reward=_reward(case, scratch),
  )


def _reward(case: str, scratch: Path) -> dict:
  """The score of the prompt under a sequence-classification folder."""
  old = json.loads(json.dumps(tiny.CASES[case])) | {"num_labels": 1}
  config = AutoConfig.for_model(**old)
  kind = AutoModelForSequenceClassification
  kind.from_config(config).save_pretrained(scratch / "rm_own")
  new = json.loads((scratch / "rm_own/config.json").read_text())
  new.pop("transformers_version")
  shapes = _shapes(scratch / "rm_own")
  model = _load(kind, tiny.write(scratch / "rm", case, new, shapes))
  with torch.no_grad():
    score = model(torch.tensor([tiny.PROMPT])).logits
  return dict(config=new, shapes=shapes, score=round(score.item(), 7))


def main() -> None:
  torch.set_num_threads(1)
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  names = ("torch", "transformers")
  versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
  provenance = dict(
    date=DATE,
    library=versions,
    command="python tests/golden/make_families.py",
    note="float64, eager attention, float32 weights of tiny_families.py; logits"
    " and log-probs of prompt + greedy tokens; lead: least gap between the"
    " likeliest and the second token; moves: greatest change of the last"
    " logits when the key is changed",
  )
  cases = {}
  for case in tiny.CASES:
    with tempfile.TemporaryDirectory() as scratch:
      cases[case] = _make(case, Path(scratch))
    print(case, cases[case]["lead"], cases[case]["moves"], flush=True)
    print(" ", cases[case]["greedy"], cases[case]["reward"]["score"])
  golden = dict(provenance=provenance, prompt=tiny.PROMPT, cases=cases)
  text = json.dumps(golden, indent=None, separators=(",", ":"))
  tiny.GOLDEN.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
