"""The wheel, and a checkout beside an installed package, hold everything that ships."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT


@pytest.mark.slow
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
