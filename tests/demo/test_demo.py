"""The demo's rows and the files that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from lmms_steer.demo.layout import Folders
from lmms_steer.demo.page import print_table
from lmms_steer.demo.results import ColourCurve, collect_rows, read_curve, write_curve, write_rows
from lmms_steer.statistics.paired import compare_by_document
from tests.helpers.runs import BASE, STEERED, by_document, write_run


def test_rows_are_compared_by_image_where_questions_share_one(tmp_path: Path) -> None:
    folders, images = Folders(tmp_path), np.arange(100) // 10
    for name, scores in (("baseline", BASE), ("mean_shift", STEERED)):
        shown = {"tiny_spatial": scores, "tiny_spatial_ood": scores}
        write_run(folders.run("spatial", name), shown, sample=lambda number: {"images": [f"{number // 10}"]})
    (row,) = [row for row in collect_rows(folders) if (row.system, row.split) == ("mean_shift", "test")]
    by_image = compare_by_document(by_document(BASE), by_document(STEERED), images)
    independent = compare_by_document(by_document(BASE), by_document(STEERED))
    assert row.low == pytest.approx(by_image.low) and row.low < independent.low - 0.05
    assert row.p == pytest.approx(by_image.p, abs=0.02) and row.p > independent.p + 0.05


def test_results_json_has_these_keys_and_values(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for name, scores in (("baseline", BASE), ("mean_shift-random-0", STEERED)):
        write_run(folders.run("colour", name), {"tiny_colour": scores, "tiny_colour_ood": scores})
    write_rows(collect_rows(folders), folders.results)
    rows = json.loads(folders.results.read_text())
    assert [(row["task"], row["split"], row["system"]) for row in rows] == [
        ("colour", split, system) for system in ("baseline", "random-0") for split in ("test", "ood")
    ]
    assert list(rows[2]) == [
        "task", "split", "system", "args", "n", "accuracy", "gain", "low", "high", "fixed", "broken", "p", "unparsed",
        "spec_sha256",
    ]  # fmt: skip
    assert rows[2]["args"] == "pretrained=tiny,vector=v" and rows[2]["unparsed"] is None
    assert (rows[2]["n"], rows[2]["accuracy"], rows[2]["fixed"], rows[2]["broken"]) == (100, 0.7, 15, 5)


def test_colour_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    curve = ColourCurve(2, (0.0, 1.0), {"red": {0: [0.1, 0.9]}, "random-0": {0: [0.1, 0.2]}})
    write_curve(curve, tmp_path / "curve.json")
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content == {"n": 2, "alphas": [0.0, 1.0], "p_red": {"red": {"0": [0.1, 0.9]}, "random-0": {"0": [0.1, 0.2]}}}
    assert read_curve(tmp_path / "curve.json") == curve and curve.random_vectors == ["random-0"]


def test_a_small_p_is_not_printed_as_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    for name, scores in (("baseline", BASE), ("mean_shift", [1.0] * 100)):
        write_run(folders.run("spatial", name), {"tiny_spatial": scores, "tiny_spatial_ood": scores})
    print_table(collect_rows(folders))
    printed = capsys.readouterr().out
    assert printed.count("<0.001") == 2 and "0.000" not in printed
