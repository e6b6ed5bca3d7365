"""The remote writer against a stub server on loopback."""

import contextlib
import http.server
import json
import threading

import pytest

from xpo_jax.data.records import Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import remote
from xpo_jax.judges.candidates import Reply

KEY = "sk-canary-123"
HELLO = (Message("system", "be brief"), Message("user", "hi"))


def completion(text, reason="stop"):
  choice = {"message": {"content": text}, "finish_reason": reason}
  return 200, {"choices": [choice]}


@contextlib.contextmanager
def serve(answer):
  """A server that answers answer(n, body) -> (code, JSON-able or bytes).

  Yields (url, list of (path, headers, body)).
  """
  seen, lock = [], threading.Lock()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      raw = self.rfile.read(int(self.headers["Content-Length"]))
      with lock:
        seen.append((self.path, dict(self.headers), json.loads(raw)))
        number = len(seen) - 1
      code, found = answer(number, seen[number][2])
      data = found if isinstance(found, bytes) else json.dumps(found).encode()
      self.send_response(code)
      if code == 302:
        self.send_header("Location", "/elsewhere")
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def writer(url, **more):
  more = {"model": "judge-1", "pause": 0.0, "seconds": 5.0, **more}
  return remote.make_writer(remote.Endpoint(url=url, **more))


def test_the_request_and_the_reply(monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  answer = lambda n, body: completion(body["messages"][-1]["content"].upper())
  with serve(answer) as (url, seen):
    write = writer(url, key_variable="JUDGE_KEY", max_tokens=7)
    assert write([(HELLO, 0), ("you", 0)]) == [Reply("HI"), Reply("YOU")]
  seen.sort(key=lambda x: len(x[2]["messages"]))
  path, headers, body = seen[1]
  assert path == "/v1/chat/completions"
  assert headers["Authorization"] == f"Bearer {KEY}"
  assert body == {
    "model": "judge-1",
    "messages": [
      {"role": "system", "content": "be brief"},
      {"role": "user", "content": "hi"},
    ],
    "temperature": 0.0,
    "max_tokens": 7,
  }


def test_without_a_key_there_is_no_header():
  with serve(lambda n, body: completion("x", "length")) as (url, seen):
    assert writer(url)([("a", 0)]) == [Reply("x", whole=False)]
  assert "Authorization" not in seen[0][1]


def test_nothing_is_asked_twice(tmp_path):
  answer = lambda n, body: completion(f"{n}")
  with serve(answer) as (url, seen):
    cache = {"cache": str(tmp_path / "replies"), "temperature": 1.0}
    first = writer(url, workers=1, **cache)
    found = first([("a", 0), ("a", 1), ("a", 0), ("b", 0)])
    assert found == [Reply("0"), Reply("1"), Reply("0"), Reply("2")]
    # Another process: same replies, no request; a damaged file is asked anew.
    assert writer(url, **cache)([("a", 1), ("b", 0)]) == found[1::2]
    assert len(seen) == 3 and [b["seed"] for *_, b in seen] == [0, 1, 0]
    for path in (tmp_path / "replies").iterdir():
      assert path.suffix == ".json" and path.stat().st_mode & 0o77 == 0
      path.write_text("{")
    assert writer(url, **cache)([("b", 0)]) == [Reply("3")]
    # The reply belongs to its model.
    assert writer(url, **cache | {"model": "other"})([("b", 0)]) == [Reply("4")]


def test_retries_then_an_answer():
  turns = [(503, {}), (429, {}), (200, {"error": "busy"}), (200, b"<html>"),
           completion("at last")]  # fmt: skip
  with serve(lambda n, body: turns[n]) as (url, seen):
    assert writer(url, retries=4)([("a", 0)]) == [Reply("at last")]
  assert len(seen) == 5


@pytest.mark.parametrize(
  "answer",
  [
    (200, {"error": {"message": "no"}}),
    (200, {"choices": []}),
    (200, {"choices": [{"message": {"content": None}}]}),
    (200, b"[" * 100_000),
    (500, {}),
  ],
  ids=["error", "none", "null", "deep", "500"],
)
def test_broken_replies_are_invalid_and_not_kept(answer, tmp_path):
  with serve(lambda n, body: answer) as (url, seen):
    write = writer(url, retries=1, cache=str(tmp_path))
    assert write([("a", 0)]) == [None]
  assert len(seen) == 2 and not list(tmp_path.iterdir())


def test_a_refused_key_stops_at_once(monkeypatch, capfd):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  answer = lambda n, body: (401, {"error": f"bad key {KEY}"})
  with serve(answer) as (url, seen):
    with pytest.raises(XpoError) as e:
      writer(url, key_variable="JUDGE_KEY", workers=1)([("a", 0), ("b", 0)])
  assert e.value.code == Exit.USAGE and "HTTP 401" in str(e.value)
  assert "JUDGE_KEY" in str(e.value) and len(seen) == 1
  told = "".join([str(e.value), repr(e.value), *capfd.readouterr()])
  assert KEY not in told


TOO_LONG = {"error": {"message": "context of 4096\ntokens", "code": None}}


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_refused_question_is_invalid_where_others_are_answered(
  code, tmp_path, capsys
):
  def answer(n, body):
    long = "x" in body["messages"][-1]["content"]
    return (code, TOO_LONG) if long else completion("yes")

  with serve(answer) as (url, seen):
    write = writer(url, cache=str(tmp_path))
    asked = [("xx", 0), ("b", 0), ("xy", 0), ("c", 0)]
    assert write(asked) == [None, Reply("yes"), None, Reply("yes")]
    assert len(seen) == 4 and len(list(tmp_path.iterdir())) == 2
    assert write([("xz", 0)]) == [None]  # alone, of an endpoint that answers
    # So does a process that finds others' replies.
    assert writer(url, cache=str(tmp_path))(asked[:2]) == [None, Reply("yes")]
  told = capsys.readouterr().out.splitlines()
  assert len(told) == 2 and told[0].startswith("warning: remote judge: http")
  assert f"(HTTP {code}: context of 4096 tokens)" in told[0]


@pytest.mark.parametrize("code", [400, 404, 413, 422])
def test_a_wrong_request_stops_with_the_servers_words(code, monkeypatch, capfd):
  """Also with the key in them, whole or shortened."""
  monkeypatch.setenv("JUDGE_KEY", KEY)
  body = {"error": {"message": f"no judge-1\x1b[2J for {KEY} or {KEY[:9]}..."}}
  with serve(lambda n, _: (code, body)) as (url, seen):
    with pytest.raises(XpoError) as e:
      writer(url, key_variable="JUDGE_KEY", workers=1)([("a", 0), ("b", 0)])
  assert len(seen) == (1 if code == 404 else 2)  # the next might be answered
  assert e.value.code == Exit.USAGE and "\n" not in str(e.value)
  assert f"(HTTP {code}: no judge-1?[2J for *** or ***); check" in str(e.value)
  told = "".join([str(e.value), repr(e.value), *capfd.readouterr()])
  assert KEY[:8] not in told


@pytest.mark.parametrize(
  "body, words",
  [
    (b"", ""),
    (b"<html>\xff no", ": <html>\ufffd no"),
    ({"detail": [{"msg": "long"}]}, ': {"detail": [{"msg": "long"}]}'),
    ({"error": {"code": 7}}, ': {"error": {"code": 7}}'),
    ({"message": "no"}, ": no"),
    (b"[" * 100_000, ": " + "[" * 200),
  ],
  ids=["empty", "html", "list", "number", "text", "deep"],
)
def test_refusals_of_any_form(body, words):
  with serve(lambda n, _: (400, body)) as (url, _):
    with pytest.raises(XpoError) as e:
      writer(url)([("a", 0)])
  assert f"(HTTP 400{words}); check url" in str(e.value)


def test_redirects_do_not_carry_the_key(monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  with serve(lambda n, body: (302, {})) as (url, seen):
    with pytest.raises(XpoError, match="HTTP 302"):
      writer(url, key_variable="JUDGE_KEY")([("a", 0)])
  assert len(seen) == 1


def test_no_server():
  with serve(lambda n, body: completion("x")) as (url, _):
    pass
  with pytest.raises(XpoError, match="refused.* after 2 tries; is the") as e:
    writer(url, retries=1)([("a", 0)])
  assert e.value.code == Exit.STORAGE


def test_a_server_that_hangs():
  over = threading.Event()
  with serve(lambda n, body: over.wait(20) and (200, {})) as (url, _):
    try:
      with pytest.raises(XpoError, match="no answer from .* after 1 tries"):
        writer(url, retries=0, seconds=0.2)([("a", 0)])
    finally:
      over.set()


def test_max_calls(tmp_path):
  with serve(lambda n, body: completion("x")) as (url, seen):
    write = writer(url, max_calls=2, cache=str(tmp_path))
    write([("a", 0), ("a", 0), ("b", 0)])
    write([("a", 0)])
    with pytest.raises(XpoError, match="call 3 is over max_calls=2"):
      write([("c", 0)])
  assert len(seen) == 2


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"url": "ftp://h/v1"}, "url must be"),
    ({"url": "http://me:secret@h/v1"}, "carries a user, password or query"),
    ({"url": "http://h/v1?key=secret"}, "carries a user, password or query"),
    ({"temperature": -1.0}, "temperature=-1"),
    ({"workers": 0}, "workers=0"),
    ({"seconds": float("inf")}, "seconds=inf"),
    ({"key_variable": "NOT_THERE"}, "variable NOT_THERE holds no usable key"),
    ({"key_variable": "JUDGE_KEY"}, "unencrypted; use https"),
    ({"key_variable": "TWO_LINES"}, "variable TWO_LINES holds no usable key"),
  ],
)
def test_settings(monkeypatch, changes, match):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  monkeypatch.setenv("TWO_LINES", f"{KEY}\nX: y")
  monkeypatch.delenv("NOT_THERE", raising=False)
  with pytest.raises(XpoError, match=match) as e:
    writer(**{"url": "http://example.invalid/v1", **changes})
  assert e.value.code == Exit.USAGE
  assert KEY not in str(e.value) and "secret" not in str(e.value)
