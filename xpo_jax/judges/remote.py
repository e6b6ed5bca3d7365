"""A writer behind an OpenAI-compatible endpoint, on this machine or elsewhere.

Every reply is kept in a folder under the hash of its question, so that a run
that is resumed, or judged again, asks nothing twice. The key comes from the
environment only, and is in no message, file or repr.
"""

from collections.abc import Callable, Iterable, Sequence
import concurrent.futures
import dataclasses
import hashlib
import http.client
import ipaddress
import json
import math
import os
from pathlib import Path
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from xpo_jax.data.records import Prompt
from xpo_jax.errors import XpoError, storage_error, usage_error
from xpo_jax.judges import refusals
from xpo_jax.judges.candidates import Reply, Write

_RETRIED = (408, 409, 425, 429)  # and all 5xx
_ONE_QUESTION = (400, 413, 422)  # a long question gets these, as a wrong model
_MOST_BYTES = 8 << 20
_LONGEST_PAUSE = 30.0


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """Where to ask, and how.

  Attributes:
    url: up to and without /chat/completions, e.g. http://127.0.0.1:8000/v1.
    model: its name there.
    key_variable: environment variable that holds the key; empty: no key.
    temperature: of its sampling; replies with the same question but another
      number are only different above 0.
    max_tokens: of a reply.
    seconds: that one request may take.
    retries: further tries after one that failed.
    pause: seconds before the first retry; doubles each time.
    workers: requests at once.
    max_calls: of this process, without retries; 0: no limit.
    cache: folder of the replies; empty: none are kept.
  """

  url: str
  model: str
  key_variable: str = ""
  temperature: float = 0.0
  max_tokens: int = 512
  seconds: float = 60.0
  retries: int = 4
  pause: float = 1.0
  workers: int = 4
  max_calls: int = 0
  cache: str = ""


def make_writer(endpoint: Endpoint) -> Write:
  """A `Write` that asks the endpoint.

  A reply that is still broken after the retries is None, so that the judge
  counts it as invalid. So is one to a question that is refused with HTTP 400,
  413 or 422 (it may be too long) by an endpoint that answers others.

  Raises:
    XpoError: (64) a bad setting, or no key in the environment; when asked,
      (64) the endpoint refuses the key or the request, or max_calls is reached,
      (74) it cannot be reached.
  """
  _check(endpoint)
  opener = _opener(endpoint)
  calls, answers, told = 0, False, False

  def write(requests: Sequence[tuple[Prompt, int]]) -> list[Reply | None]:
    nonlocal calls, answers, told
    bodies = [_body(endpoint, prompt, n) for prompt, n in requests]
    names = [
      _hash(endpoint, body, n)
      for body, (_, n) in zip(bodies, requests, strict=True)
    ]
    found = {name: _cached(endpoint, name) for name in names}
    missing = {
      name: body
      for name, body in zip(names, bodies, strict=True)
      if found[name] is None
    }
    calls += len(missing)
    if endpoint.max_calls and calls > endpoint.max_calls:
      raise usage_error(
        f"remote judge: call {calls} is over max_calls={endpoint.max_calls}; "
        "raise it, or judge less"
      )

    def fetch(name: str) -> XpoError | None:
      reply = _ask(endpoint, opener, missing[name])
      if isinstance(reply, XpoError):
        return reply
      found[name] = reply
      _keep(endpoint, name, reply)
      return None

    errors = [e for e in _all(fetch, missing, endpoint.workers) if e]
    answers = answers or any(found.values())
    if errors and not answers:
      raise errors[0]
    if errors and not told:
      told = True
      print(f"warning: {errors[0]}; such questions count as invalid replies")
    return [found[name] for name in names]

  return write


def _all(
  fetch: Callable[[str], XpoError | None], names: Iterable[str], workers: int
) -> list[XpoError | None]:
  """fetch of each name; one that raises stops those not begun."""
  stopped = threading.Event()

  def unless_stopped(name: str) -> XpoError | None:
    if stopped.is_set():
      return None
    try:
      return fetch(name)
    except BaseException:
      stopped.set()
      raise

  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    return list(pool.map(unless_stopped, names))
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _check(it: Endpoint) -> None:
  parts = urllib.parse.urlsplit(it.url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise usage_error("remote judge: url must be http(s)://host[:port]/path")
  if parts.username or parts.password or parts.query:
    raise usage_error(
      "remote judge: url carries a user, password or query; leave them out and "
      f"export the key as {it.key_variable or refusals.KEY}"
    )
  for name, value, good in (
    ("temperature", it.temperature, it.temperature >= 0),
    ("max_tokens", it.max_tokens, it.max_tokens >= 1),
    ("seconds", it.seconds, it.seconds > 0),
    ("retries", it.retries, 0 <= it.retries <= 20),
    ("pause", it.pause, it.pause >= 0),
    ("workers", it.workers, 1 <= it.workers <= 64),
    ("max_calls", it.max_calls, it.max_calls >= 0),
  ):
    if not (good and math.isfinite(value)):
      raise usage_error(f"remote judge: {name}={value} is out of range")
  key = _key(it)
  if key and parts.scheme == "http" and not _is_loopback(parts.hostname):
    raise usage_error(
      f"remote judge: the key in {it.key_variable} would go to "
      f"{parts.hostname} unencrypted; use https"
    )


def _key(it: Endpoint) -> str:
  if not it.key_variable:
    return ""
  key = os.environ.get(it.key_variable, "")
  # http.client quotes a header that it refuses.
  if not key or not key.isascii() or not key.isprintable() or " " in key:
    raise usage_error(
      f"remote judge: environment variable {it.key_variable} holds no usable "
      "key; export it"
    )
  return key


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def _opener(it: Endpoint) -> urllib.request.OpenerDirector:
  """Follows no redirects: they would carry the key elsewhere."""
  opener = urllib.request.OpenerDirector()
  host = urllib.parse.urlsplit(it.url).hostname
  proxies = {} if _is_loopback(host) else None
  for handler in (
    urllib.request.ProxyHandler(proxies),
    urllib.request.HTTPHandler(),
    urllib.request.HTTPSHandler(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPErrorProcessor(),
  ):
    opener.add_handler(handler)
  return opener


def _body(it: Endpoint, prompt: Prompt, number: int) -> bytes:
  turns = (
    [{"role": "user", "content": prompt}]
    if isinstance(prompt, str)
    else [{"role": m.role, "content": m.content} for m in prompt]
  )
  body = {
    "model": it.model,
    "messages": turns,
    "temperature": it.temperature,
    "max_tokens": it.max_tokens,
  }
  if it.temperature > 0:
    body["seed"] = number
  return json.dumps(body, sort_keys=True).encode()


def _hash(it: Endpoint, body: bytes, number: int) -> str:
  whole = json.dumps([it.url, number]).encode() + body
  return hashlib.sha256(whole).hexdigest()


def _cached(it: Endpoint, name: str) -> Reply | None:
  """A reply of an earlier call; what is damaged there is asked anew."""
  if not it.cache:
    return None
  try:
    path = Path(it.cache) / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    text, whole = found["text"], found["whole"]
  except (OSError, ValueError, KeyError, TypeError):
    return None
  good = isinstance(text, str) and isinstance(whole, bool)
  return Reply(text, whole) if good else None


def _keep(it: Endpoint, name: str, reply: Reply | None) -> None:
  if not it.cache or reply is None:
    return
  folder = Path(it.cache)
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
  with os.fdopen(handle, "w", encoding="utf-8") as f:
    json.dump(reply._asdict(), f)
    f.flush()
    os.fsync(f.fileno())
  os.replace(part, folder / f"{name}.json")


def _ask(it: Endpoint, opener, body: bytes) -> Reply | XpoError | None:
  """One question, tried again as long as that can help.

  Returns:
    the reply; None if it stays broken; an error if this question is refused.
  """
  unreachable = ""
  for turn in range(it.retries + 1):
    try:
      return _post(it, opener, body)
    except urllib.error.HTTPError as e:
      unreachable, after = "", _retry_after(e)
      with e:
        if e.code not in _RETRIED and e.code < 500:
          refused = refusals.error(
            it.url, it.model, it.key_variable, _key(it), e
          )
          if e.code in _ONE_QUESTION:
            return refused
          raise refused from None
    except (OSError, ValueError, http.client.HTTPException) as e:
      after = 0.0
      # A URLError is an OSError; the others did answer, if badly.
      unreachable = type(e).__name__ if isinstance(e, OSError) else ""
      reason = getattr(e, "reason", None)
      if isinstance(reason, OSError) and reason.strerror:
        unreachable = reason.strerror
    if turn < it.retries:
      time.sleep(min(_LONGEST_PAUSE, max(after, it.pause * 2**turn)))
  if unreachable:
    raise storage_error(
      f"remote judge: no answer from {it.url} ({unreachable}) after "
      f"{it.retries + 1} tries; is the server up?"
    )
  return None


def _post(it: Endpoint, opener, body: bytes) -> Reply:
  """Raises ValueError for what is no chat completion."""
  headers = {"Content-Type": "application/json"}
  if key := _key(it):
    headers["Authorization"] = f"Bearer {key}"
  url = f"{it.url.rstrip('/')}/chat/completions"
  request = urllib.request.Request(url, body, headers, method="POST")
  with opener.open(request, timeout=it.seconds) as response:
    raw = response.read(_MOST_BYTES + 1)
  if len(raw) > _MOST_BYTES:
    raise ValueError("too long")
  try:
    choice = json.loads(raw)["choices"][0]
    text, reason = choice["message"]["content"], choice.get("finish_reason")
  except (LookupError, TypeError, AttributeError, RecursionError) as e:
    raise ValueError("no chat completion") from e
  if not isinstance(text, str):
    raise ValueError("no text")
  return Reply(text, reason != "length")


def _retry_after(error: urllib.error.HTTPError) -> float:
  value = error.headers.get("Retry-After", "")
  return float(value) if value.isdigit() else 0.0
