"""From a judge's raw scores to the feedback that the loss gets."""

import numpy as np


def shaped(
  scores: np.ndarray,
  ended: np.ndarray,
  tokens: np.ndarray,
  characters: np.ndarray,
  *,
  clip_scores: float = 0.0,
  missing_eos_penalty: float = 0.0,
  length_penalty: float = 0.0,
  overlong_buffer: int = 0,
  longest: int = 0,
) -> np.ndarray:
  """clip(score) - penalties; NaN stays NaN.

  Args:
    scores: [B, K] raw.
    ended: bool [B, K]; where False, `missing_eos_penalty` is taken off.
    tokens: int [B, K] tokens of each completion, EOS included.
    characters: int [B, K]; `length_penalty` is taken off for each.
    clip_scores: scores first stay within +-this; 0: off.
    missing_eos_penalty: see ended.
    length_penalty: see characters.
    overlong_buffer: L_c of DAPO; 0: off.
    longest: L_max of DAPO, tokens.

  Source: methods.md 2.1 (step 2), 2.3, 14.1.
  """
  out = np.asarray(scores, np.float64)
  if clip_scores:
    out = np.clip(out, -clip_scores, clip_scores)
  out = out - missing_eos_penalty * ~np.asarray(ended)
  out = out - length_penalty * np.asarray(characters)
  if overlong_buffer:
    out = out + overlong(tokens, longest, overlong_buffer)
  return out


def overlong(tokens: np.ndarray, longest: int, buffer: int) -> np.ndarray:
  """0 up to longest - buffer, falling to -1 at `longest` and beyond.

  Source: Yu et al. 2025, arXiv 2503.14476, eq. 13.
  """
  return np.clip((longest - buffer - np.asarray(tokens)) / buffer, -1, 0)


def decided(scores: np.ndarray) -> np.ndarray:
  """bool [B]: the valid scores of a prompt are not all equal (DAPO)."""
  valid = np.isfinite(scores)
  high = np.where(valid, scores, -np.inf).max(-1)
  low = np.where(valid, scores, np.inf).min(-1)
  return valid.any(-1) & (high > low)


def alike(scores: np.ndarray) -> np.ndarray:
  """bool [B]: two or more valid scores of a prompt, and all are equal."""
  return (np.isfinite(scores).sum(-1) > 1) & ~decided(scores)
