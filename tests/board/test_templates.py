"""The files that init writes: their commands are accepted, and the check workflow's command works on a board."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.board.reading import read_board
from lmms_steer.board.report import write_report
from lmms_steer.board.rules import read_rules
from lmms_steer.board.templates import init_board
from lmms_steer.cli import app
from tests.helpers.boards import make_board
from tests.helpers.documents import Line, parse

WORKFLOWS = ".github/workflows"


def commands_in(path: Path) -> list[str]:
    return [text.strip() for text in re.findall(r"(?:^|[ `])(lmms-steer leaderboard [^\n`]+)", path.read_text())]


def test_the_commands_of_the_files_are_accepted(tmp_path: Path) -> None:
    list(init_board(tmp_path, 'Say "hello": 50%', "https://github.com/me/board"))
    found = {path.name: commands_in(path) for path in [tmp_path / "README.md", *(tmp_path / WORKFLOWS).iterdir()]}
    assert len(found["README.md"]) == 4 and found["check.yml"] and found["pages.yml"]
    for name, commands in found.items():
        for command in commands:
            parse(Line(name, tuple(shlex.split(command))))
    rules = read_rules(tmp_path)
    assert (rules.title, rules.repository) == ('Say "hello": 50%', "https://github.com/me/board")
    assert "@" not in re.sub(r"@v\d", "", (tmp_path / WORKFLOWS / "pages.yml").read_text())


def test_the_check_workflow_s_command_writes_the_table_that_the_comment_shows(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    workflow = yaml.safe_load((board / WORKFLOWS / "check.yml").read_text())
    (command,) = (step["run"] for step in workflow["jobs"]["check"]["steps"] if step.get("name") == "check")
    words = shlex.split(command.replace(" . ", f" {board} ").replace("table/", f"{tmp_path}/table/"))
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    assert (tmp_path / "table" / "table.md").read_text().startswith("| entry | gain [95%] |")


def test_the_table_shows_an_infinite_interval(tmp_path: Path) -> None:
    read = read_board(make_board(tmp_path / "board"), processes=1)
    rows = tuple(replace(row, low=None, high=None) if row.gain is not None else row for row in read.rows)
    write_report(replace(read, rows=rows), tmp_path / "table.md")
    shown = re.findall(r"^\| .* \| (.*\]) \|", (tmp_path / "table.md").read_text("utf-8"), re.MULTILINE)
    gains = [row.gain for row in rows if row.gain is not None]
    assert shown[1:] == [f"{100 * gain:+.1f} [-∞, +∞]" for gain in gains] and gains


def test_a_pull_request_gets_no_token_that_can_write(tmp_path: Path) -> None:
    list(init_board(tmp_path, "Tiny", ""))
    check, comment = (
        yaml.safe_load((tmp_path / WORKFLOWS / f"{name}.yml").read_text()) for name in ("check", "comment")
    )
    assert check["permissions"] == {"contents": "read"} and "pull_request_target" not in str(check)
    assert "checkout" not in str(comment)


@pytest.mark.parametrize(
    ("title", "repository", "expected"),
    [("two\nlines", "", "expected one line"), ("x", "javascript:alert(1)", "expected https://github.com/OWNER/NAME")],
)
def test_wrong_values_are_one_line(tmp_path: Path, title: str, repository: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        list(init_board(tmp_path, title, repository))
