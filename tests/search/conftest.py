"""A finished study for all tests of searches."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmms_steer.cli import app
from tests.helpers.searches import ask_few_questions


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was run by the command line; tests only read it or search it again."""
    folder = tmp_path_factory.mktemp("search") / "study"
    args = "search --model steered_paligemma --model_args pretrained=tiny-paligemma2 --vector counting"
    grid = (
        "--task tiny_counting_select --layers 1-3:2 --alphas 0.5,1.5 --controls 1 --limit 64 --score letters --output"
    )
    done = CliRunner().invoke(app, [*args.split(), *grid.split(), str(folder)])
    assert done.exit_code == 0, done.output
    assert "24 cells x 64 questions" in done.output and "measure it on others" in done.output
    return folder


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_few_questions(monkeypatch)
