"""An entry's command is run again with the entry's own vectors, and differing answers are counted."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.case import Case, read_case
from lmms_steer.board.entry import read_entry
from lmms_steer.board.reading import read_board
from lmms_steer.board.rerun import command, rerun
from lmms_steer.board.templates import init_board
from lmms_steer.cli import app
from lmms_steer.harness.arguments import split_args
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.board.test_checks import GROUP
from tests.helpers import warm
from tests.helpers.board_faults import change_json, change_samples
from tests.helpers.boards import TASK, make_board, shipped_vector, write_system
from tests.helpers.runs import STEERED


def case_of(folder: Path, board: Path) -> Case:
    return read_case(folder, *read_entry(folder, board))


def test_the_command_is_the_run_s_with_the_entry_s_own_vectors(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    words = command(case_of(board / GROUP / "random", board), tmp_path, 7, offset=3)
    spec = tmp_path / "spec.yaml"
    assert shlex.join(words) == (
        f"lmms-eval --model steered_paligemma --model_args pretrained=tiny-paligemma2,steering={spec} --tasks {TASK}"
        f" --limit 7 --output_path {tmp_path}/run --offset 3 --log_samples"
    )
    (intervention,) = SteeringSpec.from_yaml(spec).interventions
    assert intervention.control is None and (intervention.layer, intervention.alpha) == (2, 0.25)
    assert SteeringVectors.load(intervention.vector).sha256 == shipped_vector("random:0").sha256


def test_the_questions_are_the_entry_s_first_unless_others_are_asked_for(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    run = write_system(tmp_path / "later", STEERED, config={"offset": 100})
    list(add_runs(board, [f"later={run}"], Addition()))
    assert "--offset 100" in shlex.join(command(case_of(board / GROUP / "later", board), tmp_path, 7))
    assert "--offset" not in command(case_of(board / GROUP / "later", board), tmp_path, 7, offset=0)


@pytest.mark.parametrize(
    "named",
    [
        {"include_path": "/their/tasks"},
        {"model_args": "pretrained=x,trust_remote_code=True"},
        {"model_args": "pretrained=x,trust_remote_code=1"},
        {"gen_kwargs": "--include_path=/their/tasks"},
        {"model": "qwen_vl"},
    ],
)
def test_code_of_others_runs_only_when_it_is_trusted(tmp_path: Path, named: dict[str, str]) -> None:
    board = make_board(tmp_path / "board")
    folder = board / GROUP / "steered"

    def name_code(results: Any) -> None:
        results["config"] |= named
        results["config"]["resolved_cli_args"] |= named

    change_json(folder / "results.json", name_code)
    with pytest.raises(UserError, match="may run code of others"):
        command(case_of(folder, board), tmp_path, 7)
    assert "lmms-eval" in command(case_of(folder, board), tmp_path, 7, trust=True)


def test_tasks_in_a_folder_run_only_when_they_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board(tmp_path / "board")
    case = case_of(board / GROUP / "steered", board)
    # lmms-eval loads the tasks of a folder that --tasks names, and their code
    for task in (str(board / GROUP / "steered"), "their_task"):
        theirs = replace(case, entry=replace(case.entry, harness_task=task))
        with pytest.raises(UserError, match=r"may run code of others \(the task .*: read it, then --trust"):
            command(theirs, tmp_path, 7)
    monkeypatch.chdir(tmp_path)
    Path(TASK).mkdir()
    with pytest.raises(UserError, match=f"may run code of others .the task {TASK}"):
        command(case, tmp_path, 7)


def test_a_comma_in_an_argument_adds_no_other_one(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    folder = board / GROUP / "baseline"
    changed = {"model_args": {"pretrained": "x,trust_remote_code=True"}}

    def hide(results: Any) -> None:
        results["config"] |= changed
        results["config"]["resolved_cli_args"] |= changed

    change_json(folder / "results.json", hide)
    words = command(case_of(folder, board), tmp_path, 7)
    assert split_args(words[words.index("--model_args") + 1], "") == {"pretrained": '"x,trust_remote_code=True"'}


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ("preset=vti,vector=spatial,layers=1-2", {}),
        ("preset=vcd:paper,contrast_alpha=0.5", {
            "contrast": "vcd", "contrast_alpha": "0.5", "contrast_beta": "0.1", "contrast_image": "noise",
        }),
        ('vector=spatial,prompt_prefix="one word, please"', {"prompt_prefix": '"one word, please"'}),
    ],
)  # fmt: skip
def test_of_a_preset_the_contrast_is_repeated_and_the_spec_is_the_entry_s(
    tmp_path: Path, args: str, kept: dict[str, str]
) -> None:
    board = make_board(tmp_path / "board")
    folder = board / GROUP / "steered"
    changed = {"model_args": f"pretrained=tiny-paligemma2,{args}"}

    def name_preset(results: Any) -> None:
        results["config"] |= changed
        results["config"]["resolved_cli_args"] |= changed

    change_json(folder / "results.json", name_preset)
    words = command(case_of(folder, board), tmp_path, 7)
    given = split_args(words[words.index("--model_args") + 1], "")
    assert given.pop("steering") == str(tmp_path / "spec.yaml")
    assert given == {"pretrained": "tiny-paligemma2", **kept}


def test_a_vector_of_each_question_needs_no_file(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    spec = "vector=@image_contrast,layers=1-2,alpha=0.17,tokens=both"
    record = {"spec": spec, "vectors": [{"name": "tiny-paligemma2/image_contrast/row", "sha256": "a" * 64}]}
    run = write_system(tmp_path / "more", STEERED, record=record)
    lines = list(add_runs(board, [f"vista={run}"], Addition(address="somebody/vectors")))
    assert len(lines) == 1, "nothing is missing"
    row = next(row for row in read_board(board, processes=1).rows if row.system == "vista")
    assert row.outcomes["vectors"] == ["passed", ""] and not row.refused
    command(case_of(board / GROUP / "vista", board), tmp_path, 7)
    (intervention,) = SteeringSpec.from_yaml(tmp_path / "spec.yaml").interventions
    assert (intervention.vector, intervention.layers) == ("@image_contrast", "1-2")


def test_a_folder_that_is_no_entry_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no entry: expected LEADERBOARD/entries/MODEL/TASK/SYSTEM"):
        rerun(tmp_path, 5)


@pytest.mark.slow
def test_a_real_run_gives_the_same_answers_and_an_edited_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        *("--model", "steered_paligemma", "--tasks", TASK, "--batch_size", "4", "--limit", "6", "--log_samples"),
        *("--model_args", "pretrained=tiny-paligemma2,vector=spatial,layer=2,alpha=0.25,tokens=image"),
        *("--output_path", str(tmp_path / "run")),
    ]
    ended = warm.run("python", "-m", "lmms_eval", *words)
    assert ended.returncode == 0, ended.stderr[-2000:]
    board = tmp_path / "board"
    list(init_board(board, "Tiny", ""))
    list(add_runs(board, [f"steered={tmp_path / 'run'}"], Addition()))
    change_samples(board / GROUP / "steered", answer=lambda values: ["somewhere", *values[1:]])
    # it starts lmms-eval as a program: here as a fork, which is several times faster
    monkeypatch.setattr("lmms_steer.board.rerun.subprocess.run", lambda line, **_: warm.run("python", *line[1:]))
    done = CliRunner().invoke(app, ["leaderboard", "rerun", str(board / GROUP / "steered"), "--limit", "5"])
    first, last = done.output.splitlines()
    assert first.startswith("question 0: 'somewhere', now '")
    assert last == f"4 of 5 answers are the same: tiny-paligemma2/{TASK}/steered" and done.exit_code == 1
