"""When a run ends before its last step: too far away, or over-optimised."""

from collections.abc import Sequence


def reached(
  history: Sequence[dict[str, float]], kl_budget: float, patience: int
) -> str:
  """Why to stop after the last of `history`, or "".

  Args:
    history: numbers of every evaluation so far: reward, gold and kl/k1.
    kl_budget: nats a sample; 0: any.
    patience: evaluations in a row in which gold fell while the reward did not
      (Gao et al. 2022, arXiv 2210.10760: the proxy is over-optimised); 0: any.
  """
  if not history:
    return ""
  kl = history[-1].get("kl/k1")
  if kl_budget and kl is not None and kl > kl_budget:
    return f"kl_budget: {kl:.2f} nats a sample exceed {kl_budget:g}"
  last = [h for h in history[-patience - 1 :] if "gold" in h]
  if not patience or len(last) <= patience:
    return ""
  worse = [
    b["gold"] < a["gold"] and b["reward"] >= a["reward"]
    for a, b in zip(last, last[1:], strict=False)
  ]
  if all(worse):
    return f"patience: gold fell {patience} times while the reward rose"
  return ""
