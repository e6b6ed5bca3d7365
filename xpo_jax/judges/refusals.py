"""What an endpoint's refusal says, without the key."""

import http.client
import json
import urllib.error

from xpo_jax.errors import XpoError, usage_error

KEY = "XPO_JUDGE_KEY"  # what a user exports
_MOST_BYTES = 1 << 16
_REASONS = ("error", "message", "detail")  # where servers put theirs


def error(
  url: str,
  model: str,
  key_variable: str,
  key: str,
  found: urllib.error.HTTPError,
) -> XpoError:
  """A refusal as a user's error, with the status and the server's words.

  Args:
    url: of the endpoint.
    model: its name there.
    key_variable: the key's environment variable; empty: none was sent.
    key: the key, which the error does not hold.
    found: what was answered, not yet read.
  """
  code = found.code
  if code in (401, 403):
    if not key_variable:
      return usage_error(
        f"remote judge: {url} wants a key (HTTP {code}) and none was sent; "
        f"export it as {KEY}"
      )
    return usage_error(
      f"remote judge: {url} refuses the key (HTTP {code}); check the one in "
      f"environment variable {key_variable}"
    )
  words = redacted(_reason(found), key)
  said = f": {words:.200}" if words else ""
  return usage_error(
    f"remote judge: {url} refuses the request (HTTP {code}{said}); check url, "
    f"model={model!r} and max_tokens"
  )


def redacted(text: str, key: str) -> str:
  """The text in one line, *** for every word with 8 characters of the key."""
  parts = {key[n : n + 8] for n in range(max(1, len(key) - 7))} if key else ()
  words = [
    "***" if any(part in word for part in parts) else word
    for word in text.split()
  ]
  return "".join(c if c.isprintable() else "?" for c in " ".join(words))


def _reason(found: urllib.error.HTTPError) -> str:
  """The reason in the body's JSON, else the whole body; "" if unreadable."""
  try:
    text = found.read(_MOST_BYTES).decode("utf-8", "replace")
  except (OSError, ValueError, http.client.HTTPException):
    return ""
  try:
    inner = json.loads(text)
  except (ValueError, RecursionError):
    return text
  while isinstance(inner, dict):
    inner = next((inner[k] for k in _REASONS if k in inner), None)
  return inner if isinstance(inner, str) and inner else text
