"""`--confirm`: the choices are measured on other questions."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from lmms_steer import UserError
from lmms_steer.search import run
from lmms_steer.search.questions import load_questions
from lmms_steer.tiny_world.question_sets import load_question_set
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
    (line,) = (line for line in lines if "on 1000 other questions (tiny_counting_ood)" in line and "random:" in line)
    # the same study again, without asking for what has been measured
    whole = result_of(tmp_path)
    again = search_into(tmp_path, limit=32, controls=2, batch_size=250, blank_image=False)
    assert result_of(tmp_path) == whole and "blank" in whole
    assert line in again and not any("--confirm TASK" in one for one in again)


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


@pytest.mark.slow
def test_a_confirmation_with_other_settings_for_written_text_is_measured_anew(tmp_path: Path) -> None:
    rows = [
        {"question": row["question"], "word": row["choices"]["ABCDEF".index(row["answer"].strip("()"))],
         "image": row["image"]} for row in load_question_set("counting", "test")[:16]
    ]  # fmt: skip
    columns = {"question": Value("string"), "word": Value("string"), "image": Image()}
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    Dataset.from_list(rows, features=Features(columns)).to_parquet(tasks / "rows.parquet")
    (tasks / "utils.py").write_text("def doc_to_visual(doc):\n    return [doc['image'].convert('RGB')]\n")

    def confirmed(study: str, until: str) -> Any:
        (tasks / "words.yaml").write_text(
            f"task: words\ndataset_path: parquet\ndataset_kwargs:\n  data_files: {{test: {tasks}/rows.parquet}}\n"
            "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{word}}'\n"
            "doc_to_visual: !function utils.doc_to_visual\n"
            f"generation_kwargs: {{max_new_tokens: 1, until: ['{until}']}}\n"
            "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
        )
        settings = {"limit": 8, "controls": 0, "layers": "1", "alphas": "0.5", "tokens": "text", "score": "generate"}
        search_into(tmp_path / study, confirm="words", include_path=tasks, blank_image=False, **settings)
        return result_of(tmp_path / study)["confirmed"]

    first = confirmed("again", until="never written")
    # one, two and four are cut short
    second = confirmed("again", until="o")
    assert second == confirmed("fresh", until="o") and second["baseline"] < first["baseline"]
    measured = [path.stat().st_mtime_ns for path in batch_files(tmp_path / "again" / "confirm")]
    assert confirmed("again", until="never written") == first and len(measured) == 2
    stamps = [path.stat().st_mtime_ns for path in batch_files(tmp_path / "again" / "confirm")]
    assert stamps == measured, "nothing is repeated"
