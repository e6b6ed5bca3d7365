import math

import numpy as np
import pytest

from xpo_jax.evals import compare
from xpo_jax.evals.statistics import Estimate, Interval

CLUSTERS = ["a", "a", "b", "b"]
BASE = ["bad film", "bad film", "good film", "a dull film"]
NEW = ["good film", "good good film", "good film", "a good film"]


def goods(texts):
  return np.asarray([t.split().count("good") for t in texts], np.float64)


def by_name(rows):
  return {row.measure: row for row in rows}


def test_summarise_by_hand():
  found = compare.summarise(BASE, CLUSTERS, {"goods": goods})
  # goods 0 0 1 0: mean 1/4; sums a -1/2, b 1/2; CR1 = (1/2) / 16 * 2 = 1/16.
  assert found["goods"] == (0.25, 0.25, 4, 2)
  # words 2 2 2 3: mean 9/4; sums a -1/2, b 1/2.
  assert found["words"] == (2.25, 0.25, 4, 2)
  # Two of four equal; bigrams: bad film x2, good film, a dull, dull film.
  assert found["identical"].mean == 0.5
  assert found["distinct-2"].mean == 4 / 5
  assert math.isnan(found["distinct-2"].se)


def test_compare_by_hand():
  row = by_name(compare.compare(BASE, NEW, CLUSTERS, {"goods": goods}))["goods"]
  # goods 0 0 1 0 -> 1 2 1 1: differences a 1 2, b 0 1; higher in 3, one tie.
  assert row.base.mean == 0.25 and row.new.mean == 1.25
  # Cluster samples aa, ab, bb: means 3/2, 1, 1/2.
  assert row.difference == (1.0, 0.5, 1.5)
  assert row.higher.value == 3.5 / 4
  assert row.unscorable == 0


def test_corpus_measures_have_a_difference_without_interval():
  row = by_name(compare.compare(BASE, NEW, CLUSTERS, {}))["identical"]
  # NEW: "good film" twice in four; BASE: "bad film" twice in four.
  assert (row.base.mean, row.new.mean, row.difference.value) == (0.5, 0.5, 0.0)
  assert math.isnan(row.difference.low)


def test_unscorable_pairs_leave_both_sides_and_are_counted():
  def judge(texts):
    return np.asarray([math.nan if "dull" in t else len(t) for t in texts])

  rows = by_name(compare.compare(BASE, NEW, CLUSTERS, {"judge": judge}))
  assert rows["judge"].unscorable == 1
  # NEW keeps texts of 9, 14 and 9 letters: the partner of "dull" is out.
  assert rows["judge"].new.mean == pytest.approx((9 + 14 + 9) / 3)
  found = compare.summarise(BASE, CLUSTERS, {"judge": judge})
  assert found["judge"].n == 3


def test_a_scorer_of_the_wrong_shape_is_named():
  with pytest.raises(ValueError, match="judge"):
    compare.measure(BASE, {"judge": lambda texts: np.zeros(3)})


def test_lengths_must_agree():
  with pytest.raises(ValueError, match="4 texts for 3 clusters"):
    compare.summarise(BASE, CLUSTERS[:3], {})


def test_final_table_has_a_column_a_stage():
  measured = {
    name: compare.measure(texts, {"goods": goods})
    for name, texts in (("SFT", BASE), ("DPO", NEW))
  }
  stages = {n: compare.estimates(m, CLUSTERS) for n, m in measured.items()}
  rows = compare.differences(*measured.values(), CLUSTERS)
  table = compare.final_table("t", stages, rows, "DPO - SFT")
  assert table["columns"] == [
    "measure", "SFT", "DPO", "DPO - SFT [95%]", "higher",
  ]  # fmt: skip
  assert table["rows"][0] == [
    "goods", "0.250 ± 0.250", "1.250 ± 0.250", "+1.000 [+0.500, +1.500]", "88%",
  ]  # fmt: skip


def test_texts_of_numbers():
  assert compare.estimate_text(Estimate(17.25, 0.5, 9, 3)) == "17.2 ± 0.500"
  assert compare.estimate_text(Estimate(math.nan, math.nan, 0, 0)) == "–"
  assert compare.interval_text(Interval(-0.5, math.nan, math.nan)) == "-0.500"
