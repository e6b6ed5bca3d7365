"""Tokenizers in files: GGUF in, Hugging Face folders in and out."""

import json
from pathlib import Path

import tokenizers
from tokenizers import models, processors

from xpo_jax.errors import checkpoint_error, first_line
from xpo_jax.models.weights import json_file, links, tokenizer_limits
from xpo_jax.models.weights.tokenizer import (
  Tokenizer,
  byte_level,
  control_token,
)

OURS = "xpo"  # key of what other tools pass over
GGUF_CONTROL = 3  # token_type values of the GGUF specification
GGUF_USER_DEFINED = 4


def tokenizer_from_gguf(reader) -> Tokenizer:
  """The tokenizer inside an open `gguf.GGUFReader`.

  Raises:
    XpoError: (66) fields missing, or a kind that is not byte-level BPE with
      the "smollm" or "gpt-2" splitting.
  """
  field = lambda name, default=None: _gguf_value(
    reader, f"tokenizer.ggml.{name}", default
  )
  kind, pre = field("model"), field("pre", "gpt-2")
  if kind != "gpt2" or pre not in ("smollm", "gpt-2"):
    raise checkpoint_error(
      f"tokenizer {kind!r} with splitting {pre!r} is not supported in GGUF"
      " (only gpt2 with smollm or gpt-2); use the model's Hugging Face folder"
    )
  tokens = _list(field("tokens"), "tokens", str)
  merges = _list(field("merges"), "merges", str)
  kinds = _list(field("token_type", [1] * len(tokens)), "token_type", int)
  vocab = {text: i for i, text in enumerate(tokens)}
  if not len(vocab) == len(tokens) == len(kinds):
    raise checkpoint_error(
      f"tokenizer has {len(tokens)} tokens, {len(vocab)} of them different, and"
      f" {len(kinds)} token types; want equal numbers"
    )
  eos = _gguf_id(field("eos_token_id"), "eos_token_id", tokens)
  kinds[eos] = GGUF_CONTROL  # or user text could spell it
  pairs = [tuple(m.split(" ", 1)) for m in merges]
  try:
    tokenizer_limits.check_merges(vocab, pairs)
    core = byte_level(models.BPE(vocab=vocab, merges=pairs), pre == "smollm")
  except Exception as e:  # the library raises a bare Exception
    raise checkpoint_error(f"tokenizer: {first_line(e)}") from e
  core.add_special_tokens(
    [control_token(t) for t, k in zip(tokens, kinds) if k == GGUF_CONTROL]
  )
  core.add_tokens([t for t, k in zip(tokens, kinds) if k == GGUF_USER_DEFINED])
  bos = None
  if field("add_bos_token", False):
    bos = _gguf_id(field("bos_token_id"), "bos_token_id", tokens)
    _start_with(core, tokens[bos], bos)
  template = _gguf_value(reader, "tokenizer.chat_template", None)
  return Tokenizer(core, eos, bos, template, "the GGUF file's metadata")


def _list(value, name: str, kind: type) -> list:
  whole = isinstance(value, list) and all(isinstance(x, kind) for x in value)
  if not whole or not value:
    raise checkpoint_error(f"tokenizer field {name!r} is missing or damaged")
  return list(value)


def _gguf_id(value, name: str, tokens: list[str]) -> int:
  if not isinstance(value, int) or not 0 <= value < len(tokens):
    raise checkpoint_error(
      f"tokenizer field {name}={value!r}, want an id below {len(tokens)}"
    )
  return value


def _start_with(core: tokenizers.Tokenizer, text: str, token_id: int) -> None:
  """Makes other tools add this BOS too, once exported."""
  core.post_processor = processors.TemplateProcessing(
    single=f"{text} $A", pair=f"{text} $A $B", special_tokens=[(text, token_id)]
  )


def _gguf_value(reader, key: str, default):
  found = reader.fields.get(key)
  return default if found is None else found.contents()


def tokenizer_from_folder(folder: str | Path) -> Tokenizer | None:
  """The tokenizer of a Hugging Face folder; None without a tokenizer.json.

  Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json and
  chat_template.jinja (which wins over the template in the config); the EOS id
  of generation_config.json or config.json serves if no EOS token is named.

  Raises:
    XpoError: (66) a file that cannot be read, or no EOS.
  """
  folder = Path(folder)
  path = folder / "tokenizer.json"
  if not path.is_file():
    return None
  links.refuse_foreign(folder)
  settings = json_file.read_json_if_there(
    folder / "special_tokens_map.json"
  ) | json_file.read_json_if_there(folder / "tokenizer_config.json")
  content = json_file.read_json(path)
  try:
    tokenizer_limits.check(content)
  except ValueError as e:
    raise checkpoint_error(f"{path}: {e}; this file is refused") from e
  content |= {"padding": None, "truncation": None}  # masks are places
  eos, bos = _token(settings, "eos_token"), _token(settings, "bos_token")
  _mark_control(content, [eos, bos, *_extra_control(settings)])
  try:
    core = tokenizers.Tokenizer.from_str(json.dumps(content))
  except Exception as e:  # the library raises a bare Exception
    raise checkpoint_error(
      f"{path}: not a tokenizer ({first_line(e)}); copy the file again"
    ) from e
  eos_id = core.token_to_id(eos) if eos else _eos_of_config(folder)
  if eos_id is None or core.id_to_token(eos_id) is None:
    raise checkpoint_error(
      f"{folder / 'tokenizer_config.json'}: no EOS token"
      f" ({eos or eos_id or 'eos_token'} unknown); name one of the vocabulary"
    )
  added = core.encode("", add_special_tokens=True).ids
  bos_id = core.token_to_id(bos) if bos else None
  starts = settings.get("add_bos_token") or bos_id in added[:1]
  bos_id = bos_id if starts else None
  _add_control(core, [eos_id, bos_id])
  template, file = _template(folder, settings)
  ours = settings.get(OURS)
  own = lambda key: _token(ours if isinstance(ours, dict) else {}, key) or ""
  return Tokenizer(
    core,
    eos_id,
    bos_id,
    chat_template=template,
    template_file=str(file),
    template_date=own("template_date"),
    trained_with=own("trained_with"),
  )


def _token(settings: dict, name: str) -> str | None:
  """A token is a string or {"content": string}."""
  value = settings.get(name)
  value = value.get("content") if isinstance(value, dict) else value
  return value if isinstance(value, str) else None


def _extra_control(settings: dict) -> list[str]:
  names = settings.get("additional_special_tokens")
  names = names if isinstance(names, list) else []
  return [n.get("content") if isinstance(n, dict) else n for n in names]


def _mark_control(content: dict, names: list[str | None]) -> None:
  """Some folders forget `special` on EOS; then user text could spell it."""
  added = content.get("added_tokens")
  for token in added if isinstance(added, list) else []:
    if isinstance(token, dict) and token.get("content") in names:
      token["special"] = True


def _add_control(core: tokenizers.Tokenizer, ids: list[int | None]) -> None:
  """Others name an EOS that is a plain word of the vocabulary."""
  control = {i for i, t in core.get_added_tokens_decoder().items() if t.special}
  missing = [i for i in ids if i is not None and i not in control]
  core.add_special_tokens([control_token(core.id_to_token(i)) for i in missing])


def _eos_of_config(folder: Path) -> int | None:
  for name in ("generation_config.json", "config.json"):
    value = json_file.read_json_if_there(folder / name).get("eos_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if type(value) is int and 0 <= value < 2**31:
      return value
  return None


def _template(folder: Path, settings: dict) -> tuple[str | None, Path]:
  """The template and its file."""
  path = folder / "chat_template.jinja"
  if path.is_file():
    try:
      return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as e:
      raise checkpoint_error(f"{path}: {first_line(e)}") from e
  value = settings.get("chat_template")
  if isinstance(value, list):  # [{"name": "default", "template": ...}, ...]
    wanted = lambda x: isinstance(x, dict) and x.get("name") == "default"
    value = next((x.get("template") for x in value if wanted(x)), None)
  value = value if isinstance(value, str) else None
  return value, folder / "tokenizer_config.json"


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
  """Writes tokenizer.json and tokenizer_config.json as Hugging Face reads."""
  folder = Path(folder)
  json_file.write_json(
    folder / "tokenizer.json", json.loads(tokenizer.core.to_str())
  )
  eos = tokenizer.core.id_to_token(tokenizer.eos_id)
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": eos,
    "pad_token": eos,
    "add_bos_token": tokenizer.bos_id is not None,
    "clean_up_tokenization_spaces": False,
  }
  if tokenizer.bos_id is not None:
    settings["bos_token"] = tokenizer.core.id_to_token(tokenizer.bos_id)
  if tokenizer.chat_template is not None:
    settings["chat_template"] = tokenizer.chat_template
  ours = {k: getattr(tokenizer, k) for k in ("template_date", "trained_with")}
  if any(ours.values()):
    settings[OURS] = {k: v for k, v in ours.items() if v}
  json_file.write_json(folder / "tokenizer_config.json", settings)
