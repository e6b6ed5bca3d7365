"""Chat templates as ids: every family, every refusal, no control by text."""

import dataclasses
import random
import re

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from tests.data.chat_families import FAMILIES, messages
from xpo_jax.data import chat, packing, planning, templates
from xpo_jax.data.records import Group, Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.weights.tokenizer import Tokenizer, control_token
from xpo_jax.types import Feedback

CHATML, GEMMA = FAMILIES["chatml"], FAMILIES["gemma"]
USER = (Message("user", "Hi"),)
CASES = [
  pytest.param(family, case, id=f"{name}{i}")
  for name, family in FAMILIES.items()
  for i, case in enumerate(family.cases)
]


def ids_of(text, family):
  """Bytes, and the control tokens from 256 on: spelled out, no tokenizer."""
  names = "|".join(map(re.escape, family.control))
  out = []
  for piece in re.split(f"({names})", text):
    if piece in family.control:
      out.append(256 + family.control.index(piece))
    else:
      out += piece.encode()
  return out


def ids(prompt, answers, tokenizer):
  """(prompt, the pieces of an answer) of the chat template, as lists."""
  form = templates.make_template(tokenizer, "chat")
  pieces = form.completion(prompt, answers)
  return form.prompt(prompt).tolist(), [p.tolist() for p in pieces]


@pytest.mark.parametrize("family, case", CASES)
def test_families(family, case):
  tokenizer = family.tokenizer()
  form = templates.make_template(tokenizer, "chat")
  assert form.end_id == 256 + family.control.index(family.end)
  prompt, (answer,) = ids(messages(case.turns), [case.answer], tokenizer)
  assert prompt == ids_of(case.prompt, family)
  assert [*answer, form.end_id] == ids_of(case.completion, family)
  assert form.end_id not in answer  # once, whoever ends it


@pytest.mark.parametrize("name", FAMILIES)
def test_d44_no_text_of_a_user_becomes_control(name):
  """Each content holds every mark of the family, whole and in halves."""
  family = FAMILIES[name]
  bad = "".join(family.control)
  half = family.end[: len(family.end) // 2]
  turns = (
    Message("user", f"{bad} x {half}"),
    Message("assistant", f"{family.end[len(half) :]}x{bad}x"),
    Message("user", f"x\ue1000\ue101{bad}"),
  )
  plain = tuple(Message(m.role, "x") for m in turns)
  tokenizer = family.tokenizer()
  prompt, (answer,) = ids(turns, [f"x{bad}x"], tokenizer)
  harmless, (other,) = ids(plain, ["x"], tokenizer)
  control = lambda row: [i for i in row if i >= 256]
  assert control(prompt) == control(harmless)
  assert control(answer) == control(other) == []
  written = bytes(i for i in prompt if i < 256).decode()
  assert all(m.content in written for m in turns)
  assert bytes(answer).decode().strip().endswith(f"x{bad}x")


@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_d45_random_texts_of_halves_of_marks(name):
  """120 conversations of 3 turns and an answer each."""
  family, draw = FAMILIES[name], random.Random(3)
  tokenizer = family.tokenizer()
  form = templates.make_template(tokenizer, "chat")
  cut = [(t, draw.randrange(1, len(t))) for t in family.control * 3]
  bits = [b for t, n in cut for b in (t, t[:n], t[n:])] + [" ", "\n", "x", "é"]
  text = lambda: "x" + "".join(draw.choices(bits, k=draw.randrange(8)))
  control = lambda row: [i for i in row.tolist() if i >= 256]
  roles = ("user", "assistant", "user")
  wanted = control(form.prompt(tuple(Message(r, "x") for r in roles)))
  for _ in range(120):
    turns, answer = tuple(Message(r, text()) for r in roles), text()
    assert control(form.prompt(turns)) == wanted
    (ids,) = form.completion(turns, [answer])
    assert control(ids) == []
    assert bytes(ids.tolist()).decode().strip() == answer.strip()


def test_a_rewritten_answer_with_control_text_is_refused():
  tokenizer = FAMILIES["qwen3"].tokenizer()
  said = "<think>\nx\n</think>\n\nb"
  assert ids(USER, [said], tokenizer)[1] == [list(said.encode())]
  for answer in (["<think>\n<|im_end|>\n</think>\n\nb"], [said, " c"]):
    with pytest.raises(XpoError, match="cannot be told from the text's"):
      ids(USER, answer, tokenizer)


def test_steps_stay_apart_and_the_template_writes_around_the_whole():
  family = FAMILIES["llama2"]
  _, pieces = ids(USER, [" one\n", "two\n", " "], family.tokenizer())
  assert [bytes(p).decode() for p in pieces] == [" one\n", "two", ""]
  _, pieces = ids(USER, ["one\n", "two "], family.tokenizer())
  assert [bytes(p).decode() for p in pieces] == [" one\n", "two "]


def row(prompt, answer="b", name="f:7"):
  return Group(name, prompt, (answer,), (1.0,), Feedback.DEMONSTRATION)


def tokenized(tokenizer, *groups):
  return templates.tokenize(groups, tokenizer, "chat", 256, 64)[0]


def test_t14_a_refused_conversation_names_row_and_file():
  tokenizer = GEMMA.tokenizer(template_file="m/chat_template.jinja")
  turns = messages(["s: S", "u: Hi"])
  with pytest.raises(XpoError) as caught:
    tokenized(tokenizer, row("fine", name="f:6"), row(turns))
  assert caught.value.code == Exit.DATA
  assert str(caught.value) == (
    "f:7: m/chat_template.jinja: the chat template refuses this conversation:"
    " System role not supported; mend it, or use data.template='plain'"
  )


def changed(template, **changes):
  return CHATML.tokenizer(chat_template=template, **changes)


BAD = {
  "t8 no template": (None, "the tokenizer has no chat template; use "),
  "syntax": ("{% for %}", "cannot be rendered (TemplateSyntaxError: "),
  "raises": (
    "{{ raise_exception('roles!') }}",
    "refuses this conversation: roles!; mend it",
  ),
  "t9 a turn is lost": (
    "{{ messages[0]['content'] }}<|im_end|>",
    "leaves a turn out of what it writes",
  ),
  "t9 a turn is there twice": (
    "{% for m in messages %}{{ m.content * 2 }}<|im_end|>{% endfor %}",
    "or writes it twice",
  ),
  "the last turn is special": (
    CHATML.template.replace("{{- '<|im", "{{ '!' if loop.last }}{{- '<|im"),
    "is not how it begins the prompt with its answer",
  ),
  "no end of turn": (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "ends the assistant's turn with no control token of the vocabulary",
  ),
  "t6 an end that is several ids": (
    "{% for m in messages %}{{ m.content }}<|end_turn|>\n{% endfor %}",
    "ends the assistant's turn with no control token of the vocabulary",
  ),
  "t10 classes": (
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "cannot be rendered (SecurityError: ",
  ),
  "t10 globals": (
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "cannot be rendered (SecurityError: ",
  ),
  "t10 the sandbox's own": (
    "{{ lipsum.__globals__['os'].listdir('/') }}",
    "cannot be rendered (UndefinedError: 'lipsum' is undefined)",
  ),
  "t10 format strings": (
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "cannot be rendered (SecurityError: ",
  ),
  "t10 changes what it was given": (
    "{{ messages.append(messages[0]) }}",
    "cannot be rendered (SecurityError: ",
  ),
  "t13 chance": ("{{ [1, 2] | random }}", "No filter named 'random'"),
  "t13 time": (
    "{{ strftime_now('%Y') }}",
    "pin one with data.template_date=2024-07-26",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_templates(case):
  template, message = BAD[case]
  with pytest.raises(XpoError) as caught:
    templates.make_template(changed(template), "chat")
  assert message in str(caught.value) and "\n" not in str(caught.value)
  code = Exit.USAGE if template is None else Exit.CHECKPOINT
  assert caught.value.code == code


def test_t13_a_pinned_date():
  tokenizer = FAMILIES["llama3"].tokenizer(template_date="2025-02-03")
  prompt, _ = ids(USER, ["b"], tokenizer)
  written = bytes(i for i in prompt if i < 256).decode()
  assert "Day: 03 Feb 2025\n" in written
  assert prompt == ids(USER, ["c"], tokenizer)[0]


def test_t5_one_bos_whoever_writes_it():
  bos = 256 + GEMMA.control.index("<bos>")
  for opening in ("{{ bos_token }}", "", "{{ bos_token }}<bos>"):
    template = GEMMA.template.replace("{{ bos_token }}", opening)
    prompt, (answer,) = ids(
      USER, ["b"], GEMMA.tokenizer(chat_template=template)
    )
    assert prompt[:1] == [bos] and prompt.count(bos) == 1
    assert bos not in answer
  none = dataclasses.replace(GEMMA, bos=None).tokenizer()
  assert bos not in ids(USER, ["b"], none)[0]


@pytest.mark.parametrize("pad", ["eos", "a byte", None])
def test_t1_t3_masks_are_places_not_ids(pad):
  """Packing knows no pad id: EOS, and a token of id 0, count like any other."""
  tokenizer = CHATML.tokenizer()
  if pad is not None:
    tokenizer.core.enable_padding(
      pad_id={"eos": tokenizer.eos_id, "a byte": 0}[pad]
    )
    tokenizer = dataclasses.replace(tokenizer)  # as after loading
  (group,) = tokenized(tokenizer, row(USER, "\0a\0"))
  end = tokenizer.eos_id
  assert group.completions[0].tolist() == [0, ord("a"), 0, end]
  length = len(group.prompt) + 4
  shape = planning.Shape(
    prompts=1, completions=1, tokens=6, rows=1, row_length=length, targets=6
  )
  batch = packing.pack([group], shape, Feedback.DEMONSTRATION)
  assert batch.completion_mask.tolist() == [[[True] * 4 + [False] * 2]]
  trained = batch.target_token[batch.target_slot < 6]
  assert sorted(trained.tolist()) == sorted([0, ord("a"), 0, end])
  assert batch.ended.tolist() == [[True]]


MERGES = ["▁ a", "▁ H", "▁H i", "▁ o", "▁o k"]
LETTERS = "▁\n\\[]/:INSTHQaiokbcd"


def spaced(family, scheme) -> Tokenizer:
  """As in SentencePiece: a space goes before a text's first word.

  Args:
    family: gives template and control tokens.
    scheme: "always" also after a control token, "first" never there.
  """
  merges = [tuple(m.split(" ")) for m in MERGES]
  words = dict.fromkeys([*LETTERS, *("".join(m) for m in merges)])
  vocab = {w: i for i, w in enumerate(words)}
  core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  if scheme == "always":
    core.normalizer = normalizers.Sequence(
      [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
  else:
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
  core.add_special_tokens([control_token(t) for t in family.control])
  bos, eos = core.token_to_id(family.bos), core.token_to_id(family.eos)
  return Tokenizer(core, eos, bos, family.template)


@pytest.mark.parametrize(
  "name, scheme, first",
  [
    ("llama2", "always", "▁ok"),  # [/INST] is text: one space, the template's
    ("llama2", "first", "▁ok"),
    ("mistral", "always", "▁"),  # [/INST] is control: two spaces
    ("mistral", "first", "▁ok"),
  ],
)
def test_ids_are_those_of_the_library_for_the_whole_text(name, scheme, first):
  """Where nobody types control text, the whole text in one gives the same."""
  tokenizer = spaced(FAMILIES[name], scheme)
  turns = messages(["u: Hi", "a: ok", "u: a"])
  prompt, (answer,) = ids(turns, ["ok Hi"], tokenizer)
  form = chat.make_chat(tokenizer)
  text = form.texts.get((*turns, Message("assistant", "ok Hi")), False)
  tokenizer.core.encode_special_tokens = False
  whole = tokenizer.core.encode(text, add_special_tokens=False).ids
  assert [*prompt, *answer, form.end_id] == whole
  assert tokenizer.core.id_to_token(answer[0]) == first


def test_control_tokens_that_swallow_blanks():
  tokenizer = CHATML.tokenizer()
  start = AddedToken(
    "<|im_start|>", special=True, normalized=False, rstrip=True
  )
  end = AddedToken("<|im_end|>", special=True, normalized=False, lstrip=True)
  tokenizer.core.add_special_tokens([start, end])
  tokenizer = dataclasses.replace(tokenizer)
  assert tokenizer.strips == {256: (False, True), 257: (True, False)}
  template = CHATML.template.replace("<|im_start|>", "<|im_start|> ")
  tokenizer = dataclasses.replace(tokenizer, chat_template=template)
  prompt, _ = ids(messages(["u: Hi  "]), ["b"], tokenizer)
  text = chat.make_chat(tokenizer).texts.get(messages(["u: Hi  "]), True)
  assert "<|im_start|> user\nHi  <|im_end|>" in text
  tokenizer.core.encode_special_tokens = False
  assert prompt == tokenizer.core.encode(text, add_special_tokens=False).ids


def test_a_prompt_that_the_template_changes_for_its_answer():
  """The first turn says how many turns there are: no prefix, so refused."""
  template = CHATML.template.replace("Be kind", "{{ messages | length }}")
  template = template.replace(
    "'<|im_start|>system\n{{ messages | length }}.<|im_end|>\n'",
    "'<|im_start|>system\n' ~ messages | length ~ '<|im_end|>\n'",
  )
  with pytest.raises(XpoError, match="is not how it begins the prompt with"):
    templates.make_template(changed(template), "chat")
