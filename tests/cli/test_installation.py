"""The wheel, and a checkout beside an installed package, hold everything that ships."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lmms_steer
from tests.helpers.documents import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution, as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    assert list(folder.glob("*.tar.gz"))
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_tasks_and_vectors(wheel: Path) -> None:
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


@pytest.mark.slow
def test_an_installed_wheel_has_its_command_and_what_it_lists(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    program = str(target / "bin" / "lmms-steer")
    assert run(program, "--version") == f"lmms-steer {lmms_steer.__version__}\n"
    assert "tiny-gemma2/spatial/mean_shift" in run(program, "vectors", "list", "--names").split()
    assert run(program, "tasks", "--path").strip() == str(target / "lmms_steer" / "tasks")


def test_a_checkout_that_hides_the_installed_package_finds_what_ships(tmp_path: Path) -> None:
    # as in a clone after `pip install .`: only the installed package has tasks, vectors and recipes inside
    for name in ("lmms_steer", "tasks", "recipes", "vector_cache"):
        (tmp_path / name).symlink_to(ROOT / name)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        "from lmms_steer.harness import task_files; from lmms_steer.vectors import store\n"
        "from lmms_steer.recipes.loading import shipped_recipes\n"
        "print('tiny_spatial' in task_files.our_tasks(), 'tiny' in shipped_recipes(), any(store.entries()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stdout
