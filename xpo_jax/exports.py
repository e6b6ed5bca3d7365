"""A run's weights as a Hugging Face folder: whole, merged, or an adapter."""

from pathlib import Path

from xpo_jax import pretrained, run_folder
from xpo_jax.errors import usage_error
from xpo_jax.models.weights.adapter import save_adapter
from xpo_jax.models.weights.export import SHARD_BYTES, save_folder


def export(
  run: str | Path,
  output: str | Path,
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
  adapter: bool = False,
) -> Path:
  """Writes a run's weights as a Hugging Face folder.

  LoRA factors are merged into the weights unless `adapter` asks for them alone.
  A reward model becomes a sequence-classification model.

  Args:
    run: the run's folder; RUN@best, RUN@STEP.
    output: new folder.
    dtype: "float32", "bfloat16" or "float16"; adapters are always float32.
    shard_bytes: larger models are split into files of at most so many bytes.
    adapter: write only the LoRA factors, in PEFT's layout.

  Raises:
    XpoError: nothing to export, or the folder cannot be written.
  """
  if shard_bytes < 1:
    raise usage_error(f"shard_bytes={shard_bytes} must be at least 1")
  if adapter:
    _export_adapter(run, output)
  else:
    found = pretrained.load_pretrained(run)
    save_folder(
      output,
      found.model.config,
      found.params,
      found.tokenizer,
      dtype,
      shard_bytes,
      found.reward_head,
    )
  return Path(output)


def _export_adapter(run: str | Path, output: str | Path) -> None:
  found = run_folder.read(run)
  if "lora" not in found.policy:
    raise usage_error(
      f"{run}: was trained without LoRA; export it whole, without --adapter"
    )
  if "reward_head" in found.policy:
    raise usage_error(
      f"{run}: is a reward model, whose head no adapter holds; export it whole,"
      " without --adapter"
    )
  save_adapter(
    output,
    found.model,
    found.policy["lora"],
    found.settings.model.source,
    run_folder.tokenizer(run),
  )
