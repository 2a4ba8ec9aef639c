"""A board's folder: what init and add write, and that old entries stay readable."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.entry import entry_folders, read_entry, slug
from lmms_steer.board.reading import read_board
from lmms_steer.board.samples_file import read_stored
from lmms_steer.board.templates import init_board
from lmms_steer.cli import app
from lmms_steer.comparison.runs import find_runs, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.helpers.boards import SPEC, TASK, make_board, shipped_vector, write_system
from tests.helpers.runs import STEERED, write_run

STEERED_ENTRY = f"entries/tiny-paligemma2/{TASK}/steered"


def test_commands_make_a_board_of_runs(tmp_path: Path) -> None:
    write_system(tmp_path / "runs" / "a run", STEERED)
    for words in (["init", "--title", "My <board>"], ["add", str(tmp_path / "runs"), "--by", "me", "--about", "why"]):
        command, *rest = words
        done = CliRunner().invoke(app, ["leaderboard", command, str(tmp_path / "board"), *rest])
        assert done.exit_code == 0, done.output
    entry = json.loads(next((tmp_path / "board").glob("entries/*/*/*/entry.json")).read_text())
    assert (entry["by"], entry["about"], entry["task"], entry["model"]) == ("me", "why", TASK, "tiny-paligemma2")
    again = CliRunner().invoke(app, ["leaderboard", "init", str(tmp_path / "board")])
    assert again.output.count("kept ") == again.output.count("\n"), "files that people changed stay"


def test_an_entry_holds_the_run_but_no_questions_pictures_or_keys(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    folder = board / STEERED_ENTRY
    entry, hashes = read_entry(folder, board)
    assert entry.files == hashes and entry.by == "somebody"
    run = find_runs([str(tmp_path / "runs" / "steered")]).evaluations["steered"][0]
    logged = read_samples(read_results(run), TASK)
    stored, answers = read_stored(folder, entry, hashes["samples.parquet"])
    for column in ("keys", "doc_ids", "prompts", "images", "scores", "unparsed", "empty", "yes", "yes_labels"):
        # as text, where NaN equals NaN
        assert str(getattr(stored, column).tolist()) == str(getattr(logged, column).tolist()), column
    assert stored.question_ids == logged.question_ids
    texts = [answers.answer.values[i] for i in answers.answer.index]
    assert texts == [one["filtered_resps"] for one in logged.read_logged()]
    assert "orange shape" not in str(pq.read_table(folder / "samples.parquet").to_pylist())
    spec = SteeringSpec.from_yaml(folder / "spec.yaml")
    assert str(spec) == SPEC and spec.provenance["chosen_on"] == "tiny_spatial_select"
    vector = SteeringVectors.load(folder / "vectors" / "0.safetensors")
    assert vector.sha256 == shipped_vector().sha256 == entry.vectors[0].sha256
    control = read_entry(folder.with_name("random"), board)[0].vectors[0]
    assert control.sha256 == shipped_vector("random:0").sha256 != vector.sha256


def test_a_vector_of_a_relative_path_is_found_from_the_board_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(init_board(tmp_path / "board", "Tiny", ""))
    project = tmp_path / "project"
    (project / "vectors").mkdir(parents=True)
    (project / "vectors/v.safetensors").write_bytes(shipped_vector().to_bytes())
    # in the board's folder there is another vector of this path
    (tmp_path / "board/vectors").mkdir()
    (tmp_path / "board/vectors/v.safetensors").write_bytes(shipped_vector("random:3").to_bytes())
    monkeypatch.chdir(tmp_path / "board")

    def added(control: str) -> list[str]:
        spec = SPEC.replace("tiny-gemma2/spatial/mean_shift", "vectors/v.safetensors")
        record = {"spec": f"{spec},control={control}" if control else spec}
        name = control.partition(":")[0] or "own"
        write_system(project / "runs" / name, STEERED, control=control, record=record)
        return list(add_runs(Path(), [f"{name}=../project/runs/{name}"], Addition(replace=True)))

    for control in ("", "random:0"):
        (line,) = added(control)
        name = control.partition(":")[0] or "own"
        stored = SteeringVectors.load(Path(STEERED_ENTRY).with_name(name) / "vectors/0.safetensors")
        assert line.startswith("added ") and stored.sha256 == shipped_vector(control).sha256
    (project / "vectors/v.safetensors").unlink()
    _, line = added("random:1")
    assert line == "  its vector tiny-gemma2/spatial/random-1 has changed since the run"


def test_options_that_may_hold_keys_are_left_out(tmp_path: Path) -> None:
    list(init_board(tmp_path / "board", "Tiny", ""))
    secret: Any = {"hf_hub_log_args": "token=hf_secret", "wandb_args": "key=secret", "output_path": "/home/secret"}
    run = write_system(tmp_path / "run", STEERED)
    path = next(run.rglob("*_results.json"))
    content = json.loads(path.read_text())
    content["config"]["resolved_cli_args"] |= secret
    path.write_text(json.dumps(content))
    list(add_runs(tmp_path / "board", [f"steered={run}"], Addition()))
    assert "secret" not in (tmp_path / "board" / STEERED_ENTRY / "results.json").read_text()


def test_an_entry_is_not_replaced_unless_that_is_said(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    again = write_system(tmp_path / "again", [1.0] * 100)
    with pytest.raises(UserError, match="is there already: --replace"):
        list(add_runs(board, [f"another={again}", f"steered={again}"], Addition()))
    assert not (board / STEERED_ENTRY.replace("steered", "another")).exists(), "all or none"
    lines = list(add_runs(board, [f"steered={again}"], Addition(replace=True)))
    assert lines[0] == f"added tiny-paligemma2/{TASK}/steered: score 1.000 on 100 questions"
    assert len(list(entry_folders(board))) == 3


def test_names_that_differ_in_capital_letters_alone_are_refused(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    run = write_system(tmp_path / "again", STEERED)
    for replace in (True, False):
        with pytest.raises(UserError, match=f"{TASK}/Steered is .*/steered but for capital letters: NAME=FOLDER"):
            list(add_runs(board, [f"Steered={run}"], Addition(replace=replace)))
    with pytest.raises(UserError, match="/NEW is .*/new but for capital letters"):
        list(add_runs(board, [f"new={run}", f"NEW={run}"], Addition()))
    assert not list(read_board(board, processes=1).refusals())


def test_two_people_who_add_at_once_lose_nothing(tmp_path: Path) -> None:
    def git(folder: Path, *words: str) -> None:
        author = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        subprocess.run(["git", "-C", str(folder), *author, *words], check=True, capture_output=True)

    one, two = make_board(tmp_path / "one"), tmp_path / "two"
    for words in (("init", "--initial-branch", "main"), ("add", "."), ("commit", "-m", "a leaderboard")):
        git(one, *words)
    git(tmp_path, "clone", str(one), str(two))
    for board in (one, two):
        run = write_system(tmp_path / "runs of" / board.name, STEERED)
        list(add_runs(board, [f"{board.name}={run}"], Addition(by=board.name)))
        git(board, "add", ".")
        git(board, "commit", "-m", "an entry")
    git(one, "pull", "--no-rebase", "--no-edit", str(two), "main")
    read = read_board(one, processes=1)
    assert [row.system for row in read.shown] == ["baseline", "one", "random", "steered", "two"]
    assert not list(read.refusals())


def test_of_two_who_add_the_same_entry_in_one_folder_one_is_told(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    runs = [write_system(tmp_path / name / "run", STEERED) for name in ("first", "second")]
    begun = Barrier(2)

    def add(run: Path) -> str:
        begun.wait()
        try:
            return next(iter(add_runs(board, [f"new={run}"], Addition(by="me"))))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        added, refused = sorted(pool.map(add, runs))
    assert added.startswith("added ") and "is there already: --replace" in refused
    entry, hashes = read_entry(board / STEERED_ENTRY.replace("steered", "new"), board)
    assert entry.files == hashes and not list(board.glob(".adding-*"))


def test_runs_of_several_tasks_may_have_the_same_names_as_a_recipe_s_do(tmp_path: Path) -> None:
    list(init_board(tmp_path / "board", "Tiny", ""))
    for task in ("one", "two"):
        write_run(tmp_path / "demo" / task / "baseline", {task: [1.0, 0.0]})
        write_run(tmp_path / "demo" / task / "prompted", {f"{task}_prompted": [1.0, 1.0]})
    runs = sorted(map(str, (tmp_path / "demo").glob("*/*")))
    list(add_runs(tmp_path / "board", runs, Addition()))
    places = [
        folder.relative_to(tmp_path / "board" / "entries").as_posix() for folder in entry_folders(tmp_path / "board")
    ]
    assert places == [f"tiny/{task}/{system}" for task in ("one", "two") for system in ("baseline", "prompted")]
    with pytest.raises(UserError, match="are both tiny/one/baseline: NAME=FOLDER names one"):
        list(add_runs(tmp_path / "board", [runs[0], runs[0]], Addition(replace=True)))


def test_an_entry_of_the_first_format_is_read(tmp_path: Path) -> None:
    """This is what the first release wrote, and must not change with the code."""
    board = make_board(tmp_path / "board")
    old = {
        "format": 1, "model": "tiny-paligemma2", "task": TASK, "system": "steered", "harness": "lmms-eval",
        "harness_task": TASK, "metric": "score", "images_source": "images", "baseline": "", "by": "me",
        "added": "2026-11-29", "about": "",
        "vectors": [{"name": "a/b/c", "sha256": "6" * 64, "file": "", "address": ""}],
        "versions": {}, "files": {"spec.yaml": "7" * 64},
    }  # fmt: skip
    (board / STEERED_ENTRY / "entry.json").write_text(json.dumps(old))
    entry, hashes = read_entry(board / STEERED_ENTRY, board)
    assert (entry.by, entry.vectors[0].sha256, entry.files) == ("me", "6" * 64, {"spec.yaml": "7" * 64})
    path = board / STEERED_ENTRY / "samples.parquet"
    columns = ["doc_id", "target", "answer", "choices", "prompt", "images", "score", "unparsed"]
    pq.write_table(pq.read_table(path).select(columns), path)
    stored, answers = read_stored(board / STEERED_ENTRY, entry, hashes["samples.parquet"])
    assert stored.scores.mean() == 0.7 and np.isnan(stored.empty).all() and answers.accepted.values == [""]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("format", 2, "format 2, this lmms-steer reads formats up to 1"),
        ("format", None, "format is None"),
        ("system", "x" * 300, "system has 300 characters, it may have 1 to 120"),
        ("system", "other", "is the entry tiny-paligemma2/tiny_spatial/other, which does not belong here"),
        ("by", "a\x1b[1m", "by holds control characters"),
        ("vectors", [{"sha256": "x"}], "vectors.sha256 is 'x', not 64"),
        ("vectors", [{"sha256": "6" * 64, "file": "../../secret"}], "vectors.file is '../../secret'"),
        ("files", {"a": 1}, "files.a is 1, not a text"),
    ],
)
def test_an_entry_that_is_wrong_is_one_line(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    board = make_board(tmp_path / "board")
    path = board / STEERED_ENTRY / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError) as caught:
        read_entry(path.parent, board)
    assert expected in str(caught.value) and len(str(caught.value)) < 400


def test_links_and_files_that_no_entry_has_are_refused(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    folder = board / STEERED_ENTRY
    for name, make, expected in (
        ("picture.png", lambda path: path.write_text("x"), "unexpected file picture.png"),
        ("vectors/1.safetensors", lambda path: path.symlink_to("/etc/passwd"), "1.safetensors is a symbolic link"),
        ("sub", lambda path: path.mkdir(), "unexpected folder sub"),
        ("study", lambda path: path.symlink_to("/etc"), "study is a symbolic link"),
        ("spec.yaml", lambda path: os.truncate(path, 1 << 30), "spec.yaml is larger than 2 MiB"),
    ):
        make(folder / name)
        with pytest.raises(UserError, match=expected):
            read_entry(folder, board)
        (folder / name).rmdir() if name == "sub" else (folder / name).unlink()
    (folder.with_name("linked")).symlink_to("/etc")
    assert folder.with_name("linked") in list(entry_folders(board)), "a link is reported, not followed"
    (board / "entries").rename(tmp_path / "elsewhere")
    (board / "entries").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="entries' is a symbolic link"):
        list(entry_folders(board))


def test_a_long_name_has_a_short_folder() -> None:
    assert slug("a b/../c") == "a_b_.._c" and slug("..") == "_.." and slug("") == "_"
    assert len(slug("x" * 120)) < 80 and slug("x" * 119) != slug("x" * 120)
