"""The READMEs and pages are true: commands are accepted and run, quoted output is printed, named paths exist."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmms_steer.registry import Registry
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers import warm
from tests.helpers.documents import EXTENSION_PAGE, PAGES, ROOT, Line, blocks, lines, parse, quoted_output, run_commands
from tests.test_floors import FLOORS, PACKAGE

RUN = [
    page
    for page in PAGES
    if page.name
    in (
        *("tutorial.md", "vectors.md", "models.md", "concept.md", "recipes.md", "in-python.md", "text.md"),
        *("one-card.md", "public-leaderboard.md"),
    )
]
TABLES = ROOT / "docs" / "registry_tables.py"
ROOMS = re.findall(
    r"^\| (\d*) ?\| `(\w+)` \| .* \| (.*?) ?\|$", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.MULTILINE
)
"""Rows of the table of rooms: floor (empty if it is that of the row before), room, main types."""


def page_id(page: Path) -> str:
    return "/".join(page.parts[-2:])


@pytest.mark.parametrize("page", [page for page in PAGES if page != EXTENSION_PAGE], ids=page_id)
def test_every_command_of_a_page_is_accepted_by_its_program(page: Path) -> None:
    for line in lines(page):
        try:
            parse(line)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{line}: {error!r}")
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize(
    "wrong",
    [
        "lmms-steer extrct --backbone tiny-gemma2 --concept spatial",
        "lmms-steer search --vector spatial --tsk tiny_spatial_select",
        "lmms-eval --model steered_paligema --model_args pretrained=x --tasks tiny_spatial",
        "lmms-eval --model steered_paligemma --model_args pretrained=x,layr=3 --tasks tiny_spatial",
        "lmms-eval --model steered_paligemma --model_args pretrained=x --tasks tiny_spatail",
        "make demoo",
        "pip install lmms-steer[nothing]",
        "lmms-ster tasks",
    ],
)
def test_a_misspelt_command_is_refused(wrong: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        parse(Line("page", tuple(wrong.split())))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=page_id)
def test_the_commands_of_a_page_run_in_order_and_print_what_it_quotes(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    load_question_set("spatial", "test")[0]["image"].save("scene.png")
    for block in blocks(page, "yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        if block.startswith("# ") and "/" not in name:
            Path(name).write_text(block)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})  # noqa: S102  the page's own
    printed, log = capfd.readouterr().out, tmp_path / "log"
    with capfd.disabled():
        printed += run_commands(page, log)
    assert [line for line in quoted_output(page) if line not in printed] == []
    if page.name == "tutorial.md":
        # following it in a clone leaves nothing that git would add
        created = {f"/{path.name}/" if path.is_dir() else f"/{path.name}" for path in tmp_path.iterdir() if path != log}
        assert created <= set((ROOT / ".gitignore").read_text().split())
    assert os.environ["HF_HUB_OFFLINE"] == "1"


PLUGINS = """
import runpy, sys
from pathlib import Path
from tests.test_floors import FLOORS, PACKAGE
from tests.helpers.documents import EXTENSION_PAGE, ROOT, blocks, install_example_package, lines, parse, run_commands

# the page uses the tutorial's scene
for block in blocks(ROOT / "docs" / "tutorial.md", "python"):
    exec(block, {})
scripts = install_example_package(EXTENSION_PAGE, Path.cwd())
for script in scripts:
    runpy.run_path(str(script))
for line in lines(EXTENSION_PAGE):
    parse(line)
sys.stdout.write(run_commands(EXTENSION_PAGE, Path("log")))
"""


@pytest.mark.slow
def test_the_plugins_of_the_extension_page_work_from_scripts_and_from_the_command_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = warm.run("python", "-c", PLUGINS, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert [line for line in quoted_output(EXTENSION_PAGE) if line not in ended.stdout] == []


@dataclass(frozen=True)
class Toy:
    name: str
    description: str


def tables() -> dict[str, Any]:
    return runpy.run_path(str(TABLES))


def test_a_page_gets_a_table_of_a_registry_and_a_new_one_when_the_registry_changed() -> None:
    toys: Registry[Toy] = Registry("toy", "lmms_steer.toys")
    toys.add("top", Toy("top", "spins | fast"))
    fill = tables()["fill"]
    page = fill("before\n\n<!-- registry:toys -->\n\nafter\n", {"toys": toys})
    assert fill(f"<!-- registry:toys -->\n\n{page}", {"toys": toys}).count("`top`") == 2
    assert "| toy | description |\n|---|---|\n| `top` | spins \\| fast |\n\n<!-- /registry -->\n" in page
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    assert fill(page, {"toys": toys}) == page
    toys.add("kite", Toy("kite", "flies"))
    assert "| `kite` | flies |\n| `top` |" in fill(page, {"toys": toys})


def test_pages_ask_for_tables_of_registries_that_exist() -> None:
    names = {name for page in PAGES for name in re.findall(r"<!-- registry:(\w+) -->", page.read_text("utf-8"))}
    assert names == set(tables()["REGISTRIES"])


@pytest.mark.slow
def test_the_tables_in_the_pages_are_those_of_the_registries() -> None:
    # in a process of its own: other tests may have registered entries here
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, str(TABLES), "--check"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "docs" in page.parts or page.name == "README.md"], ids=page_id
)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:lmms_steer|tests|docs|tasks|recipes|benchmarks|training)/[\w./-]*)`", page.read_text("utf-8")
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_architecture_page_has_the_floors_that_are_enforced() -> None:
    floors: list[list[str]] = []
    for floor, room, _ in ROOMS:
        if floor:
            assert int(floor) == len(floors) + 1
            floors.append([])
        floors[-1].append(room)
    assert [set(rooms) for rooms in floors] == [set(rooms) for rooms in FLOORS]


@pytest.mark.parametrize(("room", "types"), [row[1:] for row in ROOMS], ids=[row[1] for row in ROOMS])
def test_a_room_s_main_types_are_defined_in_it(room: str, types: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))
    code = "\n".join(file.read_text("utf-8") for file in files)
    missing = [name for name in re.findall(r"`(\w+)`", types) if not re.search(rf"^(class|def) {name}\b", code, re.M)]
    assert missing == []
