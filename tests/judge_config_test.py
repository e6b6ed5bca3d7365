"""Judges out of sections: what is refused, and that the right one is made."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from tests import runs
from tests import tiny_models as tiny
from tests.judges import remote_test
from tests.judges.stand_ins import candidates, logit, shown
from tests.pretrained_test import write_run
from xpo_jax import (
  config,
  fields,
  judge_config,
  judge_options,
  judging,
  pretrained,
)
from xpo_jax.data import comparison
from xpo_jax.data.records import Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import rules
from xpo_jax.judges.candidates import Reply
from xpo_jax.judges.tally import Tally
from xpo_jax.models.model import Model
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer

WHERE = "config.judge"
TWO = candidates(("good film", "a b c"), ("bad", "great, good"))


def refused(match, code=Exit.USAGE, call=judge_config.check, **keys):
  with pytest.raises(XpoError, match=match) as e:
    call(keys, WHERE)
  assert e.value.code == code
  assert "\n" not in str(e.value) and str(e.value).startswith(WHERE)
  return str(e.value)


def build(**keys):
  return judge_config.build(judge_config.section(**keys), WHERE)


def test_a_section_has_every_key():
  found = judge_config.section(name="length", source="2-3")
  assert isinstance(found, ConfigDict)
  assert set(found) == set(judge_config.DEFAULTS)
  assert found.source == "2-3" and found.max_invalid == 0.05
  with pytest.raises(
    XpoError, match="'votse' is unknown; did you mean 'votes'"
  ):
    judge_config.section(votse=3)
  assert judge_config.DEFAULTS["name"] == ""  # not the section's dict


@pytest.mark.parametrize("section", ["judge", "gold"])
def test_the_training_config_has_the_same_keys(section):
  found = {
    path.removeprefix(f"{section}."): field.default
    for path, field in fields.FIELDS.items()
    if path.startswith(f"{section}.")
  }
  assert found == judge_config.DEFAULTS


GOOD = {
  "reward_model": {"template": "chat"},
  "implicit": {"reference": "base", "beta": 0.2, "template": "plain"},
  "preference_model": {"max_invalid": 0.0},
  "pairwise": {"max_invalid": 1},
  "rating": {},
  "principles": {"reason": True, "votes": 16},
  "additive": {"samples": 1},
  "verdict_rating": {"samples": 5},
  "verdict_pair": {"template": "plain"},
  "sentiment": {},
  "length": {"source": "20-60"},
  "format": {"source": r"\d+"},
  "exact_match": {"source": "later.jsonl"},
  "final_answer": {"source": "later.jsonl"},
  "function": {"source": "tests.judge_config_test:shortest"},
  "remote_rating": {"samples": 2},
  "remote_pair": {},
}


@pytest.mark.parametrize("name", judge_options.USES)
def test_what_is_used_may_be_set_and_nothing_else(name, monkeypatch):
  """A run that an earlier stage will make need not be there."""
  monkeypatch.setenv(judge_options.URL, "http://127.0.0.1:1/v1")
  source = {} if name == "sentiment" else {"source": "a-run-of-later"}
  keys = {"name": name} | source | GOOD[name]
  judge_config.check(keys, WHERE)
  judge_config.check(judge_config.section(**keys), WHERE)
  other = {"source": "x", "template": "chat", "reference": "x", "beta": 0.5,
           "principles": "x", "reason": True, "votes": 2, "samples": 4,
           "max_invalid": 0.5, "guard": False}  # fmt: skip
  assert set(other) == set(judge_config.DEFAULTS) - {"name"}
  for key in set(other) - set(judge_options.USES[name]):
    message = refused(rf"judge\.{key}=", **keys | {key: other[key]})
    assert f"name='{name}' does not use it; leave it at" in message


def test_the_message_of_a_dead_option():
  assert refused("samples", name="rating", source="x", samples=1) == (
    "config.judge.samples=1: name='rating' does not use it; leave it at 3, or "
    "choose additive, verdict_rating, remote_rating"
  )


def test_a_config_without_a_judge_needs_no_jax():
  code = (
    "import sys; from xpo_jax import judge_options as j; j.check({}, 'x'); "
    "print('jax' in sys.modules)"
  )
  env = runs.environment(runs.ROOT)
  assert runs.script(code, env=env) == (0, "False\n", [])


def test_without_a_judge():
  judge_config.check({}, WHERE)
  judge_config.check(judge_config.section(), WHERE)
  refused("source='x': no judge is named", source="x")
  refused("max_invalid=0.2: no judge is named", max_invalid=0.2)
  refused("name is empty; choose one of reward_model", call=judge_config.build)


@pytest.mark.parametrize(
  "keys, match",
  [
    ({"name": "reting"}, "name='reting': did you mean 'rating'"),
    ({"name": "zzz"}, "name='zzz': choose one of reward_model, implicit"),
    ({"name": "rating", "sorce": "x"}, "'sorce' is unknown; did you mean 'sou"),
    ({"name": 3}, "name=3 must be a text"),
    ({"source": None}, "source=None must be a text"),
    ({"votes": 1.0}, "votes=1.0 must be an integer"),
    ({"votes": True}, "votes=True must be an integer"),
    ({"reason": 1}, "reason=1 must be True or False"),
    ({"beta": "1"}, "beta='1' must be a number"),
    ({"max_invalid": False}, "max_invalid=False must be a number"),
    ({"name": "rating"}, "source is empty; rating needs a run, export"),
    ({"name": "length", "source": " "}, "source is empty; length needs LOW"),
    ({"name": "function"}, "source is empty; function needs module:function"),
    ({"name": "rating", "template": "chta"}, "template='chta' must be auto"),
    ({"name": "implicit", "beta": -0.1}, "beta=-0.1 must be > 0"),
    ({"name": "implicit", "beta": float("nan")}, "beta=nan must be > 0"),
    ({"name": "implicit", "beta": float("inf")}, "beta=inf must be > 0"),
    ({"name": "implicit", "reference": "base"}, "beta is 0 with reference="),
    ({"name": "implicit", "template": "chat"}, "a run judges with its own"),
    ({"name": "principles", "votes": 0}, "votes=0 must be >= 1"),
    ({"name": "principles", "votes": 17}, "votes=17: want 1 to 16 principles"),
    ({"name": "additive", "samples": 0}, "samples=0 must be >= 1"),
    ({"name": "rating", "max_invalid": 1.01}, "max_invalid=1.01 must be in"),
    ({"name": "rating", "max_invalid": -0.1}, "max_invalid=-0.1 must be in"),
    ({"name": "rating", "max_invalid": float("nan")}, "max_invalid=nan must"),
    ({"name": "length", "source": "20"}, "source='20': length wants LOW-HIGH"),
    ({"name": "length", "source": "9-3"}, "low=9, high=3; want 1 <= low"),
    ({"name": "length", "source": "0-3"}, "low=0, high=3; want 1 <= low"),
    ({"name": "format", "source": "(a"}, "pattern='.a'.*mend the expression"),
    ({"name": "function"} | {"source": "rewards"}, "want module:function"),
    ({"name": "function"} | {"source": "a.b:"}, "want module:function"),
    ({"name": "function"} | {"source": ":f"}, "want module:function"),
    ({"name": "function"} | {"source": "a/b.py:f"}, "want module:function"),
    ({"name": "function"} | {"source": "a:f()"}, "want module:function"),
    ({"name": "function"} | {"source": "os:system"}, "os is Python's own"),
    ({"name": "function"} | {"source": "no_such_one:f"}, "no module 'no_such"),
    ({"name": "remote_pair"}, "environment variable XPO_JUDGE_URL is empty"),
  ],
)  # fmt: skip
def test_refused(keys, match, monkeypatch):
  monkeypatch.delenv(judge_options.URL, raising=False)
  bare = "needs" in match or keys.get("name") not in judge_options.USES
  source = {} if bare else {"source": "x"}
  refused(match, **source | keys)


def test_a_file_of_principles(tmp_path):
  path = tmp_path / "own.json"
  keys = {"name": "principles", "source": "x", "principles": str(path)}
  refused("own.json", Exit.DATA, **keys)
  row = {"id": "a", "compare": "b", "critique": "c", "revise": "d"}
  path.write_text(json.dumps([row]))
  judge_config.check(keys, WHERE)
  refused("votes=2: want 1 to 1", **keys, votes=2)


def test_rules():
  found = build(name="length", source="1-2")
  assert found.pairs is None and found.name == "length"
  assert found.judge(TWO).scores.tolist() == [[1.0, 0.5], [1.0, 1.0]]
  found = build(name="format", source=r"[a-z ]+").judge(TWO)
  assert found.scores.tolist() == [[1, 1], [1, 0]]
  found = build(name="sentiment").judge(TWO)
  assert found.scores[0, 0] == rules.sentiment_of("good film") > 0
  assert found.scores[1, 0] < 0


def test_exact_match(tmp_path):
  turn = [{"role": "user", "content": "two?"}]
  rows = [
    {"prompt": "one?", "answer": "1"},
    {"prompt": turn, "answer": ["2", "II"]},
    {"prompt": "one?", "answer": "I"},
  ]
  path = runs.write(tmp_path / "answers.jsonl", rows)
  judge = build(name="exact_match", source=str(path)).judge
  prompts = ["one?", (Message("user", "two?"),)]
  found = judge(candidates(("1", "i.", "2"), ("1", "ii", "2"), prompts=prompts))
  assert found.scores.tolist() == [[1, 1, 0], [0, 1, 1]]
  with pytest.raises(XpoError, match="no known answer to 'two"):
    judge(candidates(("2",), prompts=["two?"]))


def test_final_answer(tmp_path):
  rows = [{"prompt": "6 * 12?", "answer": "60 + 12 = 72\n#### 72"}]
  path = runs.write(tmp_path / "answers.jsonl", rows)
  texts = candidates(("so\n#### 72", "72", "#### 7"), prompts=["6 * 12?"])
  for name, wanted in (("final_answer", [1, 0, 0]), ("exact_match", [0] * 3)):
    judge = build(name=name, source=str(path)).judge
    assert judge(texts).scores.tolist() == [wanted]


@pytest.mark.parametrize(
  "row, match",
  [
    ({"prompt": "a"}, "a.jsonl:2: no column 'answer'; want prompt and"),
    ({"prompt": "a", "answer": 3}, "a.jsonl:2: answer 3; want a text"),
    ({"prompt": "a", "answer": []}, "a.jsonl:2: answer .*; want a text"),
    ({"prompt": "a", "answer": ["b", ""]}, "a.jsonl:2: answer"),
    ({"prompt": 3, "answer": "b"}, "a.jsonl:2: prompt is 3"),
  ],
)
def test_bad_answers(tmp_path, row, match):
  rows = [{"prompt": "x", "answer": "y"}, row]
  path = runs.write(tmp_path / "a.jsonl", rows)
  keys = {"name": "exact_match", "source": str(path)}
  refused(match, Exit.DATA, judge_config.build, **keys)


def test_no_file_of_answers(tmp_path):
  keys = {"name": "exact_match", "source": str(tmp_path / "a.jsonl")}
  refused("no such file", Exit.DATA, judge_config.build, **keys)


def shortest(prompts, texts):
  return [-len(text) for text in texts]


def test_a_function_of_an_installed_module():
  found = build(name="function", source=f"{__name__}:shortest")
  assert found.judge(TWO).scores.tolist() == [[-9, -5], [-3, -11]]


CODE = {
  "own_good": "def f(prompts, texts):\n  return [len(p) for p in prompts]\n",
  "own_raises": "raise ValueError('out of\\ncheese')\n",
  "own_exits": "raise SystemExit(3)\n",
  "own_syntax": "def f(:\n",
  "own_constant": "f = 3\n",
}


@pytest.mark.parametrize(
  "source, match",
  [
    ("own_raises:f", "importing own_raises raised ValueError: out of$"),
    ("own_exits:f", "importing own_exits raised SystemExit: 3$"),
    ("own_syntax:f", "importing own_syntax raised SyntaxError"),
    ("own_constant:f", "reward function own_constant:f: not callable"),
    ("own_good:g", "own_good.py defines no 'g'"),
    ("own_good.inner:f", "importing own_good.inner raised ModuleNotFound"),
  ],
)
def test_functions_of_the_current_folder(tmp_path, monkeypatch, source, match):
  for name, code in CODE.items():
    (tmp_path / f"{name}.py").write_text(code)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
  for name in CODE:
    monkeypatch.delitem(sys.modules, name, raising=False)
  found = build(name="function", source="own_good:f")
  assert found.judge(TWO).scores.tolist() == [[3, 3], [3, 3]]
  keys = {"name": "function", "source": source}
  judge_config.check(keys, WHERE)
  refused(match, call=judge_config.build, **keys)


@pytest.fixture
def reader(monkeypatch):
  """In place of a language model: a test sets `logps` and `reply`."""
  made = types.SimpleNamespace(
    asked=[], written=[], opened=[], seeds=[], context=4096
  )

  def ask(questions):
    made.asked += questions
    return [made.logps(*own) for own in questions]

  def write(requests):
    made.asked += requests
    return [made.reply(prompt, n) for prompt, n in requests]

  def writer(max_new_tokens, temperature=0.0, top_p=1.0, seed=None):
    made.written.append((max_new_tokens, temperature, top_p))
    made.seeds.append(seed)
    return write

  def open_(source, template):
    made.opened.append((source, template))
    sizes = types.SimpleNamespace(max_length=made.context)
    model = types.SimpleNamespace(model=types.SimpleNamespace(config=sizes))
    return types.SimpleNamespace(model=model, ask=lambda: ask, write=writer)

  monkeypatch.setattr(judging, "open_reader", open_)
  return made


def first_wins(p):
  """Log-probs of two answers: the first has P = p if it has more "o"."""

  def logps(prompt, answers):
    assert len(answers) == 2
    one, two = list(shown(prompt[:1]).values())[-2:]
    gap = one.count("o") - two.count("o")
    return np.array([logit(p) * np.sign(gap), 0.0])

  return logps


PAIR = candidates(("oo", "x"))


def test_pairwise(reader):
  reader.logps = first_wins(0.8)
  found = build(name="pairwise", source="a-model", template="chat")
  assert found.judge is None and found.name == "pairwise"
  assert reader.opened == [("a-model", "chat")] and not reader.written
  wanted = [[[0.5, 0.8], [0.2, 0.5]]]
  np.testing.assert_allclose(found.pairs(PAIR).scores, wanted, rtol=1e-12)
  assert {answers for _, answers in reader.asked} == {("1", "2")}


def test_preference_model_asks_as_in_training(reader):
  reader.logps = first_wins(0.9)
  found = build(name="preference_model", source="an-export")
  wins = found.pairs(PAIR).scores
  np.testing.assert_allclose(wins[0, 0, 1], 0.9, rtol=1e-12)
  wanted = [
    (comparison.question("p0?", *own), ("A", "B"))
    for own in (("oo", "x"), ("x", "oo"))
  ]
  assert reader.asked == wanted


def test_rating(reader):
  logs = np.log(np.arange(1.0, 11))
  reader.logps = lambda prompt, answers: logs
  found = build(name="rating", source="m", max_invalid=0)
  assert found.max_invalid == 0 and found.pairs is None
  mean = sum(n * n for n in range(1, 11)) / 55  # P(n) = n / 55
  scores = found.judge(PAIR).scores
  np.testing.assert_allclose(scores, (mean - 5.5) / 4.5, rtol=1e-12)
  assert reader.asked[0][1] == tuple(map(str, range(1, 11)))


def test_principles(reader, tmp_path):
  path = tmp_path / "own.json"
  rows = [
    {"id": n, "compare": f"Which is {n}?", "critique": "c", "revise": "r"}
    for n in ("kind", "short")
  ]
  path.write_text(json.dumps(rows))
  reader.logps = first_wins(0.9)
  keys = {"name": "principles", "source": "m", "principles": str(path)}
  found = build(**keys, votes=2).pairs(PAIR)
  np.testing.assert_allclose(found.scores[0, 0, 1], 0.9, rtol=1e-12)
  asked = [prompt[0].content for prompt, _ in reader.asked]
  assert len(asked) == 4 and not reader.written  # two orders, two votes
  assert sum("Which is kind?" in own for own in asked) == 2


def test_principles_with_reasons_are_cut(reader):
  """And the reasons are written greedily."""
  reader.logps = first_wins(0.9)
  reader.reply = lambda prompt, n: Reply("both have letters")
  found = build(name="principles", source="m", reason=True).pairs(PAIR)
  np.testing.assert_allclose(found.scores[0, 0, 1], 0.6, rtol=1e-12)
  assert reader.written == [(judge_config.REPLY, 0.0, 1.0)]
  assert any("both have letters" in str(own) for own in reader.asked)


def test_additive(reader):
  letters = lambda prompt: shown(prompt)["Answer"].count("o")
  reader.reply = lambda prompt, n: Reply(f"Score: {n + letters(prompt)}")
  found = build(name="additive", source="m").judge(PAIR)
  assert found.scores.tolist() == [[3.0, 1.0]] and found.asked == 6
  assert reader.written == [(judge_config.REPLY, 0.7, 0.9)]
  alone = build(name="additive", source="m", samples=1).judge(PAIR)
  assert alone.scores.tolist() == [[2.0, 0.0]]
  assert reader.written[1] == (judge_config.REPLY, 0.0, 1.0)


def test_the_seed_reaches_what_draws(reader):
  """Other principles and other noise for another run, the same for the same."""
  reader.logps = first_wins(0.9)
  pairs = candidates(*[(f"oo{n}", "x") for n in range(8)])

  def principles(*seed):
    reader.asked.clear()
    section = judge_config.section(name="principles", source="m", reason=True)
    judge_config.build(section, WHERE, *seed).pairs(pairs)
    return [str(prompt) for prompt, _ in reader.asked]

  reader.reply = lambda prompt, n: Reply("why")
  assert principles(3) == principles(3) != principles(4)
  assert principles() == principles(0) != principles(3)
  for name in ("additive", "verdict_rating", "verdict_pair"):
    judge_config.build({"name": name, "source": "m"}, WHERE, 9)
  assert reader.seeds == [3, 3, 4, 0, 0, 3, 9, 9, 9]


def nonce(question) -> str:
  """The word after VERDICT or SCORE on the last line of a question."""
  return question[0].content.splitlines()[-1].split()[1]


def test_verdicts(reader):
  def reply(prompt, n):
    first = list(shown(prompt).values())[1]
    side = "A" if "o" in first else "B"
    return Reply(f"VERDICT {nonce(prompt)} {side}")

  reader.reply = reply
  found = build(name="verdict_pair", source="m").pairs(PAIR)
  assert found.scores.tolist() == [[[0.5, 1.0], [0.0, 0.5]]]
  reader.reply = lambda prompt, n: Reply(f"SCORE {nonce(prompt)} {7 + n}")
  found = build(name="verdict_rating", source="m", samples=2).judge(PAIR)
  assert found.scores.tolist() == [[7.5, 7.5]]
  assert [own[1] for own in reader.written] == [0.0, 0.7]


def test_no_room_for_a_reply(reader):
  reader.context = 256
  keys = {"name": "additive", "source": "m"}
  refused("context of 256 tokens has no room", call=judge_config.build, **keys)
  reader.context = 257
  build(**keys)


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path))
  monkeypatch.delenv(judge_options.KEY, raising=False)

  def answer(n, body):
    question = body["messages"][0]["content"]
    word, own = question.splitlines()[-1].split()[:2]
    value = "8" if word == "SCORE" else "TIE"
    return remote_test.completion(f"{word} {own} {value}")

  with remote_test.serve(answer) as (url, seen):
    monkeypatch.setenv(judge_options.URL, url)
    yield seen


def test_remote(endpoint, monkeypatch):
  rating = build(name="remote_rating", source="judge-7", samples=2)
  assert rating.judge(PAIR).scores.tolist() == [[8.0, 8.0]]
  bodies = [body for _, _, body in endpoint]
  assert len(bodies) == 4
  assert {body["model"] for body in bodies} == {"judge-7"}
  assert {body["temperature"] for body in bodies} == {0.7}
  assert all("Authorization" not in headers for _, headers, _ in endpoint)
  # What was answered is in the cache, for another process too.
  build(name="remote_rating", source="judge-7", samples=2).judge(PAIR)
  assert len(endpoint) == 4
  monkeypatch.setenv(judge_options.KEY, remote_test.KEY)
  pair = build(name="remote_pair", source="judge-7")
  assert pair.pairs(PAIR).scores.tolist() == [[[0.5, 0.5], [0.5, 0.5]]]
  _, headers, body = endpoint[4]
  assert headers["Authorization"] == f"Bearer {remote_test.KEY}"
  assert body["temperature"] == 0


def test_a_key_does_not_travel_unencrypted(monkeypatch):
  monkeypatch.setenv(judge_options.URL, "http://example.invalid/v1")
  keys = {"name": "remote_rating", "source": "m"}
  judge_config.check(keys, WHERE)
  monkeypatch.setenv(judge_options.KEY, remote_test.KEY)
  assert remote_test.KEY not in refused("would go to example.invalid", **keys)


def test_scores_and_wins():
  """Each kind of judge as the other."""
  length = build(name="length", source="2-3")
  cases = candidates(("a", "b c", "d e f"))
  assert judge_config.scores(length)(cases).scores.tolist() == [[0.5, 1, 1]]
  wins = judge_config.wins(length)(cases).scores
  better = 1 / (1 + np.exp(-0.5))
  wanted = [[0.5, 1 - better, 1 - better], [better, 0.5, 0.5]]
  np.testing.assert_allclose(wins[0, :2], wanted, rtol=1e-12)

  table = np.array([[[0.5, 0.9, 0.7], [0.1, 0.5, np.nan], [0.3, np.nan, 0.5]]])
  pairs = lambda own: rules.sentiment()(own)._replace(scores=table)
  built = judge_config.Built(None, pairs, "pairwise", 0.1)
  assert judge_config.wins(built) is pairs
  found = judge_config.scores(built)(cases).scores
  np.testing.assert_allclose(found, [[0.7, 0.3, 0.4]], rtol=1e-12)


def test_judged_counts_and_stops(reader):
  reader.logps = lambda prompt, answers: np.full(len(answers), np.nan)
  built = build(name="rating", source="m", max_invalid=0.03)
  judge, one = judge_config.scores(built), candidates(("a", "b"))
  found, tally = judge_config.judged(built, judge, one, Tally())
  assert found.invalid == {"not_finite": 2}
  assert tally == Tally(2, (("not_finite", 2),))
  with pytest.raises(XpoError, match="rating: 4 of 4 replies .* max_invalid=0"):
    judge_config.judged(built, judge, one, tally)
  generous = built._replace(max_invalid=0.04)
  assert judge_config.judged(generous, judge, one, tally)[1].asked == 4


CONFIG = dataclasses.replace(
  tiny.CONFIG, vocab_size=260, layers=1, max_length=512
)
MODEL, BYTES = Model(CONFIG), byte_tokenizer()
HEAD = {"kernel": np.ones(CONFIG.width, np.float32), "bias": np.float32(0.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("judge_config")
  params = tiny.params(CONFIG)
  runs.write(path / "pairs.jsonl", map(runs.pair, range(3)))
  for name, tokenizer, head in (
    ("base", BYTES, None),
    ("export", BYTES, HEAD),
    ("mute", None, HEAD),
  ):
    save_folder(path / name, CONFIG, params, tokenizer, reward_head=head)
  top = jax.tree.map(lambda x: jnp.asarray(1.1 * x), params)
  for name, method, more in (
    ("reward", "rm_bt", {"reward_head": HEAD}),
    ("headless", "rm_bt", {}),
    ("dpo", "dpo", {}),
  ):
    c = config.base().unlock()
    c.method = config.method(method)
    c.model.source = str(path / "base")
    c.data.source = str(path / "pairs.jsonl")
    write_run(path / name, MODEL, {"top": top} | more, c.lock())
  return path


def test_models_are_opened(folder):
  keys = {"name": "implicit", "source": str(folder / "dpo")}
  found = build(**keys).judge(PAIR).scores  # beta of the run: 0.1
  other = build(**keys, beta=0.3).judge(PAIR).scores
  np.testing.assert_allclose(other, 3 * found, rtol=1e-5)
  assert np.abs(found).min() > 0
  source = str(folder / "export")
  judge = build(name="reward_model", source=source, template="plain").judge
  ids = lambda *texts: [np.frombuffer(t.encode(), np.uint8) for t in texts]
  ended = [np.append(own, BYTES.eos_id) for own in ids("oo", "x")]
  wanted = pretrained.load_pretrained(source).rewards(ids("p0?", "p0?"), ended)
  np.testing.assert_allclose(judge(PAIR).scores, [wanted], rtol=1e-4)


@pytest.mark.parametrize(
  "keys, match",
  [
    ({"name": "reward_model", "source": "mute"}, "mute has no tokenizer"),
    ({"name": "reward_model", "source": "base"}, "base has no reward head"),
    ({"name": "reward_model", "source": "headless"}, "has no reward head"),
    ({"name": "reward_model", "source": "dpo"}, "is a policy; want a reward"),
    ({"name": "reward_model", "source": "gone"}, "no such preset, folder or"),
    ({"name": "rating", "source": "mute"}, "mute has no tokenizer"),
    ({"name": "implicit", "source": "reward"}, "is a reward model; want a pol"),
    ({"name": "implicit", "source": "base"}, "name a reference and beta"),
    (
      {"name": "preference_model", "source": "dpo"},
      "was trained by dpo; a preference_model is a run of rm_pairwise",
    ),
    (
      {"name": "reward_model", "source": "reward", "template": "chat"},
      "template='chat': .* is a run and judges with its own",
    ),
  ],
)
def test_models_that_cannot_judge(folder, keys, match):
  """One line each, before anything is asked."""
  keys |= {"source": str(folder / keys["source"])}
  with pytest.raises(XpoError, match=match) as e:
    judge_config.build(keys, WHERE)
  assert str(e.value).startswith(WHERE) and "\n" not in str(e.value)
  assert e.value.code in (Exit.USAGE, Exit.CHECKPOINT)
