"""Flags of `xpo sample`, from the command line to the texts."""

import argparse

import pytest

from xpo_jax import parallel, pretrained, sample_options
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import byte_tokenizer


def parsed(*flags):
  parser = argparse.ArgumentParser()
  sample_options.add_flags(parser)
  args = parser.parse_args(["--model=tiny", *flags])
  sample_options.check(args)
  return sample_options.options(args)


def test_every_option_is_a_keyword_of_sample():
  assert parsed() == dict(
    max_new_tokens=128, temperature=0.7, top_p=1.0, top_k=0, stop=[], seed=0
  )
  found = parsed("--top-k=5", "--stop=a, b", "--stop", "\n", "--seed=2")
  assert (found["top_k"], found["stop"]) == (5, ["a, b", "\n"])


def test_beams_take_no_noise():
  found = parsed("--beams=3", "--max-new-tokens=5")
  assert found == dict(max_new_tokens=5, stop=[], beams=3)
  with pytest.raises(XpoError, match="--beams=-1 must be >= 0"):
    parsed("--beams=-1")
  for flag in ("--temperature=1.0", "--top-p=0.5", "--top-k=3", "--seed=2"):
    with pytest.raises(XpoError, match=f"{flag}: --beams draws nothing"):
      parsed("--beams=3", flag)


def test_help_names_them(xpo):
  code, out, _ = xpo("sample", "--help")
  assert code == 0 and "--top-k" in out and "--stop TEXT" in out


@pytest.mark.slow
def test_the_command_cuts_at_a_stop(xpo, monkeypatch):
  """Greedy twice, by temperature and by top-k 1; then it stops on the way."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  asked = []
  sample = pretrained.Pretrained.sample

  def spy(self, *inputs, **options):
    found = sample(self, *inputs, **options)
    asked.append(found)
    return found

  monkeypatch.setattr(pretrained.Pretrained, "sample", spy)
  command = ("sample", "--model=tiny", "--prompt=ab", "--max-new-tokens=12")
  assert xpo(*command, "--temperature=0")[0] == 0
  assert xpo(*command, "--temperature=1", "--top-k=1", "--seed=3")[0] == 0
  (_, ((free,),)), (_, ((same,),)) = asked
  assert free == same
  tokenizer = byte_tokenizer()
  stop = next(letter for letter in free[1:] if letter.isascii())
  assert xpo(*command, "--temperature=0", f"--stop={stop}")[0] == 0
  samples, ((cut,),) = asked[-1]
  assert cut == free[: free.index(stop)]
  drawn = tokenizer.decode(samples.tokens[0, 0][samples.mask[0, 0]])
  assert stop in drawn and len(drawn) < len(free)
