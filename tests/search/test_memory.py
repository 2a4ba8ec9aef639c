"""`lmms-steer search` on a device with too little memory: smaller batches and stacks, the same study."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer._util.logging import print_notes
from lmms_steer.search.batch_store import BatchStore
from tests.helpers.memory import limited_to
from tests.helpers.searches import reject_replays, search_into, with_approximate_kl

SETTINGS = {"limit": 32, "batch_size": 16, "controls": 1, "blank_image": False}


def cells_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "cells.parquet").to_pylist()
    return rows


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize(("strategy", "score"), [("grid", "letters"), ("grid", "generate"), ("race+screen", "letters")])
def test_batches_that_do_not_fit_are_measured_in_parts_and_give_the_same_study(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], strategy: str, score: str
) -> None:
    print_notes()
    settings = {**SETTINGS, "strategy": strategy, "score": score}
    search_into(tmp_path / "whole", **settings)
    capfd.readouterr()
    with limited_to(4):
        search_into(tmp_path / "parts", **settings)
    notes = capfd.readouterr().err
    # the screen and the search each find it out once
    times = 1 + ("screen" in strategy)
    assert notes.count("out of memory with 16 questions at once, going on with 8") == times
    assert "out of memory with 8 questions at once, going on with 4" in notes
    if score == "letters":
        # the limit found with one stack of five holds for other layers and batches: one note for each of its parts
        assert 1 <= notes.count("cells at once, going on with") <= 4
    assert cells_of(tmp_path / "parts") == with_approximate_kl(cells_of(tmp_path / "whole"))
    for name in ("choice.yaml", "control_random_0.yaml"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_search_is_resumed_in_smaller_parts(tmp_path: Path) -> None:
    search_into(tmp_path, **SETTINGS)
    whole, chosen = with_approximate_kl(cells_of(tmp_path)), (tmp_path / "choice.yaml").read_bytes()
    sorted((tmp_path / "batches").iterdir())[-1].unlink()
    with limited_to(3):
        search_into(tmp_path, **SETTINGS)
    assert cells_of(tmp_path) == whole
    assert (tmp_path / "choice.yaml").read_bytes() == chosen


@pytest.mark.slow
def test_a_part_replayed_before_a_wrong_replay_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first part's cells pass, the second's do not
    compared = reject_replays(monkeypatch, after=3)
    write_batch, measured = BatchStore._write_batch, list[str]()

    def recorded(store: BatchStore, path: Path, *args: Any, **more: Any) -> None:
        measured.append(path.name)
        write_batch(store, path, *args, **more)

    monkeypatch.setattr(BatchStore, "_write_batch", recorded)
    with limited_to(8):
        search_into(tmp_path, **SETTINGS)
    assert measured == ["000-00000.parquet", "000-00001.parquet", "000-00000.parquet"]
    assert len(compared) == 4 and (tmp_path / "hooked.txt").is_file()
    assert all(pq.read_schema(path).metadata[b"hooked"] for path in (tmp_path / "batches").iterdir())


@pytest.mark.slow
def test_a_single_question_that_does_not_fit_is_an_error_in_one_line(tmp_path: Path) -> None:
    with limited_to(0), pytest.raises(UserError, match="out of memory with one question.* 1 rows") as caught:
        search_into(tmp_path, **SETTINGS)
    assert "\n" not in str(caught.value) and "--memory 0" in str(caught.value)
