"""The checks behind `config.validate`, each a one-line error with its mend.

Cheap: no model, no data, no devices touched. The last two functions take
numbers that are known only later (the model's shape, the number of steps).
"""

from collections.abc import Iterable, Mapping
import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from xpo_jax.errors import XpoError, usage_error
from xpo_jax.fields import FIELDS

_KINDS = {
  bool: "True or False",
  int: "an integer",
  float: "a number",
  str: "a text",
  ConfigDict: "a section",
}


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Dotted path -> value of every leaf."""
  flat = {}
  for key, value in config.items():
    path = f"{prefix}{key}"
    if isinstance(value, ConfigDict | dict):
      flat |= leaves(value, f"{path}.")
    else:
      flat[path] = value
  return flat


def unknown_key(path: str, known: Iterable[str]) -> XpoError:
  """The error for a key that does not exist, with the nearest that does."""
  known = sorted(known)
  near = difflib.get_close_matches(path, known, 1, 0.6)
  if not near:  # the right leaf in the wrong section, or only a leaf
    last = path.rpartition(".")[2]
    by_leaf = {k.rpartition(".")[2]: k for k in known}
    near = [by_leaf[n] for n in difflib.get_close_matches(last, by_leaf, 1)]
  section = path.split(".")[0] + "."
  siblings = [k for k in known if k.startswith(section)]
  if near:
    mend = f"did you mean {near[0]!r}?"
  else:
    sections = sorted({k.split(".")[0] for k in known})
    mend = f"choose among {', '.join(siblings or sections)}"
  return usage_error(f"config key {path!r} is unknown; {mend}")


def check_keys(
  config: ConfigDict, whole: ConfigDict, partial: bool = False
) -> None:
  """Same keys as `whole`, and values of the same types."""
  given, wanted = leaves(config), leaves(whole)
  for path, value in given.items():
    if path not in wanted:
      raise unknown_key(path, wanted)
    if path.startswith("method.") and path != "method.name":
      continue  # check_method knows unions and enums
    if not _same_type(value, wanted[path]):
      kind = _KINDS.get(type(wanted[path]), "of another type")
      raise usage_error(f"{path}={value!r} must be {kind}")
  if not partial:
    for path in wanted:
      if path not in given and not path.startswith("method."):
        raise usage_error(
          f"config key {path!r} is missing; start from config.base()"
        )


def check_values(config: ConfigDict) -> None:
  """Required keys, choices, ranges, no NaN and no infinity."""
  for path, value in leaves(config).items():
    field = FIELDS.get(path)
    if field is None:
      continue
    if field.required and not value:
      raise usage_error(
        f"{path} is required: {field.help}; set --config.{path}=..."
      )
    if field.choices and value not in field.choices:
      near = difflib.get_close_matches(value, field.choices, 1)
      hint = f"did you mean {near[0]!r}? " if near else ""
      raise usage_error(
        f"{path}={value!r}: {hint}choose one of {', '.join(field.choices)}"
      )
    if isinstance(value, float) and not math.isfinite(value):
      words = field.words or "finite"
      raise usage_error(f"{path}={value} must be a number {words}")
    if field.holds is not None and not field.holds(value):
      raise usage_error(f"{path}={value} must be {field.words}")


def check_method(config: ConfigDict) -> None:
  """The method exists and takes these keywords, and its samples a judge."""
  from xpo_jax import judge_options, methods  # imports jax
  from xpo_jax.online import settings as online

  keywords = {k: v for k, v in config.method.items() if k != "name"}
  chosen = methods.get(config.method.name)
  settings = chosen.settings(keywords)
  online.check(config, chosen, settings)
  for name in ("judge", "gold"):
    if config[name].name:
      judge_options.check(config[name], name)
  needs = chosen.needs(settings)
  if config.aux.method:
    needs |= methods.get(config.aux.method).needs({})
  needed = "reference_logps" in needs or online.wants_reference(config)
  if config.reference.source and not needed:
    raise usage_error(
      f"reference.source={config.reference.source!r}: {chosen.id} uses no "
      "reference with these keywords; leave it empty"
    )


def check_auxiliary(config: ConfigDict) -> None:
  """aux.method and aux.source come together, and the method can be one."""
  from xpo_jax import auxiliary  # imports jax

  aux = config.aux
  if aux.method and not aux.source:
    raise usage_error(
      f"aux.method={aux.method!r} has no data; set aux.source to a file or "
      "films"
    )
  if aux.source and not aux.method:
    raise usage_error(
      f"aux.source={aux.source!r} is used by no loss; set aux.method, for "
      "example sft"
    )
  auxiliary.method_of(config)


def check_together(config: ConfigDict) -> None:
  """Values that exclude each other."""
  train, data, batch = config.train, config.data, config.batch
  if train.steps and train.epochs:
    raise usage_error(
      f"train.steps={train.steps} and train.epochs={train.epochs} are both "
      "set; set the other one to 0"
    )
  if not train.steps and not train.epochs:
    raise usage_error(
      "train.steps and train.epochs are both 0; set exactly one of them"
    )
  if train.steps:
    check_steps(config, train.steps)
  longest = data.max_prompt_length + data.max_completion_length
  if longest > batch.row_length:
    raise usage_error(
      f"data.max_prompt_length={data.max_prompt_length} + "
      f"data.max_completion_length={data.max_completion_length} = {longest} "
      f"do not fit batch.row_length={batch.row_length}; "
      f"set batch.row_length={longest} or shorten them"
    )
  if data.template_date and data.template != "chat":
    raise usage_error(
      f"data.template_date={data.template_date!r} is for chat templates, but "
      f"data.template={data.template!r}; set that to 'chat' or leave the date "
      "out"
    )
  if config.lora.l1 and not config.lora.rank:
    raise usage_error(
      f"lora.l1={config.lora.l1} is a penalty on adapters, but lora.rank=0; "
      "set lora.rank, for example to 16"
    )
  check_context(config, config.model.max_length, "model.max_length")
  fixed = [max(1, config.mesh[axis]) for axis in ("data", "fsdp", "tensor")]
  check_batch(config, tuple(fixed))
  if list(config.mesh.values()).count(-1) > 1:
    raise usage_error(
      "mesh: more than one axis is -1; only one can take what is left"
    )


def check_context(config: ConfigDict, context: int, name: str) -> None:
  """C14: prompt + completion within a context of `context` tokens (0 = any)."""
  data = config.data
  longest = data.max_prompt_length + data.max_completion_length
  if context and longest > context:
    raise usage_error(
      f"data.max_prompt_length={data.max_prompt_length} + "
      f"data.max_completion_length={data.max_completion_length} = {longest} "
      f"> {name}={context}; shorten them to {context} together"
    )


def check_batch(config: ConfigDict, mesh: tuple[int, int, int]) -> None:
  """C11: every device gets the same number of prompts in every microbatch."""
  data, fsdp, _ = mesh
  parts = data * fsdp * config.batch.microbatches
  sizes = {"batch.prompts": config.batch.prompts}
  if config.aux.method and config.aux.prompts:
    sizes["aux.prompts"] = config.aux.prompts
  for name, prompts in sizes.items():
    if prompts % parts == 0:
      continue
    below, above = prompts // parts * parts, -(-prompts // parts) * parts
    nearest = [str(n) for n in (below, above) if n]
    raise usage_error(
      f"{name}={prompts} is no multiple of {parts} = data {data} * fsdp "
      f"{fsdp} * batch.microbatches {config.batch.microbatches}; "
      f"use {' or '.join(nearest)}"
    )


def fill_mesh(mesh: ConfigDict, devices: int) -> tuple[int, int, int]:
  """C18: (data, fsdp, tensor) whose product is the number of devices."""
  shape = [mesh.data, mesh.fsdp, mesh.tensor]
  known = math.prod(n for n in shape if n != -1)
  if -1 in shape and devices % known == 0:
    shape[shape.index(-1)] = devices // known
  if -1 in shape or math.prod(shape) != devices:
    text = f"data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}"
    raise usage_error(
      f"mesh {text} does not make the {devices} devices here; their product "
      f"must be {devices}, one axis may be -1"
    )
  return tuple(shape)


def check_steps(config: ConfigDict, steps: int) -> None:
  """C16: the warm-up ends within the run of `steps` steps."""
  warmup = config.optimizer.warmup_steps
  if warmup > steps:
    raise usage_error(
      f"optimizer.warmup_steps={warmup} is longer than the run of {steps} "
      f"steps; use at most {steps}"
    )


def check_model(config: ConfigDict, *, layers: int, context: int) -> None:
  """C14 and trained_blocks against the model.

  Heads and widths against the mesh: `parallel.check_divides`.

  Args:
    config: a whole tree.
    layers: blocks.
    context: tokens that the model was made for.
  """
  if config.model.trained_blocks > layers:
    raise usage_error(
      f"model.trained_blocks={config.model.trained_blocks}: the model has "
      f"{layers} blocks; use 0 to {layers}"
    )
  if config.model.max_length > context:
    raise usage_error(
      f"model.max_length={config.model.max_length} > {context}, the model's "
      f"context; use at most {context}"
    )
  check_context(config, context, "the model's context")


def _same_type(value: Any, default: Any) -> bool:
  if isinstance(default, float):
    return isinstance(value, int | float) and not isinstance(value, bool)
  return type(value) is type(default)
