"""The recipes of CONTRIBUTING.md, followed word by word in a copy of the checkout: files, tests, commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.documents import ROOT, blocks, lines, parse

PAGE = ROOT / "CONTRIBUTING.md"
COPIED = (
    "lmms_steer",
    "tasks",
    "recipes",
    "vector_cache",
    "tests",
    "setup.cfg",
    "pyproject.toml",
    "Makefile",
    PAGE.name,
)
RUN = """
import sys
from pathlib import Path
import pytest
from tests.helpers.documents import lines, parse
from lmms_steer.recipes.in_process import run_in_process
import lmms_steer

assert Path(lmms_steer.__file__).is_relative_to(Path.cwd()), lmms_steer.__file__
for line in lines(Path("CONTRIBUTING.md").resolve()):
    parse(line)
    if line.words[0] == "lmms-steer":
        log = Path("log")
        status = run_in_process((*line.words, *(("--limit", "8") if "search" in line.words else ())), log)
        assert status == 0, log.read_text()
        sys.stdout.write(log.read_text())
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
"""The commands, and then the tests, which are the arguments."""


def recipes() -> dict[str, list[str]]:
    """Recipe ▸ its files, as their blocks' first lines name them."""
    parts = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: re.findall(r"^```\w+\n# (\S+)", part, re.MULTILINE) for part in parts}


def test_there_are_seven_recipes_each_with_a_test_and_a_command() -> None:
    assert list(recipes()) == [
        "A method",
        "An operation",
        "A site",
        "A gate",
        "A strategy",
        "A prompt format",
        "A benchmark",
    ]
    assert all(files[-1].startswith("tests/") for files in recipes().values())
    assert [line.words[:2] for line in lines(PAGE) if line.words[0] == "lmms-steer"] == [
        ("lmms-steer", command)
        for command in ("extract", "inspect", "inspect", "inspect", "search", "inspect", "tasks")
    ]
    for line in lines(PAGE):
        if line.words[0] == "make":
            parse(line)


@pytest.mark.slow
def test_whoever_follows_the_recipes_gets_passing_tests_and_working_commands(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path)
    # as the editable installation of this checkout would have it
    (tmp_path / "lmms_steer" / "tasks").symlink_to(tmp_path / "tasks")
    load_question_set("spatial", "test")[0]["image"].save(tmp_path / "scene.png")
    tests = []
    for block in blocks(PAGE, "python", "yaml"):
        first, _, rest = block.partition("\n")
        path = tmp_path / first.split()[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.read_text() + rest if "(at its end)" in first else rest)
        tests += [str(path)] if path.name.startswith("test_") else []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *tests], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "tiny-gemma2/colour-red/median_shift-shuffled:" in done.stdout and "\nkitchen\n" in done.stdout
    assert "the component along v becomes at least" in done.stdout
    assert ",alpha=1,tokens=image" in done.stdout and ",alpha=0.5,tokens=image" not in done.stdout
    files = [file for names in recipes().values() for file in names if file.endswith(".py")]
    for style in (["check"], ["format", "--diff"]):
        styled = subprocess.run(
            [sys.executable, "-m", "ruff", *style, *files], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert styled.returncode == 0, styled.stdout
