import math

import numpy as np
import pytest

from xpo_jax.evals import calibration


def logit(p):
  return math.log(p / (1 - p))


# Confidence .55 twice (one right), .95 four times (three right), a tie.
MARGINS = [logit(0.55), -logit(0.55), *[logit(0.95)] * 3, -logit(0.95), 0.0]


def test_bins_by_hand():
  rows = calibration.bins(MARGINS, 5)
  assert [row.n for row in rows] == [3, 0, 0, 0, 4]
  assert (rows[0].low, rows[0].high) == (0.5, 0.6)
  assert rows[0].confidence == pytest.approx((0.55 + 0.55 + 0.5) / 3)
  assert rows[0].accuracy == 1.5 / 3
  assert rows[4].accuracy == 3 / 4
  assert math.isnan(rows[1].accuracy)


def test_expected_error_by_hand():
  first = 3 / 7 * abs(0.5 - 1.6 / 3)
  last = 4 / 7 * abs(0.75 - 0.95)
  found = calibration.expected_error(MARGINS, 5)
  assert found == pytest.approx(first + last)
  assert math.isnan(calibration.expected_error([]))


def test_a_calibrated_model_has_no_error():
  margins = [logit(0.8)] * 8 + [-logit(0.8)] * 2
  assert calibration.expected_error(margins) == pytest.approx(0, abs=1e-12)


def test_sure_margins_stay_in_the_last_bin():
  rows = calibration.bins([1e4, -1e4])
  assert rows[-1] == (pytest.approx(0.9), 1.0, 2, 1.0, 0.5)


def test_brier():
  margins = [logit(0.7), logit(0.2)]
  found = calibration.brier(margins)
  assert found == pytest.approx((0.3**2 + 0.8**2) / 2)
  assert calibration.brier(margins, [0.7, 0.2]) == pytest.approx(0, abs=1e-15)
  assert calibration.brier([0.0] * 3) == 0.25
  with pytest.raises(ValueError, match="finite"):
    calibration.brier([np.nan])
