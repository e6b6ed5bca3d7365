"""`xpo sample` around a model that echoes what it was asked."""

import builtins
import dataclasses

import pytest

from xpo_jax import talk
from xpo_jax.data import templates
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.models.weights.tokenizer_files import (
  save_tokenizer,
  tokenizer_from_folder,
)


class Echo:
  """Answers with the last six bytes of the prompt's ids, upper case."""

  def __init__(self):
    self.tokenizer = byte_tokenizer()
    self.seen = []

  def sample(self, ids, **options):
    self.seen.append(options)
    texts = [self.tokenizer.decode(row) for row in ids]
    if any(len(t) > 120 for t in texts):
      raise XpoError("prompt too long")
    return None, [[t[-6:].upper()] for t in texts]


OPTIONS = dict(max_new_tokens=6, temperature=0.0, top_p=1.0, seed=3)


@pytest.fixture
def said(monkeypatch, capsys):
  """Runs the loop over typed lines; returns what it printed and the model."""

  def run(lines, chats):
    typed = iter(lines)

    def read(prompt=""):
      try:
        return next(typed)
      except StopIteration:
        raise EOFError from None

    monkeypatch.setattr(builtins, "input", read)
    model = Echo()
    plain = templates.make_template(model.tokenizer, "plain")
    talk.loop(model, plain, chats, OPTIONS)
    return capsys.readouterr().out, model

  return run


def test_a_plain_model_sees_only_the_line(said):
  out, model = said(["one abcdef", "", "two ghijkl"], chats=False)
  assert "ABCDEF" in out and "GHIJKL" in out
  assert [o["seed"] for o in model.seen] == [3, 4]


def test_a_chat_remembers_until_reset(said):
  prompts = []

  def spy(self, ids, **options):
    prompts.append(self.tokenizer.decode(ids[0]))
    return None, [["fine"]]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Echo, "sample", spy)
    said(["hello", "again", "/reset", "new", "/quit", "never"], chats=True)
  assert prompts == [
    "\n\nHuman: hello\n\nAssistant:",
    "\n\nHuman: hello\n\nAssistant: fine\n\nHuman: again\n\nAssistant:",
    "\n\nHuman: new\n\nAssistant:",
  ]


def test_an_error_keeps_the_chat_alive(said):
  out, _ = said(["x" * 121, "short abcdef"], chats=False)
  assert "prompt too long (/reset starts anew)" in out and "ABCDEF" in out


def test_escape_sequences_do_not_reach_the_terminal(capsys):
  talk.show(["[red]p"], ["a\x1b[2Jb"], chats=False)
  talk.show(["q"], ["c"], chats=True)
  assert capsys.readouterr().out == "[red]pa [2Jb\nq\nc\n"


def test_an_empty_prompt_is_refused():
  model = Echo()
  plain = templates.make_template(model.tokenizer, "plain")
  with pytest.raises(XpoError, match="is empty"):
    talk.complete(model, plain, ["ok", ""], OPTIONS)


def test_auto_follows_the_run(tmp_path, monkeypatch):
  monkeypatch.setattr(talk.pretrained, "load_pretrained", lambda source: Echo())
  run = tmp_path / "run"
  run.mkdir()
  assert talk.open_model(str(run))[2] is bool(byte_tokenizer().chat_template)
  (run / "model.json").write_text("{}")
  (run / "config.json").write_text('{"data": {"template": "plain"}}')
  assert talk.open_model(str(run))[2] is False


def test_auto_follows_an_export_of_a_plain_run(tmp_path, monkeypatch):
  """An export keeps a chat template that its run never trained with."""
  own = byte_tokenizer()
  for kind, chats in (("", True), ("plain", False), ("chat", True)):
    trained = dataclasses.replace(own, trained_with=kind)
    save_tokenizer(trained, tmp_path)
    model = Echo()
    model.tokenizer = tokenizer_from_folder(tmp_path)
    monkeypatch.setattr(
      talk.pretrained, "load_pretrained", lambda s, m=model: m
    )
    _, template, found = talk.open_model(str(tmp_path))
    assert found is chats
    assert (own.eos_id + 1 in template.prompt("Hi").tolist()) is chats
    assert talk.open_model(str(tmp_path), "chat")[2] is True


def test_a_chat_ends_with_its_template_s_token_not_the_tokenizer_s():
  model = Echo()
  model.tokenizer = dataclasses.replace(model.tokenizer, eos_id=258)
  chat = templates.make_template(model.tokenizer, "chat")
  talk.complete(model, chat, ["one"], OPTIONS)
  plain = templates.make_template(model.tokenizer, "plain")
  talk.complete(model, plain, ["one"], OPTIONS)
  assert [seen["end_id"] for seen in model.seen] == [256, 258]


def test_tokenizer_of_a_preset_and_of_nothing(tmp_path):
  assert talk.load_tokenizer("tiny").vocab_size == byte_tokenizer().vocab_size
  with pytest.raises(XpoError, match="no tokenizer"):
    talk.load_tokenizer(str(tmp_path))
