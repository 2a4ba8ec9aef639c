"""The comparison of two systems on the same questions: gain, interval and p."""

import numpy as np
import pytest
from scipy.stats import binom

from lmms_steer import UserError
from lmms_steer.statistics.paired import compare_by_document
from tests.helpers.runs import BASE, STEERED, by_document


def test_gain_and_mid_p_equal_a_hand_count() -> None:
    result = compare_by_document(by_document(BASE), by_document(STEERED))
    assert (result.n, result.fixed, result.broken) == (100, 15, 5)
    assert result.gain == pytest.approx(0.10) and result.accuracy == pytest.approx(0.70)
    # twice the smaller tail of a fair coin, less the observed outcome
    assert result.p == pytest.approx(2 * binom.cdf(5, 20, 0.5) - binom.pmf(5, 20, 0.5))
    spread = 1.96 * np.std(np.array(STEERED) - np.array(BASE)) / 10
    assert [result.low, result.high] == pytest.approx([0.10 - spread, 0.10 + spread], abs=0.02)


def test_equal_runs_have_no_gain_and_an_interval_with_a_width() -> None:
    result = compare_by_document(by_document(BASE), by_document(BASE))
    assert (result.gain, result.p) == (0, 1)
    assert [-result.low, result.high] == pytest.approx([0.037, 0.037], abs=0.001)


def test_runs_on_different_questions_are_refused() -> None:
    with pytest.raises(UserError, match="1 are in only one"):
        compare_by_document(by_document([1, 0, 1]), by_document([1, 0]))
