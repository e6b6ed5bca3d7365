"""Policy gradients raise the reward that they get, on held-out prompts."""

import json
import re

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import train
from xpo_jax.evals import statistics

pytestmark = pytest.mark.slow
HELD, K = 48, 4


def things(prompts, texts):
  """Of the words of a text, the share that names one of our things."""
  words = [re.findall("[a-z]+", text.lower()) for text in texts]
  return [
    sum(w in runs.THINGS for w in own) / max(4, len(own)) for own in words
  ]


def held_out(folder, method, steps, **changes):
  """Mean reward [HELD] of every held-out prompt after `steps` steps."""
  folder.mkdir()
  config = runs.make(
    folder,
    method,
    **{
      "rollout__completions": K,
      "data__max_prompt_length": 32,
      "data__max_completion_length": 8,
      "batch__row_length": 128,
      "batch__prompts": 16,
      "judge__name": "function",
      "judge__source": f"{__name__}:things",
      "train__eval_every": 0,
      "train__save_every": 50,
      "train__steps": steps,
      "optimizer__schedule": "constant",
      "optimizer__learning_rate": 1e-3,
    }
    | changes,
  )
  runs.write(folder / "train.jsonl", map(runs.pair, range(32)))
  runs.write(folder / "held.jsonl", map(runs.pair, range(50, 50 + HELD)))
  summary = train.run(config, folder / "run", jax.devices()[:1])
  files = sorted((folder / "run" / "rollouts").glob(f"e{steps:06d}.*.judge"))
  lines = [x for path in files for x in path.read_text().splitlines()]
  scores = np.array([s for x in lines for s in json.loads(x)["scores"]])
  assert scores.shape == (HELD, K)
  assert summary["held_out"]["reward"] == pytest.approx(scores.mean())
  return scores.mean(-1)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """What the policy gets before it has learned; the same for all methods."""
  folder = tmp_path_factory.mktemp("effects")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(folder / "cache"))
    rate = {"optimizer__learning_rate": 1e-12}
    yield held_out(folder / "start", "rloo", 1, **rate)


@pytest.mark.parametrize(
  "method, changes",
  [
    ("rloo", {}),
    ("grpo", {}),
    ("ppo", {"method__kl_coef": 0.02, "rollout__epochs": 2}),
  ],
)
def test_the_reward_rises(start, tmp_path, capsys, method, changes):
  end = held_out(tmp_path / "end", method, 24, **changes)
  found = statistics.paired_bootstrap(start, end, [""] * HELD)
  with capsys.disabled():
    print(
      f"\n{method}: reward {start.mean():.3f} -> {end.mean():.3f}, "
      f"+{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    )
  assert found.low > 0
