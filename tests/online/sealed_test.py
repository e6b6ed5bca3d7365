"""A rollout between two steps, on the disk."""

import dataclasses

import numpy as np
import pytest

from tests.online import samples
from xpo_jax.errors import Exit, XpoError
from xpo_jax.online import groups, sealed

PROMPTS = samples.prompts(5)


def made(seed=0):
  """Groups in another order than the prompts', one empty, one half absent."""
  noise = np.random.default_rng(seed)
  order = [3, 0, 4, 1]
  scores = noise.normal(size=(4, 3))
  scores[1, 0], scores[2] = np.nan, np.nan
  found = groups.keep_all(
    [PROMPTS[i] for i in order], samples.drawn(4, 3, seed=seed), scores
  )
  more = lambda g: dataclasses.replace(
    g,
    columns={
      name: tuple(noise.normal(size=len(c)).astype("f4") for c in g.completions)
      for name in ("advantages", "sampler_logps")
    },
  )
  return [g and more(g) for g in found]


def same(found, wanted):
  assert len(found) == len(wanted)
  for one, other in zip(found, wanted, strict=True):
    assert (one is None) == (other is None)
    if one is None:
      continue
    plain = lambda g: (g.id, g.cluster, g.ended, g.feedback, g.kind, g.weight)
    assert plain(one)[:4] == plain(other)[:4]
    np.testing.assert_array_equal(one.prompt, other.prompt)
    assert one.columns.keys() == other.columns.keys()
    lists = [(one.completions, other.completions)]
    lists += [(one.columns[n], other.columns[n]) for n in one.columns]
    for a, b in lists:
      assert len(a) == len(b)
      for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def test_the_same_groups_come_back(tmp_path):
  wanted = made()
  note = sealed.write(tmp_path, 4, PROMPTS, wanted)
  same(sealed.read(tmp_path, 4, PROMPTS, note), wanted)


def test_a_rollout_without_any_group(tmp_path):
  note = sealed.write(tmp_path, 0, PROMPTS, [None, None])
  assert sealed.read(tmp_path, 0, PROMPTS, note) == [None, None]


def test_the_digest_is_of_the_numbers(tmp_path):
  note = sealed.write(tmp_path, 4, PROMPTS, made())
  assert sealed.write(tmp_path, 4, PROMPTS, made()) == note
  changed = made()
  changed[0].columns["advantages"][0][0] += 1e-6
  assert sealed.write(tmp_path, 4, PROMPTS, changed) != note


@pytest.mark.parametrize("how", ["gone", "other", "cut", "elsewhere"])
def test_no_other_rollout_is_taken_for_it(tmp_path, how):
  note = sealed.write(tmp_path, 4, PROMPTS, made())
  path = tmp_path / "rollouts" / "000004.rollout"
  if how == "gone":
    path.unlink()
  elif how == "other":
    sealed.write(tmp_path, 4, PROMPTS, made(1))
  elif how == "cut":
    path.write_bytes(path.read_bytes()[:-1])
  else:
    path.rename(path.with_name("000005.rollout"))
  number = 5 if how == "elsewhere" else 4
  with pytest.raises(XpoError, match=f"00000{number}.rollout: missing") as e:
    sealed.read(tmp_path, number, PROMPTS, note)
  assert e.value.code == Exit.CHECKPOINT and "\n" not in str(e.value)
