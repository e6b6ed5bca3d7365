"""The files of the questions."""

import json
import string

import pytest

from tests.judges.stand_ins import content
from xpo_jax.data.records import Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import wording

FIELDS = {
  "pair": {"prompt", "first", "second"},
  "rating": {"prompt", "answer"},
  "additive": {"prompt", "answer"},
  "principle": {"prompt", "first", "second", "principle"},
  "principle_reason": {"prompt", "first", "second", "principle"},
  "principle_decide": set(),
  "verdict_pair": {"prompt", "first", "second", "nonce"},
  "verdict_rating": {"prompt", "answer", "nonce"},
  "critique": {"prompt", "answer", "principle"},
  "revise": {"prompt", "answer", "critique", "principle"},
  "revise_only": {"prompt", "answer", "principle"},
}


def test_every_file_has_its_fields():
  files = {path.stem for path in wording.FOLDER.glob("*.txt")}
  assert files == set(FIELDS)
  for name, wanted in FIELDS.items():
    parsed = string.Formatter().parse(wording.read(name))
    assert {field for _, field, _, _ in parsed if field} == wanted, name


def test_texts_are_quoted_and_ours_are_not():
  turns = (Message("user", "Hi {x}"), Message("assistant", 'a\n"b"'))
  text = content(
    wording.ask(
      "principle",
      prompt=turns,
      first=" é\n",
      second="{first}",
      plain={"principle": "Which?"},
    )
  )
  lines = text.splitlines()
  assert '(A) "é"' in lines and '(B) "{first}"' in lines and "Which?" in lines
  whole = 'Conversation: "Human: Hi {x}\\n\\nAssistant: a\\n\\"b\\""'
  assert whole in lines


def test_our_principles():
  found = wording.principles()
  assert len(found) == 16 and len({p.compare for p in found}) == 16
  for own in found:
    assert own.compare.endswith("?") and own.critique.startswith("Point out")
    assert own.revise.startswith("Rewrite the last answer")


@pytest.mark.parametrize(
  "text, match",
  [
    ("[", "Expecting"),
    ("{}", "1: want an object"),
    ('[{"id": "a"}]', "1: want an object with the texts"),
    ("[]", "no principles"),
  ],
)
def test_bad_files(tmp_path, text, match):
  path = tmp_path / "own.json"
  path.write_text(text)
  with pytest.raises(XpoError, match=match) as e:
    wording.principles(path)
  assert e.value.code == Exit.DATA


def test_an_id_twice(tmp_path):
  row = wording.principles()[0]._asdict()
  path = tmp_path / "own.json"
  path.write_text(json.dumps([row, row]))
  with pytest.raises(XpoError, match="an id twice"):
    wording.principles(path)
