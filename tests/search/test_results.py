"""The result of a search: its file, old and new, and how it is printed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.search.report import format_damage, format_gain
from lmms_steer.search.results import CellResult, Gain, SearchResult

CELL = {"layer": 3, "alpha": 0.5, "tokens": "image", "accuracy": 0.75, "gain": 0.125, "low": 0.01, "high": 0.24,
        "p": 0.03, "fixed": 10, "broken": 2}  # fmt: skip
CONTROL = {**CELL, "alpha": 1.5, "accuracy": 0.625, "gain": 0.0, "unparsed": 0.25}

# what the first release wrote: no version; keys only where there is something to say
FIRST_RELEASE = """{
 "n": 64, "baseline": 0.625, "baseline_unparsed": 0.0, "cells": 24,
 "vectors": {"counting": {
   "best": {"layer": 3, "alpha": 0.5, "tokens": "image", "accuracy": 0.75, "gain": 0.125, "low": 0.01, "high": 0.24,
            "p": 0.03, "fixed": 10, "broken": 2, "unparsed": 0.125,
            "p_corrected": 0.04, "winner": true, "cells_tried": 12, "finalists": 4, "counted_on": 43},
   "one_standard_error": {"layer": 1, "alpha": 0.5, "tokens": "both", "accuracy": 0.734375, "gain": 0.109375,
            "low": 0.0, "high": 0.22, "p": 0.05, "fixed": 9, "broken": 2, "unparsed": 0.0},
   "controls": {"random:0": {"layer": 1, "alpha": 1.5, "tokens": "text", "accuracy": 0.640625, "gain": 0.015625,
            "low": -0.05, "high": 0.08, "p": 1.0, "fixed": 2, "broken": 1, "unparsed": 0.0}}}},
 "images": 40,
 "calibrated": {"scored_by": "letters", "baseline": 0.625, "accuracy": 0.65625, "gain": 0.03125, "low": -0.02,
            "high": 0.08, "p": 0.4, "fixed": 3, "broken": 1},
 "confirmed": {"task": "tiny_counting_ood", "n": 1000, "baseline": 0.5, "baseline_unparsed": 0.001, "vectors": {
   "counting": {"layer": 3, "alpha": 0.5, "tokens": "image", "accuracy": 0.55, "gain": 0.05, "low": 0.02, "high": 0.08,
            "p": 0.001, "fixed": 80, "broken": 30, "unparsed": 0.002},
   "counting,control=random:0": {"layer": 1, "alpha": 1.5, "tokens": "text", "accuracy": 0.5, "gain": 0.0,
            "low": -0.01, "high": 0.01, "p": 1.0, "fixed": 5, "broken": 5, "unparsed": 0.001}}}
}"""


def minimal(**more: Any) -> dict[str, Any]:
    best = {**CELL, "p_corrected": 0.2, "winner": False, "cells_tried": 2, "finalists": 2, "counted_on": 64}
    vectors = {"v": {"best": best, "one_standard_error": CELL, "controls": {"random:0": CONTROL}}}
    return {"n": 64, "baseline": 0.625, "cells": 4, "vectors": vectors, **more}


def test_a_result_of_the_first_release_is_read_and_written_with_the_same_content() -> None:
    old = json.loads(FIRST_RELEASE)
    result = SearchResult.from_json(old)
    counting = result.vectors["counting"]
    assert (counting.best.layer, counting.best.gain, counting.p_corrected, counting.winner) == (3, 0.125, 0.04, True)
    assert counting.controls["random:0"].tokens == "text" and result.n_images == 40
    assert result.confirmed is not None and result.confirmed.vectors["counting"].unparsed == 0.002
    assert result.calibrated is not None and result.calibrated.baseline == 0.625
    assert result.to_json() == {**old, "version": 2}


def test_unknown_values_are_left_out_of_the_file_and_read_as_none(tmp_path: Path) -> None:
    result = SearchResult.from_json(minimal())
    assert result.n_images is None and result.confirmed is None and result.vectors["v"].best.unparsed is None
    assert result.vectors["v"].controls["random:0"].unparsed == 0.25
    result.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == minimal(version=2)
    assert SearchResult.read(tmp_path) == result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is the search finished"),
        ("half", "is the search finished"),
        ('{"version": 3}', "has version 3: this lmms-steer reads 1 and 2"),
        ('{"n": 3}', "is not the result of a search"),
        ("[]", "is not the result of a search: expected an object"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=message):
        SearchResult.read(tmp_path)


def test_earlier_measurements_are_kept_where_they_are_of_the_same_cells() -> None:
    again = {"task": "t", "n": 9, "baseline": 0.5, "vectors": {"v": CELL}}
    both = {**again, "vectors": {"v": CELL, "v,control=random:0": CONTROL}}
    earlier, plain = SearchResult.from_json(minimal(confirmed=both, blank=again)), SearchResult.from_json(minimal())
    assert plain.with_earlier(earlier) == earlier
    other = minimal()
    other["vectors"]["v"]["controls"]["random:0"] = {**CONTROL, "alpha": 0.5}
    found = SearchResult.from_json(other).with_earlier(earlier)
    assert found.confirmed is None and found.blank == earlier.blank
    other["vectors"]["v"]["best"]["layer"] = 4
    assert SearchResult.from_json(other).with_earlier(earlier) == SearchResult.from_json(other)
    assert plain.with_earlier(plain) == plain


def test_an_infinite_interval_is_null_in_the_file(tmp_path: Path) -> None:
    content = minimal(version=2, images=1)
    endless = {**CELL, "low": None, "high": None}
    content["vectors"]["v"]["best"] |= {"low": None, "high": None}
    content["vectors"]["v"] |= {"one_standard_error": endless, "controls": {"random:0": endless}}
    result = SearchResult.from_json(content)
    best = result.vectors["v"].best
    assert (best.low, best.high) == (-math.inf, math.inf)
    assert format_gain(best) == "+12.5 points [-∞, +∞]"
    result.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == content
    assert SearchResult.read(tmp_path) == result


def test_a_gain_that_rounds_to_zero_has_no_sign() -> None:
    gain = Gain(accuracy=0.5, gain=-0.0001, low=-0.012, high=0.0004, p=1.0, fixed=1, broken=1)
    assert format_gain(gain) == "0.0 points [-1.2, 0.0]"


def test_a_result_says_in_one_line_what_was_found() -> None:
    result = SearchResult.from_json(json.loads(FIRST_RELEASE))
    assert (
        repr(result)
        == str(result)
        == (
            "SearchResult of 24 cells on 64 questions, baseline 0.625; counting: layer=3,alpha=0.5,tokens=image,"
            " +12.5 points (winner of 12 cells, corrected p 0.040)"
        )
    )
    assert "(no winner of 2 cells, corrected p 0.200)" in repr(SearchResult.from_json(minimal()))
    assert result == SearchResult.from_json(result.to_json())


def test_damage_counts_answers_in_the_plural_only_where_there_are_several() -> None:
    cell: dict[str, Any] = {**CELL, "kl": 0.0297, "broken": 19, "fixed": 36}
    assert format_damage(CellResult(**cell)) == "KL 0.0297 nats, 19 right answers broken, 36 wrong ones mended"
    cell |= {"broken": 1, "fixed": 1}
    assert format_damage(CellResult(**cell)) == "KL 0.0297 nats, 1 right answer broken, 1 wrong one mended"
