"""`--confirm`: the choices are measured on other questions."""

from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.search import run
from lmms_steer.search.questions import load_questions
from tests.helpers.searches import batch_files, result_of, search_into


@pytest.mark.slow
def test_a_choice_and_its_controls_are_confirmed_on_another_task(tmp_path: Path) -> None:
    lines = search_into(tmp_path, limit=32, controls=2, confirm="tiny_counting_ood", batch_size=250)
    confirmed = result_of(tmp_path)["confirmed"]
    assert confirmed["n"] == 1000 and set(confirmed["vectors"]) == {
        "counting",
        "counting,control=random:0",
        "counting,control=random:1",
    }
    assert any("on 1000 other questions (tiny_counting_ood)" in line and "random:" in line for line in lines)


@pytest.mark.slow
def test_a_confirmation_on_the_searched_questions_is_refused_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tiny_counting_select_prompted: 64 of its 500 questions are among those that"):
        search_into(tmp_path, confirm="tiny_counting_select_prompted")
    with pytest.raises(
        UserError, match="--confirm tiny_counting_ll is multiple_choice: this search lets the model generate text"
    ):
        search_into(tmp_path, score="generate", confirm="tiny_counting_ll")
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_confirmation_reports_unparsed_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_questions", lambda *args, **more: list(load_questions(*args, **more))[:40])
    settings = {"limit": 16, "controls": 0, "layers": "1", "alphas": "20", "tokens": "both", "score": "generate"}
    lines = search_into(tmp_path, confirm="tiny_counting_ood", **settings)
    confirmed = result_of(tmp_path)["confirmed"]
    shares = [100 * confirmed["vectors"]["counting"]["unparsed"], 100 * confirmed["baseline_unparsed"]]
    assert shares[0] > shares[1]
    assert any(f"unparsed {shares[0]:.1f}% (baseline {shares[1]:.1f}%)" in line for line in lines)


@pytest.mark.slow
def test_a_confirmation_on_changed_data_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"limit": 16, "controls": 0, "layers": "1", "confirm": "tiny_counting_ood"}
    part = slice(0, 40)
    monkeypatch.setattr(run, "load_questions", lambda *args, **more: list(load_questions(*args, **more))[part])
    search_into(tmp_path / "again", **settings)
    first = result_of(tmp_path / "again")["confirmed"]
    part = slice(40, 80)
    search_into(tmp_path / "again", **settings)
    search_into(tmp_path / "fresh", **settings)
    found = result_of(tmp_path / "again")["confirmed"]
    assert found == result_of(tmp_path / "fresh")["confirmed"] != first
    stamps = [path.stat().st_mtime_ns for path in batch_files(tmp_path / "again")]
    search_into(tmp_path / "again", **settings)
    assert [path.stat().st_mtime_ns for path in batch_files(tmp_path / "again" / "batches")] == stamps[: len(
        batch_files(tmp_path / "again" / "batches"))]  # fmt: skip
