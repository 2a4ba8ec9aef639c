"""What a wheel holds, what the command line says, and that the documents' commands exist."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.testing

from lmms_steer.cli import app, main

ROOT = Path(__file__).parent.parent


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lmms-steer"), *args], capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_the_package_tasks_and_vectors(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "lmms_steer", "tasks", "vector_cache", "recipes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.split():
        name = name.replace("recipes/", "lmms_steer/recipe_files/", 1) if name.startswith("recipes/") else name
        assert (name if name.startswith("lmms_steer/") else f"lmms_steer/{name}") in held, name
    assert not [name for name in held if not name.startswith(("lmms_steer/", "lmms_steer-"))]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("extract", "--backbone", "tiny-gemma2", "--concept", "spatail"),
            "unknown concept 'spatail': did you mean 'spatial'",
        ),
        (("extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", "mean"), "unknown method 'mean'"),
        (("extract", "--backbone", "no/such", "--concept", "spatial"), "cannot load the backbone 'no/such'"),
        (("extract", "--backbone", "tiny-gemma2", "--concept", "mine.yaml"), "cannot read the concept 'mine.yaml'"),
        (("vectors", "show", "nothing/at/all"), "unknown vector 'nothing/at/all'"),
    ],
)
def test_a_mistake_on_our_command_line_is_one_line_and_status_2(
    args: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lmms-steer", *args])
    with pytest.raises(SystemExit) as stopped:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("lmms-steer: ") and expected in last


def test_a_mistake_leaves_no_traceback_behind_in_a_process_of_its_own() -> None:
    done = command("vectors", "show", "nothing/at/all")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "unknown vector" in done.stderr


def test_a_full_disk_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmms_steer.task_names.task_names", full)
    monkeypatch.setattr("sys.argv", ["lmms-steer", "tasks"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "the disk is full; what is finished is kept" in capsys.readouterr().err


def test_extracting_twice_gives_the_same_file_and_lists_it(own_cache: Path) -> None:
    runner = typer.testing.CliRunner()
    for _ in range(2):
        done = runner.invoke(app, ["extract", "--backbone", "tiny-gemma2", "--concept", "counting,colour-red"])
        assert done.exit_code == 0, done.output
    path = own_cache / "vectors" / "tiny-gemma2" / "counting" / "mean_shift.safetensors"
    shipped = ROOT / "vector_cache" / "tiny-gemma2" / "counting" / "mean_shift.safetensors"
    assert path.read_bytes() == shipped.read_bytes()
    listed = runner.invoke(app, ["vectors", "list"]).output
    assert "tiny-gemma2/counting/mean_shift" in listed and "yours" in listed and "shipped" in listed


def test_every_verb_has_a_help_text() -> None:
    runner = typer.testing.CliRunner()
    for verb in ("extract", "vectors", "concepts", "tasks", "run", "demo"):
        shown = runner.invoke(app, [verb, "--help"])
        assert shown.exit_code == 0 and len(shown.output.splitlines()) > 4


def test_the_demo_s_folder_may_be_said_before_its_verb(tmp_path: Path) -> None:
    for words in (["--out", str(tmp_path), "page"], ["page", str(tmp_path)]):
        done = typer.testing.CliRunner().invoke(app, ["demo", *words])
        assert str(done.exception).startswith(f"no runs of the recipe tiny in {str(tmp_path)!r}")
