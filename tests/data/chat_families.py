"""Chat templates of our own, built like those of the families in use.

They write the same marks around turns and use the same features of jinja2;
their text is ours. `Family.cases` hold, written by hand, the text of a prompt
and of what is trained after it.
"""

import dataclasses
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from xpo_jax.data.records import Message
from xpo_jax.models.weights.tokenizer import (
  Tokenizer,
  byte_letters,
  control_token,
)


class Case(NamedTuple):
  """Turns "s: ..." / "u: ..." / "a: ...", the answer, and their texts."""

  turns: list[str]
  answer: str
  prompt: str
  completion: str


@dataclasses.dataclass(frozen=True)
class Family:
  """`bos` and `eos` are among `control`; the end of a turn is `end`."""

  template: str
  control: tuple[str, ...]
  eos: str
  end: str
  bos: str | None
  cases: tuple[Case, ...]

  def tokenizer(self, **changes) -> Tokenizer:
    """Ids 0..255 are bytes, then the control tokens."""
    vocab = {letter: b for b, letter in enumerate(byte_letters())}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(
      add_prefix_space=False, use_regex=False
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([control_token(t) for t in self.control])
    bos = self.bos and core.token_to_id(self.bos)
    made = Tokenizer(core, core.token_to_id(self.eos), bos, self.template)
    return dataclasses.replace(made, **changes)


def messages(turns: list[str]) -> tuple[Message, ...]:
  """ "u: Hi" -> a user's "Hi"."""
  roles = {"s": "system", "u": "user", "a": "assistant"}
  return tuple(Message(roles[t[0]], t[3:]) for t in turns)


CHATML = Family(
  template="""\
{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}
{%- endif %}
{{- '<|im_start|>' ~ message['role'] + '\n' }}{% generation %}
{{- message['content'] -}}
{% endgeneration %}{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
  control=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
  eos="<|im_end|>",
  end="<|im_end|>",
  bos=None,
  cases=(
    Case(
      ["u: Hi"],
      " Yes?\n",
      "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
      "\n<|im_start|>assistant\n",
      " Yes?\n<|im_end|>",
    ),
    Case(
      ["s: S", "u:  a ", "a: b", "u: c"],
      "d",
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n a <|im_end|>\n"
      "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
      "<|im_start|>assistant\n",
      "d<|im_end|>",
    ),
  ),
)

# BOS before every user turn, the system turn inside of the first, plain marks.
LLAMA2 = Family(
  template="""\
{% set turns = messages %}{% set opening = false %}
{% if messages[0]['role'] == 'system' %}
{% set opening = messages[0]['content'] %}{% set turns = messages[1:] %}
{% endif %}
{% for turn in turns %}
{% if (turn['role'] == 'user') != (loop.index0 is even) %}
{{ raise_exception('users and assistants take turns') }}
{% endif %}
{% if loop.first and opening is not false %}
{% set said = '<<SYS>>\n' ~ opening ~ '\n<</SYS>>\n\n' ~ turn['content'] %}
{% else %}{% set said = turn['content'] %}{% endif %}
{% if turn['role'] == 'user' %}
{{- bos_token ~ '[INST] ' ~ said.strip() ~ ' [/INST]' }}
{%- else %}
{{- ' ' ~ said.strip() ~ ' ' ~ eos_token }}
{%- endif %}
{% endfor %}""",
  control=("<unk>", "<s>", "</s>"),
  eos="</s>",
  end="</s>",
  bos="<s>",
  cases=(
    Case(["u: Hi "], " ok\n", "<s>[INST] Hi [/INST]", " ok </s>"),
    Case(
      ["s: S", "u: a", "a: b", "u: c"],
      "d",
      "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]",
      " d </s>",
    ),
  ),
)

# A system header that is always there, with a date; contents are trimmed.
LLAMA3 = Family(
  template="""\
{{- bos_token }}
{%- if not day is defined %}
{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}
{%- else %}{%- set day = '26 Jul 2024' %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
{%- set said = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}
{%- else %}{%- set said = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}
{{- 'Day: ' + day + '\n\n' + said + '<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}
{{- m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
  control=(
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>",
  ),
  eos="<|end_of_text|>",
  end="<|eot_id|>",
  bos="<|begin_of_text|>",
  cases=(
    Case(
      ["u: \nHi "],
      " ok\n",
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Day: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>"
      "\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
      "ok<|eot_id|>",
    ),
    Case(
      ["s: S", "u: a", "a: b", "u: c"],
      "d",
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Day: 26 Jul 2024\n\nS<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
      "d<|eot_id|>",
    ),
  ),
)  # fmt: skip

# The system turn stands in the last user turn; marks are control tokens.
MISTRAL = Family(
  template="""\
{%- set opening = '' %}{%- set turns = messages %}
{%- if messages[0]['role'] == 'system' %}
{%- set opening = messages[0]['content'] ~ '\n\n' %}
{%- set turns = messages[1:] %}{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for turn in turns %}
{%- if turn.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
{%- if turn.role == 'user' %}
{{- '[INST] ' }}
{%- if loop.index0 == ns.last %}{{- opening }}{%- endif %}
{{- turn.content + '[/INST]' }}
{%- elif turn.role == 'assistant' %}
{{- ' ' + turn.content | trim + eos_token }}
{%- else %}{{- raise_exception('one system turn, first') }}
{%- endif %}{%- endfor %}""",
  control=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
  eos="</s>",
  end="</s>",
  bos="<s>",
  cases=(
    Case(["u: Hi "], "ok ", "<s>[INST] Hi [/INST]", " ok</s>"),
    Case(
      ["s: S", "u: a", "a: b", "u: c"],
      "d",
      "<s>[INST] a[/INST] b</s>[INST] S\n\nc[/INST]",
      " d</s>",
    ),
  ),
)

# Another name of the assistant; no system role at all.
GEMMA = Family(
  template="""\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
{{- raise_exception('System role not supported') }}
{%- endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must take turns') }}
{%- endif %}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{- '<start_of_turn>' + role + '\n' + m['content'] | trim }}
{{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}""",
  control=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
  eos="<eos>",
  end="<end_of_turn>",
  bos="<bos>",
  cases=(
    Case(
      ["u: Hi", "a: b ", "u: c"],
      "d",
      "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nb"
      "<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n"
      "<start_of_turn>model\n",
      "d<end_of_turn>",
    ),
  ),
)

# Thoughts stay in the last answer and leave the earlier ones.
QWEN3 = Family(
  template="""\
{%- if tools %}{{- '<|im_start|>system\n' + tools | tojson }}
{{- '<|im_end|>\n' }}{%- endif %}
{%- set ns = namespace(open=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}
{%- set at = messages | length - 1 - loop.index0 %}
{%- if ns.open and m.role == 'user' and not (
  m.content.startswith('<tool_response>')) %}
{%- set ns.open = false %}{%- set ns.last = at %}
{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}
{%- set said = m.content %}{%- set thought = '' %}
{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
{%- elif '</think>' in said %}
{%- set thought = said.split('</think>')[0].rstrip('\n')
  .split('<think>')[-1].lstrip('\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
{{- said.lstrip('\n') }}
{%- else %}{{- said }}{%- endif %}
{%- else %}{{- m.content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}""",
  control=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
  eos="<|im_end|>",
  end="<|im_end|>",
  bos=None,
  cases=(
    Case(
      ["u: Hi"],
      "ok",
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
      "<think>\n\n</think>\n\nok<|im_end|>",
    ),
    Case(
      ["s: S", "u: a", "a: <think>\nx\n</think>\n\nb", "u: c"],
      "<think>\n\ny z\n</think>\nd",
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
      "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
      "<|im_start|>assistant\n",
      "<think>\ny z\n</think>\n\nd<|im_end|>",
    ),
  ),
)

# Lines of the template itself are text; marks are no control tokens.
ZEPHYR = Family(
  template="""\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
  control=("<unk>", "<s>", "</s>"),
  eos="</s>",
  end="</s>",
  bos="<s>",
  cases=(
    # BOS is the tokenizer's; the template writes none.
    Case(
      ["s: S", "u: a", "a: b", "u: c"],
      " d",
      "<s><|system|>\nS</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\n"
      "c</s>\n<|assistant|>\n",
      " d</s>",
    ),
  ),
)

FAMILIES = {
  "chatml": CHATML,
  "llama2": LLAMA2,
  "llama3": LLAMA3,
  "mistral": MISTRAL,
  "gemma": GEMMA,
  "qwen3": QWEN3,
  "zephyr": ZEPHYR,
}
