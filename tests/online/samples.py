"""Made-up draws and prompts, for the tests of what becomes of them."""

import numpy as np

from xpo_jax.data.records import TokenGroup
from xpo_jax.online.draw import Drawn
from xpo_jax.types import Feedback


def prompts(number: int, seed: int = 0, low: int = 2, high: int = 6):
  """`number` prompts of random ids and lengths, without completions."""
  noise = np.random.default_rng(seed)
  return [
    TokenGroup(
      id=f"made:{n + 1}",
      cluster="",
      prompt=noise.integers(3, 32, noise.integers(low, high + 1)).astype("i4"),
      completions=(),
      ended=(),
      feedback=(),
      kind=Feedback.SCORE,
    )
    for n in range(number)
  ]


def drawn(prompts: int, completions: int, new: int = 5, seed: int = 1) -> Drawn:
  """Samples of 1 .. `new` tokens; about half of them have ended."""
  noise = np.random.default_rng(seed)
  size = (prompts, completions)
  lengths = noise.integers(1, new + 1, size)
  mask = np.arange(new) < lengths[..., None]
  fill = lambda x, kind: np.where(mask, x, 0).astype(kind)
  return Drawn(
    fill(noise.integers(3, 32, (*size, new)), np.int32),
    mask,
    fill(noise.normal(-2, 0.5, (*size, new)), np.float32),
    noise.integers(0, 2, size).astype(bool),
  )
