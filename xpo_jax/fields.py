"""Every key of a training config: default, range, and what it means.

The one table behind `config.base()`, `config.validate()` and
`xpo train --help`. Keywords of a method are not here: they are read from the
signature of its loss.
"""

from collections.abc import Callable
import dataclasses
import datetime
from typing import Any


@dataclasses.dataclass(frozen=True)
class Field:
  """One leaf. `holds` is None for keys that any value of the type suits."""

  default: Any
  help: str
  choices: tuple[str, ...] = ()
  holds: Callable[[Any], bool] | None = None
  words: str = ""
  required: bool = False


def _choice(help_, *choices):
  return Field(choices[0], help_, choices=choices)


def _at_least(low, default, help_):
  return Field(default, help_, holds=lambda v: v >= low, words=f">= {low}")


def _positive(default, help_):
  return Field(default, help_, holds=lambda v: v > 0, words="> 0")


def _decay(default, help_):
  return Field(default, help_, holds=lambda v: 0 <= v < 1, words="in [0, 1)")


def _axis(default, help_):
  return Field(
    default, help_, holds=lambda v: v == -1 or v >= 1, words="-1 or >= 1"
  )


def _is_date(text):
  try:
    return datetime.date.fromisoformat(text).isoformat() == text
  except ValueError:
    return False


def _judge(section, help_):
  """The keys that `judge_config` reads; the names are checked there."""
  return {
    f"{section}.name": Field("", f"{help_}; `xpo train --help` has the names"),
    f"{section}.source": Field("", "a run, model:function, file or pattern"),
    f"{section}.template": Field("auto", "of a model that judges"),
    f"{section}.reference": Field("", "of an implicit reward"),
    f"{section}.beta": _at_least(0, 0.0, "of an implicit reward; 0: its own"),
    f"{section}.principles": Field("", "a file; empty: ours"),
    f"{section}.reason": Field(False, "first reasons, then decides"),
    f"{section}.votes": _at_least(1, 1, "principles a pair"),
    f"{section}.samples": _at_least(1, 3, "replies of a judge that writes"),
    f"{section}.max_invalid": Field(
      0.05,
      "share of replies that may be invalid",
      holds=lambda v: 0 <= v <= 1,
      words="in [0, 1]",
    ),
    f"{section}.guard": Field(
      True, "leaves out answers that say nothing; False: they are short"
    ),
  }


FIELDS: dict[str, Field] = {
  "seed": Field(
    0,
    "every random choice of the run follows from it",
    holds=lambda v: 0 <= v < 2**31,
    words="in [0, 2**31)",
  ),
  "method.name": Field("dpo", "the loss; `xpo methods` lists them"),
  "model.source": Field(
    "",
    "a folder, a .gguf file, or smollm2-135m-instruct | tiny",
    required=True,
  ),
  "model.dtype": _choice("compute type", "float32", "bfloat16"),
  "model.trained_blocks": _at_least(
    0, 0, "0: all weights; n: the last n blocks, on cached trunk states"
  ),
  "model.max_length": _at_least(0, 0, "context in tokens; 0: the model's"),
  "lora.rank": _at_least(0, 0, "0: no adapters"),
  "lora.alpha": _at_least(0, 0.0, "scale alpha / rank; 0: alpha = 2 * rank"),
  "lora.l1": _at_least(
    0, 0.0, "factor of the adapters' L1 norm in the loss (PAFT); 0: none"
  ),
  "lora.l1_target": _choice(
    "the norm is of each weight's change, or of its two factors",
    "delta",
    "factors",
  ),
  "data.source": Field(
    "", "a .jsonl(.gz) or .parquet file, or films", required=True
  ),
  "data.split": Field("train", "split of a built-in data set"),
  "data.format": Field("auto", "layout of the rows; `xpo data inspect` shows"),
  "data.min_gap": _positive(
    1.0, "mean rating points between the texts of a pair made from ratings"
  ),
  "data.threshold": Field(
    0.0, "mean rating above which a text is good, below it bad (binary)"
  ),
  "data.template": _choice("how a prompt becomes text", "plain", "chat"),
  "data.template_date": Field(
    "",
    "the date that a chat template writes as today's; empty: its own",
    holds=lambda v: not v or _is_date(v),
    words="a date such as 2024-07-26",
  ),
  "data.max_prompt_length": _at_least(2, 256, "tokens"),
  "data.max_completion_length": _at_least(2, 256, "tokens, EOS included"),
  "data.overlong_prompt": _choice(
    "too long a prompt: drop its row, or cut it from the left", "drop", "left"
  ),
  "data.on_bad_row": _choice(
    "a row that cannot be read: stop, or skip and count it", "error", "skip"
  ),
  "data.limit": _at_least(0, 0, "rows to read; 0: all"),
  "data.first": _at_least(0, 0, "rows left out before these"),
  "data.eval_source": Field("", "held-out file; empty: data.source's split"),
  "data.eval_split": Field("validation", "split of a built-in data set"),
  "data.eval_limit": _at_least(0, 256, "held-out rows to read; 0: all"),
  "aux.method": Field(
    "", "a second loss on data of its own, with its defaults; empty: none"
  ),
  "aux.coef": _positive(1.0, "its factor; PPO-ptx uses 27.8"),
  "aux.source": Field("", "like data.source; needed by aux.method"),
  "aux.split": Field("train", "split of a built-in data set"),
  "aux.format": Field("auto", "layout of the rows; `xpo data inspect` shows"),
  "aux.limit": _at_least(0, 0, "rows to read; 0: all"),
  "aux.prompts": _at_least(0, 0, "prompts a step; 0: batch.prompts"),
  "rollout.completions": _at_least(
    0, 0, "samples a prompt, drawn from the policy; 0: learn from fixed data"
  ),
  "rollout.prompts": _at_least(
    0, 0, "prompts sampled at once; 0: batch.prompts, so every step is fresh"
  ),
  "rollout.epochs": _at_least(1, 1, "passes over the samples of a rollout"),
  "rollout.temperature": _at_least(0, 1.0, "of the samples; losses use it too"),
  "rollout.slots": _at_least(
    0, 0, "completions decoded at once on a device, refilled; 0: all"
  ),
  "rollout.select": _choice(
    "what a prompt's samples become",
    "keep_all",
    "best_worst",
    "against",
    "against_pair",
  ),
  "rollout.opponent": _choice(
    "whose samples the policy's are held against",
    "none",
    "reference",
    "mixture",
    "ema",
  ),
  "rollout.mix": Field(
    0.25,
    "the mixture's share of the reference",
    holds=lambda v: 0 <= v <= 1,
    words="in [0, 1]",
  ),
  "rollout.ema_decay": _decay(0.999, "of the ema opponent, a step"),
  "rollout.missing_eos_penalty": _at_least(
    0, 0.0, "taken off the score of a completion that was cut off"
  ),
  "rollout.length_penalty": _at_least(0, 0.0, "taken off a character"),
  "rollout.overlong_buffer": _at_least(
    0, 0, "last tokens over which the score falls by 1 (DAPO); 0: off"
  ),
  "rollout.clip_scores": _at_least(0, 0.0, "scores stay in +-this; 0: off"),
  "rollout.max_batches": _at_least(
    1, 1, "draws until no prompt's scores are all equal (DAPO); 1: take all"
  ),
  "rollout.importance_cap": Field(
    0.0,
    "truncated weights of trainer over sampler; 0: none",
    holds=lambda v: v == 0 or v >= 1,
    words="0 or >= 1",
  ),
  "rollout.ahead": _at_least(
    0, 0, "rollouts drawn before their turn: off-policy steps, measured"
  ),
  "rollout.kl_budget": _at_least(
    0, 0.0, "nats a sample from the reference at which the run ends; 0: none"
  ),
  "rollout.patience": _at_least(
    0, 0, "evaluations whose gold falls while the reward rises; 0: never stop"
  ),
  "rollout.value_source": Field(
    "", "a reward-model run that the value model starts from; empty: policy"
  ),
  "rollout.token_rewards": Field(
    "", "an rm_token run whose rewards are added token by token; empty: none"
  ),
  "rollout.show_every": _at_least(
    0, 10, "rollouts between those whose best and worst are printed; 0: none"
  ),
  **_judge("judge", "what scores the samples"),
  **_judge("gold", "a second judge, only watched"),
  "batch.prompts": _at_least(1, 32, "prompts a step, over all devices"),
  "batch.row_length": _at_least(2, 512, "tokens of a packed row"),
  "batch.microbatches": _at_least(1, 1, "parts of a step, same gradient"),
  "train.steps": _at_least(0, 0, "optimizer steps; 0: train.epochs decides"),
  "train.epochs": _at_least(0, 1.0, "passes over the data; 0: train.steps"),
  "train.log_every": _at_least(1, 1, "steps"),
  "train.eval_every": _at_least(0, 0, "steps; 0: only at the end"),
  "train.save_every": _at_least(1, 50, "steps between checkpoints"),
  "train.keep": _at_least(1, 2, "newest checkpoints kept"),
  "train.keep_best": _at_least(
    0, 1, "checkpoints of lowest held-out loss kept besides"
  ),
  "train.stall_seconds": _at_least(
    0, 1800, "without a step: all stop with their stacks; 0: never"
  ),
  "optimizer.name": _choice(
    "update rule", "adamw", "sgd", "rmsprop", "lion", "adafactor"
  ),
  "optimizer.learning_rate": _positive(1e-5, "peak, after the warm-up"),
  "optimizer.warmup_steps": _at_least(0, 0, "steps from 0 to the peak"),
  "optimizer.schedule": _choice(
    "after the warm-up", "cosine", "linear", "constant"
  ),
  "optimizer.weight_decay": _at_least(0, 0.0, "decoupled"),
  "optimizer.grad_clip": _at_least(0, 1.0, "global norm; 0: no clipping"),
  "optimizer.b1": _decay(0.9, "adamw and lion"),
  "optimizer.b2": _decay(0.999, "adamw and lion"),
  "optimizer.max_skipped": _at_least(
    1, 5, "non-finite steps in a row before the run stops (exit 70)"
  ),
  "reference.mode": _choice(
    "log-probs computed once, or at every step", "cached", "live"
  ),
  "reference.source": Field("", "like model.source; empty: the policy's start"),
  "mesh.data": _axis(-1, "devices that share the batch; -1: what is left"),
  "mesh.fsdp": _axis(1, "devices that share batch and weights"),
  "mesh.tensor": _axis(1, "devices that share a layer's heads and widths"),
}
