"""Running cells: results of several workers, failures, resuming. The cells are shell commands."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from lmms_steer import UserError
from lmms_steer.recipes.cells import Cell, Marks, missing_output
from lmms_steer.recipes.command import run_cells
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.worker import run_cell
from tests.helpers.recipes import chain, ran, shell, states
from tests.helpers.runs import STAMP, write_run


@pytest.mark.slow
def test_two_workers_give_the_same_table_as_one_and_done_cells_are_kept(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        list(run_cells(tmp_path / name, chain(tmp_path / name), count))
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "table.txt").read_text() == (two / "table.txt").read_text() == "0\n0\n1\n1\n2\n2\n3\n3\n"
    assert sorted(ran(two)) == sorted(cell.name for cell in chain(two)), "no cell ran twice"
    # another command, and a file that somebody changed: these and what hangs on them run again, the rest is kept
    (one / "b3.txt").write_text("changed")
    cells = chain(one)
    cells[0] = shell("a0", "echo 9 > $OUT", one)
    list(run_cells(one, cells, 1))
    assert ran(one)[9:] == ["a0", "b0", "b3", "table"]
    assert (one / "table.txt").read_text() == "9\n9\n1\n1\n2\n2\n3\n3\n"
    assert sum(state == "kept" for state in states(one).values()) == 5


@pytest.mark.slow
def test_cells_that_need_a_failed_one_are_skipped_and_the_rest_runs(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    cells[1] = shell("a1", "echo 'lmms-steer: no such vector' >&2; exit 2", tmp_path)
    cells[2] = shell("a2", "true", tmp_path)  # ends well, but leaves nothing
    lines: list[str] = []
    with pytest.raises(UserError, match="2 cells failed and 3 were skipped"):
        lines += run_cells(tmp_path, cells, 1)
    ended = Ledger(tmp_path).states()
    assert ended["a1"].why == "no such vector" and ended["b1"].why == ended["table"].why == "needs a1"
    assert "it did not write" in str(ended["a2"].why)
    assert states(tmp_path) | {"b0": "done", "b3": "done"} == states(tmp_path)
    # put right, only these run
    before = len(ran(tmp_path))
    list(run_cells(tmp_path, chain(tmp_path), 1))
    assert sorted(ran(tmp_path)[before:]) == ["a1", "a2", "b1", "b2", "table"]


@pytest.mark.slow
def test_a_cell_with_a_missing_input_fails_before_it_runs(tmp_path: Path) -> None:
    choice = tmp_path / "choice.yaml"
    cell = shell("a", "echo > $OUT", tmp_path, reads=(str(choice),))
    with pytest.raises(UserError, match="1 cell failed"):
        list(run_cells(tmp_path, [cell], 1))
    assert Ledger(tmp_path).states()["a"].why == f"it reads {choice}, which is not there"
    assert not (tmp_path / "ran").exists()
    choice.touch()
    list(run_cells(tmp_path, [cell], 1))
    assert ran(tmp_path) == ["a"]


@pytest.mark.slow
def test_a_failed_search_resumes_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    script = f"test -e {folder}/batch && touch {folder}/choice || {{ mkdir {folder}; touch {folder}/batch; exit 1; }}"
    cell = Cell("search", "search", ("sh", "-c", script), makes=(str(folder / "choice"),), folder=str(folder))
    with pytest.raises(UserError, match="1 cell failed"):
        list(run_cells(tmp_path, [cell], 1))
    before = (folder / "batch").stat().st_mtime_ns
    list(run_cells(tmp_path, [cell], 1))
    assert states(tmp_path) == {"search": "done"} and (folder / "batch").stat().st_mtime_ns == before


def test_a_search_whose_choice_is_damaged_resumes_from_its_batches(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    files = tuple(str(folder / name) for name in ("choice.yaml", "result.json"))
    cell, ledger = Cell("a", "search", ("search",), makes=files, folder=str(folder)), Ledger(tmp_path)
    ledger.folder.mkdir()
    found: list[list[str]] = []

    def run(command: tuple[str, ...], log: Path) -> int:
        folder.mkdir(exist_ok=True)
        found.append(sorted(path.name for path in folder.iterdir()))
        (folder / "batch").touch()
        for file in files:
            Path(file).write_text("whole")
        return 0

    assert run_cell(cell, ledger, run).state == "done"
    Path(files[0]).write_text("cut")
    assert not ledger.marks.done(cell)
    assert run_cell(cell, ledger, run).state == "done" and ledger.marks.done(cell)
    assert found == [[], ["batch"]] and Path(files[0]).read_text() == "whole"
    assert (tmp_path / "replaced/a-1/choice.yaml").read_text() == "cut", "it may have been edited by hand"
    Path(files[0]).unlink()
    Path(files[1]).unlink()
    assert run_cell(cell, ledger, run).state == "done" and found[2:] == [["batch"]]
    # of other inputs, the batches are not its own
    changed = replace(cell, command=("search", "more"))
    assert run_cell(changed, ledger, run).state == "done" and found[3:] == [[]]
    assert (tmp_path / "replaced/a-2/batch").exists()


def test_a_file_that_a_command_may_write_counts_once_it_was_written(tmp_path: Path) -> None:
    biases = tmp_path / "study/answer_bias.yaml"
    cell = Cell("a", "search", ("search",), folder=str(biases.parent), may_make=(str(biases),))
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()

    def run(command: tuple[str, ...], log: Path) -> int:
        biases.parent.mkdir(exist_ok=True)
        return 0

    assert run_cell(cell, ledger, run).state == "done" and ledger.marks.done(cell), "it was not written"
    biases.write_text("biases: {}")
    assert not ledger.marks.done(cell)

    def write(command: tuple[str, ...], log: Path) -> int:
        biases.write_text("biases: {left: 1}")
        return 0

    assert run_cell(cell, ledger, write).state == "done" and ledger.marks.done(cell)
    biases.unlink()
    assert not ledger.marks.done(cell)


@pytest.mark.slow
def test_a_resumed_run_says_what_it_found(tmp_path: Path) -> None:
    cells = [shell(name, "echo > $OUT", tmp_path) for name in "abcde"]
    assert not any(line.startswith("resumed") for line in run_cells(tmp_path, cells, 1))
    mark = tmp_path / "cells" / "b.json"
    mark.write_text(mark.read_text().replace('"done"', '"running"'))
    (tmp_path / "cells" / "c.json").write_text('{"command": ')
    (tmp_path / "d.txt").write_text("")
    lines = list(run_cells(tmp_path, cells, 1))
    assert lines[1] == (
        "resumed: 2 of 5 cells done before; run again: b (it was interrupted); c (its mark is damaged); d (its output"
        " is damaged or was changed)"
    )
    assert states(tmp_path) == {"a": "kept", "b": "done", "c": "done", "d": "done", "e": "kept"}


def test_an_unknown_output_folder_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "mine").write_text("kept")
    cell = Cell("c", "command", ("mkdir", str(folder)), makes=(str(folder),), folder=str(folder))
    list(run_cells(tmp_path, [cell], 1))
    assert states(tmp_path) == {"c": "done"} and (tmp_path / "replaced" / "c-1" / "mine").read_text() == "kept"


def test_an_evaluation_with_missing_samples_is_not_done(tmp_path: Path) -> None:
    cell = Cell("one", "evaluate", ("lmms-eval",), makes=(str(tmp_path),))
    assert missing_output(cell) == f"no finished evaluation in {str(tmp_path)!r}: there is no *_results.json"
    place = write_run(tmp_path, {"a": [1.0, 0.0], "b": [1.0]}) / "tiny"
    assert missing_output(cell) is None
    samples = place / f"{STAMP}_samples_a.jsonl"
    samples.write_text(samples.read_text().splitlines()[0] + "\n")
    assert "it holds 1 of 2 samples" in (missing_output(cell) or "")
    samples.unlink()
    assert missing_output(cell) == "it wrote no samples of a"


@pytest.mark.slow
def test_marks_and_ledger_keep_the_keys_that_earlier_versions_read(tmp_path: Path) -> None:
    cells = [shell("a", "echo > $OUT", tmp_path), shell("b", "exit 1", tmp_path)]
    with pytest.raises(UserError, match="1 cell failed"):
        list(run_cells(tmp_path, cells))
    marks = [json.loads((tmp_path / "cells" / f"{name}.json").read_text()) for name in "ab"]
    assert list(marks[0]) == ["command", "state", "fingerprint", "left", "seconds", "version"]
    assert list(marks[1]) == ["command", "state", "fingerprint", "why", "seconds"]
    ledger = json.loads((tmp_path / ".run" / "ledger.json").read_text())
    assert list(ledger["a"]) == ["state", "tries", "worker", "seconds"]
    assert list(ledger["b"]) == ["state", "tries", "worker", "why", "seconds"]
    # keys of another version are ignored, and a file that is damaged is no mark
    (tmp_path / "cells" / "a.json").write_text(json.dumps({**marks[0], "new": 1}))
    assert Marks(tmp_path).done(cells[0])
    (tmp_path / "cells" / "a.json").write_text("{")
    assert not Marks(tmp_path).done(cells[0])


def test_a_finished_cell_survives_a_run_without_its_input(tmp_path: Path) -> None:
    choice, folder = tmp_path / "choice.yaml", tmp_path / "runs/x"
    choice.write_text("one")
    cell = Cell("a", "command", ("a",), reads=(str(choice),), makes=(str(folder),), folder=str(folder))
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()
    kept: list[bool] = []

    def run(command: tuple[str, ...], log: Path) -> int:
        kept.append(folder.exists())
        folder.mkdir(parents=True)
        (folder / "result").write_text(choice.read_text())
        return 0

    assert run_cell(cell, ledger, run).state == "done"
    choice.rename(tmp_path / "away")
    mark = run_cell(cell, ledger, run)
    assert (mark.state, mark.why) == ("failed", f"it reads {choice}, which is not there")
    assert not ledger.marks.done(cell)
    # back as it was: done; back with another content: run again, and the finished output is put aside
    (tmp_path / "away").rename(choice)
    assert ledger.marks.done(cell)
    choice.rename(tmp_path / "away")
    run_cell(cell, ledger, run)
    choice.write_text("two")
    assert run_cell(cell, ledger, run).state == "done" and kept == [False, False]
    assert (folder / "result").read_text() == "two"
    assert (tmp_path / "replaced/a-1/result").read_text() == "one"


def test_a_finished_search_survives_a_run_that_fails_before_it_writes_anything(tmp_path: Path) -> None:
    folder = tmp_path / "search/x"
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()
    cell, changed = (Cell("a", "search", (word,), makes=(str(folder),), folder=str(folder)) for word in ("a", "b"))

    def run(command: tuple[str, ...], log: Path) -> int:
        folder.mkdir(parents=True)
        (folder / "batch").write_text(command[0])
        return 0

    def fail(command: tuple[str, ...], log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("lmms-steer: the questions cannot be loaded\n")
        return 1

    def fail_late(command: tuple[str, ...], log: Path) -> int:
        return run(command, log) + fail(command, log)

    assert run_cell(cell, ledger, run).state == "done"
    # another file is expected of another command: nothing was damaged
    assert ledger.marks.why_again(replace(changed, makes=(str(folder / "batch"),))) is None
    mark = run_cell(changed, ledger, fail)
    assert (mark.state, mark.why) == ("failed", "the questions cannot be loaded")
    assert ledger.marks.done(cell) and not ledger.marks.done(changed)
    # measured batches are resumed, so here the earlier search stays aside
    assert run_cell(changed, ledger, fail_late).state == "failed"
    assert not ledger.marks.done(cell) and (folder / "batch").read_text() == "b"
    assert (tmp_path / "replaced/a-1/batch").read_text() == "a"


@pytest.mark.parametrize("marked", [True, False])
def test_a_run_says_where_the_output_is_that_an_interrupted_one_has_put_aside(tmp_path: Path, marked: bool) -> None:
    folder = tmp_path / "search/x"
    cell, changed = (Cell("a", "search", (word,), makes=(str(folder),), folder=str(folder)) for word in ("a", "b"))
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()

    def run(command: tuple[str, ...], log: Path) -> int:
        folder.mkdir(parents=True)
        (folder / "batch").write_text(command[0])
        return 0

    assert run_cell(cell, ledger, run).state == "done"
    mark = tmp_path / "cells/a.json"
    before = mark.read_text()
    ledger.marks.prepare(changed, "another")
    if not marked:
        mark.write_text(before)
    why = "it was interrupted" if marked else "its output is damaged or was changed"
    assert ledger.marks.why_again(changed) == f"{why}; the output before it is in {tmp_path}/replaced/a-1"


def test_a_search_depends_on_its_own_vector_and_not_on_others_of_its_extraction(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()

    def run(command: tuple[str, ...], log: Path) -> int:
        for path in map(Path, command[1:]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{command[0]} {path.name}")
        return 0

    def extract(word: str, *concepts: str) -> Cell:
        paths = tuple(str(tmp_path / concept) for concept in concepts)
        return Cell("extract", "extract", (word, *paths), makes=paths)

    search = Cell(
        name="search",
        kind="search",
        command=("search", str(folder / "choice")),
        needs=("extract",),
        uses=(str(tmp_path / "spatial"),),
        makes=(str(folder),),
        folder=str(folder),
    )
    for cell in (extract("one", "spatial"), search):
        assert run_cell(cell, ledger, run).state == "done"
    # another concept is added to the recipe; then the search's own vector changes
    assert run_cell(extract("one", "spatial", "counting"), ledger, run).state == "done"
    assert ledger.marks.done(search)
    assert run_cell(extract("two", "spatial", "counting"), ledger, run).state == "done"
    assert not ledger.marks.done(search)


def test_a_cell_depends_on_the_local_copies_that_its_tasks_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_copy(name: str, split: str, sha256: str = "") -> None:
        content = {"rows": {split: 1}, "files": {split: ["a.parquet"]}, "sha256": {"a.parquet": sha256}}
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name / "manifest.json").write_text(json.dumps(content))
        parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "data" / name / "a.parquet")

    marks = Marks(tmp_path)
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path / "data"))
    write_copy("cvbench", "test")
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text("task: mine\ndataset_path: !function utils.path\n")
    search = Cell("a", "search", ("lmms-steer", "search", "--task", "cvbench_count_select"))
    group = Cell("b", "evaluate", ("lmms-eval", "--tasks", "tiny_relation,steer_blink"))
    mine = Cell("c", "evaluate", ("lmms-eval", "--tasks", "mine", "--include_path", str(own)))

    def fingerprints() -> list[str]:
        return [marks.fingerprint(cell) for cell in (search, group, mine)]

    before = fingerprints()
    # another benchmark; one that a group has; a changed copy
    write_copy("clevr_count", "train")
    first = fingerprints()
    assert [one == other for one, other in zip(before, first, strict=True)] == [True, True, False]
    write_copy("blink/Counting", "val")
    second = fingerprints()
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, False]
    write_copy("cvbench", "test", "other")
    third = fingerprints()
    assert [one == other for one, other in zip(second, third, strict=True)] == [False, True, False]
    # the same folder by another path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMMS_STEER_DATA", "data")
    assert fingerprints() == third


UNCHECKED = "spatial: SAE features: 8 UNCHECKED and left in the vector (no judge)"


@pytest.mark.slow
def test_warnings_of_extractions_end_the_run_and_the_next_one(tmp_path: Path) -> None:
    say = f"echo 'WARNING: {UNCHECKED}'; echo 'lmms-steer WARNING: few anchors' >&2; echo > $OUT"
    cells = [replace(shell(name, say, tmp_path), kind="extract") for name in ("a", "b")]
    cells.append(shell("other", "echo 'WARNING: not of an extraction'; echo > $OUT", tmp_path))
    for _ in range(2):
        lines = [line for line in run_cells(tmp_path, cells) if "WARNING" in line]
        log = tmp_path / "cells/a.log"
        assert lines == [f"WARNING: {UNCHECKED}; {log}", f"WARNING: few anchors; {log}"]
    assert ran(tmp_path) == ["a", "b", "other"]


def test_unchecked_features_are_extracted_again_once_there_is_a_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()
    cell = Cell("a", "extract", ("a",), makes=(str(tmp_path / "v"),))

    def run(line: str) -> None:
        def write(command: tuple[str, ...], log: Path) -> int:
            log.parent.mkdir(exist_ok=True)
            log.write_text(line)
            (tmp_path / "v").touch()
            return 0

        assert run_cell(cell, ledger, write).state == "done"

    run(f"WARNING: {UNCHECKED}\n")
    assert ledger.marks.done(cell) and ledger.marks.why_again(cell) is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert not ledger.marks.done(cell)
    assert ledger.marks.why_again(cell) == "its SAE features are unchecked, and there is a judge now"
    run("spatial: SAE features: 8 kept\n")
    assert ledger.marks.done(cell) and ledger.marks.why_again(cell) is None


def test_a_ledger_sees_what_another_process_writes_and_keeps_no_change_that_was_not_written(tmp_path: Path) -> None:
    cells = [shell(name, "echo 1 > $OUT", tmp_path) for name in ("a", "b")]
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    one.begin(cells)
    assert {state.state for state in other.states().values()} == {"open"}
    one.end(cells[0], "done", None, 1.5)
    assert [(state.state, state.seconds) for state in other.states().values()] == [("done", 1.5), ("open", None)]
    other.states().clear()
    assert len(other.states()) == 2
