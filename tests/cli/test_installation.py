"""The wheel and a checkout beside an installed package hold everything that ships. The core is enough to evaluate."""

import json
import os
import shutil
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


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it requires, without any extra.

    uv links the files of its cache, which filled it when `make` installed this environment.
    """
    folder, near = tmp_path_factory.mktemp("core"), Path(sys.executable).parent
    uv = shutil.which("uv", path=f"{near}{os.pathsep}{os.environ['PATH']}")
    assert uv, "no uv: `make` installs it into .venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    line = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python")]
    line += ["--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    if subprocess.run([*line, "--offline"], capture_output=True).returncode:
        subprocess.run(line, check=True)
    return folder / "bin"


def run(tmp_path: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a program of another environment, in the folder `tmp_path`."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [*map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


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
def test_an_installed_wheel_has_its_command_and_what_it_lists(core: Path, tmp_path: Path) -> None:
    program = core / "lmms-steer"
    assert run(tmp_path, program, "--version").stdout == f"lmms-steer {lmms_steer.__version__}\n"
    assert "tiny-gemma2/spatial/mean_shift" in run(tmp_path, program, "vectors", "list", "--names").stdout.split()
    (installed,) = core.parent.glob("lib/*/site-packages/lmms_steer")
    assert run(tmp_path, program, "tasks", "--path").stdout.strip() == str(installed / "tasks")


@pytest.mark.slow
def test_the_core_extracts_a_vector_and_evaluates_with_it(core: Path, tmp_path: Path) -> None:
    # no such vector ships: it is extracted on first use
    spec = "vector=spatial/linear_probe-shuffled,layer=1,alpha=0.5,tokens=image"
    program = str(core / "lmms-eval")
    line = [program, "--model", "steered_paligemma", "--model_args", f"pretrained=tiny-paligemma2,{spec}"]
    done = run(tmp_path, *line, "--tasks", "tiny_spatial", "--limit", "4", "--log_samples", "--output_path", "out")
    assert done.returncode == 0, done.stderr[-3000:]
    (results,), (samples,) = tmp_path.glob("out/*/*results.json"), tmp_path.glob("out/*/*samples*.jsonl")
    assert json.loads(results.read_text())["steering"]["spec"] == f"vector=tiny-gemma2/{spec.removeprefix('vector=')}"
    assert len(samples.read_text().splitlines()) == 4
    lacking = run(tmp_path, core / "lmms-steer", "run", "tiny", "--dry-run")
    assert lacking.returncode == 2
    assert "pip install 'lmms-steer[recipes]', or in a clone: pip install '.[recipes]'" in lacking.stderr


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
