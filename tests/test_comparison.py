"""Paired statistics against statsmodels and a hand count; logs are read as lmms-eval writes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from lmms_steer import UserError
from lmms_steer.comparison.logs import read_run
from lmms_steer.comparison.paired import compare


def scores(values: list[int]) -> dict[str, float]:
    return {str(i): float(v) for i, v in enumerate(values)}


def test_gain_and_mcnemar_equal_a_hand_count() -> None:
    before = [1] * 60 + [0] * 40
    after = [1] * 55 + [0] * 5 + [1] * 15 + [0] * 25
    result = compare(scores(before), scores(after))
    assert (result.n, result.fixed, result.broken) == (100, 15, 5)
    assert result.gain == pytest.approx(0.10) and result.accuracy == pytest.approx(0.70)
    # exact McNemar: twice the smaller tail of a fair coin
    assert result.p == pytest.approx(2 * binom.cdf(5, 20, 0.5))
    spread = 1.96 * np.std(np.array(after) - np.array(before)) / 10
    assert result.low == pytest.approx(0.10 - spread, abs=0.02) and result.high == pytest.approx(
        0.10 + spread, abs=0.02
    )


def test_equal_runs_differ_by_nothing() -> None:
    result = compare(scores([1, 0, 1]), scores([1, 0, 1]))
    assert (result.gain, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_runs_on_other_questions_are_refused() -> None:
    with pytest.raises(UserError, match="1 are in only one"):
        compare(scores([1, 0, 1]), scores([1, 0]))


def test_an_empty_folder_and_a_cut_off_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished evaluation"):
        read_run(tmp_path)
    (tmp_path / "20260101_000000_results.json").write_text(json.dumps({"results": {}}))
    (tmp_path / "20260101_000000_samples_t.jsonl").write_text(
        '{"doc_id": 0, "target": "A", "score": 1}\n{"doc_id": 1, "ta'
    )
    with pytest.raises(UserError, match="cut off"):
        read_run(tmp_path)
