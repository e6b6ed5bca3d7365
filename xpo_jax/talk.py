"""`xpo sample`: completions of given prompts, or a chat in the terminal."""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from xpo_jax import likeliest, pretrained, progress, stored
from xpo_jax.data import templates
from xpo_jax.data.records import Message, Prompt
from xpo_jax.errors import XpoError, usage_error
from xpo_jax.models.weights.load import load_weights
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.models.weights.tokenizer_files import tokenizer_from_folder

_HELP = "/reset starts anew, /quit or Ctrl-D ends"


def open_model(
  source: str, template: str = "auto"
) -> tuple[pretrained.Pretrained, templates.Template, bool]:
  """A model, how prompts become its ids, and whether it is for chats.

  Args:
    source: anything that `load_pretrained` takes.
    template: plain, chat, or auto: that of the run, also of an exported one;
      else chat if the tokenizer has a chat template.

  Raises:
    XpoError: no model there, or it has no tokenizer.
  """
  model = pretrained.load_pretrained(source)
  if model.tokenizer is None:
    raise usage_error(
      f"{source} has no tokenizer, so texts cannot be read; add tokenizer.json"
    )
  if template == "auto":
    template = _template_of_run(stored.split_source(source)[0])
  template = template or templates.usual(model.tokenizer)
  made = templates.make_template(model.tokenizer, template)
  return model, made, template == "chat"


def load_tokenizer(source: str) -> Tokenizer:
  """The tokenizer of a run, a folder, a preset or a .gguf file.

  Raises:
    XpoError: nothing there, or no tokenizer in it.
  """
  folder, _ = stored.split_source(source)
  if folder.is_dir():
    run = folder / "tokenizer"
    found = tokenizer_from_folder(run if run.is_dir() else folder)
  else:
    found = load_weights(source).tokenizer
  if found is None:
    raise usage_error(f"{source} has no tokenizer; add tokenizer.json")
  return found


def complete(
  model: pretrained.Pretrained,
  template: templates.Template,
  prompts: Sequence[Prompt],
  options: dict[str, Any],
) -> list[str]:
  """One completion a prompt.

  Args:
    model: with a tokenizer.
    template: of `open_model`.
    prompts: texts or conversations.
    options: of `sample_options.options`.
  """
  ids = [np.asarray(template.prompt(p), np.int32) for p in prompts]
  for prompt, row in zip(prompts, ids):
    if not len(row):
      raise usage_error(f"prompt {prompt!r} is empty; give some text")
  end = {"end_id": template.end_id}
  if "beams" in options:
    found = likeliest.completions(model, ids, **options, **end)
    return [texts[0][0] for texts in found]
  return [texts[0] for texts in model.sample(ids, **options, **end)[1]]


def show(prompts: Sequence[str], texts: Sequence[str], chats: bool) -> None:
  """Prints prompts and completions; control characters become spaces.

  An answer of a chat starts a line of its own; a continuation does not.
  """
  console = progress.make_console()
  for prompt, text in zip(prompts, texts, strict=True):
    line = Text(progress.plain(prompt, console), style="cyan")
    line.append("\n" if chats else "")
    line.append(progress.plain(text, console), style="default")
    console.print(line, soft_wrap=True)


def loop(
  model: pretrained.Pretrained,
  template: templates.Template,
  chats: bool,
  options: dict[str, Any],
) -> None:
  """Reads lines until /quit or the end of the input.

  A chat model sees the whole conversation; another one only the line.
  """
  console = Console(highlight=False)
  console.print(_HELP, style="dim")
  turns: list[Message] = []
  options = dict(options)
  while (line := _read(console)) not in (None, "/quit"):
    if line == "/reset":
      turns = []
    if not line or line == "/reset":
      continue
    asked = [*turns, Message("user", line)]
    prompt = tuple(asked) if chats else line
    try:
      (text,) = complete(model, template, [prompt], options)
    except XpoError as e:
      console.print(Text(f"{e} (/reset starts anew)", style="red"))
      continue
    if "seed" in options:  # beams have none
      options["seed"] += 1
    turns = [*asked, Message("assistant", text)]
    console.print(Text(progress.plain(text, console)), soft_wrap=True)


def _read(console: Console) -> str | None:
  """A line without its ends, or None at the end of the input."""
  try:
    return console.input("[bold cyan]> [/]").strip()
  except EOFError:
    return None


def _template_of_run(folder: Path) -> str:
  """data.template of a run's config.json; "" if this is no run."""
  if not (folder / "model.json").is_file():
    return ""
  try:
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return saved["data"]["template"]
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return ""
