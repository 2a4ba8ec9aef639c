"""If a replay does not match the model with hooks, everything is measured again with hooks."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lmms_steer.search import run
from lmms_steer.search.questions import load_questions
from tests.helpers.searches import batch_files, reject_replays, result_of, search_into, with_approximate_kl


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize("strategy", ["grid", "race"])
def test_everything_is_measured_with_hooks_after_a_wrong_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    settings = {
        "tokens": "image",
        "batch_size": 4,
        "limit": 40,
        "controls": 0,
        "strategy": strategy,
        "blank_image": False,
    }
    search_into(tmp_path / "right", **settings)
    # the first batch that is checked passes, the second does not
    reject_replays(monkeypatch, after=3)
    lines = search_into(tmp_path / "wrong", **settings)
    assert any("10 batches were measured with hooks instead of by replay: Cell" in line for line in lines)
    assert result_of(tmp_path / "wrong") == with_approximate_kl(result_of(tmp_path / "right"))
    for path in (tmp_path / "wrong" / "batches").iterdir():
        assert pq.read_schema(path).metadata[b"hooked"], path


@pytest.mark.slow
@pytest.mark.parametrize("passes", [0, 3], ids=["in the search", "in the confirmation"])
def test_a_wrong_replay_affects_the_search_and_its_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    # five batches: one of the search, and four of a confirmation on fewer questions than the task has
    monkeypatch.setattr(run, "load_questions", lambda *args, **more: list(load_questions(*args, **more))[:64])
    settings = {"limit": 16, "controls": 0, "layers": "1", "confirm": "tiny_counting_ood", "batch_size": 16,
                "blank_image": False}  # fmt: skip
    search_into(tmp_path / "right", **settings)
    compared = reject_replays(monkeypatch, after=passes)
    lines = search_into(tmp_path / "wrong", **settings)
    assert result_of(tmp_path / "wrong") == with_approximate_kl(result_of(tmp_path / "right"))
    assert len(compared) == passes + 1, "after a wrong replay there are no more replays"
    files = [path for path in batch_files(tmp_path / "wrong") if path.parent.name == "batches"]
    assert len(files) == 5 and all(pq.read_schema(path).metadata[b"hooked"] for path in files)
    assert any(line.startswith("5 batches were measured with hooks instead of by replay") for line in lines)
