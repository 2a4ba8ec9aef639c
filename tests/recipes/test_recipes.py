"""Recipes: mistakes found before anything runs, plans, and workers that are killed, fail, or share a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from datasets import Dataset
from PIL import Image

from lmms_steer import UserError
from lmms_steer._util.logging import LOGGER, print_notes
from lmms_steer.data.availability import missing_datasets
from lmms_steer.harness import task_files
from lmms_steer.recipes import in_process as inside
from lmms_steer.recipes import layout as words
from lmms_steer.recipes import preflight as memory
from lmms_steer.recipes import scheduler as workers
from lmms_steer.recipes.cells import Cell, missing_output
from lmms_steer.recipes.command import run_cells, run_recipe
from lmms_steer.recipes.loading import load_recipe, shipped_recipes
from lmms_steer.recipes.plan import Planner
from lmms_steer.recipes.schema import Model
from lmms_steer.recipes.state import Ledger
from lmms_steer.recipes.worker import SILENCE_LIMIT, Heartbeat, run_cell
from tests.helpers.documents import ROOT, blocks
from tests.helpers.runs import STAMP, write_run

RECIPE = """\
about: a test
models:
  tiny:
    model: steered_paligemma
    pretrained: tiny-paligemma2
methods:
  mean_shift: {alphas: 10:50:10}
studies:
  left:
    concepts: spatial
    select: tiny_spatial_select
    test: tiny_spatial
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def write(old: str = "", new: str = "") -> str:
        assert old in RECIPE
        path = tmp_path / "r.yaml"
        path.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("about", "abuot", "line 1: unknown key 'abuot': did you mean 'about'"),
        ("    model:", "    modell:", "line 4: unknown key 'modell': did you mean 'model'"),
        ("steered_paligemma", "steered_paligema", "line 4: unknown model 'steered_paligema': did you mean"),
        ("mean_shift", "mean_shfit", "line 7: unknown method 'mean_shfit': did you mean 'mean_shift'"),
        ("10:50:10", "0", "line 7: --alphas 0: a strength of 0 is the baseline"),
        ("spatial\n    s", "spatail\n    s", "line 10: unknown concept 'spatail': did you mean 'spatial'"),
        ("test: tiny_spatial", "test: tiny_spatail", "line 12: unknown task 'tiny_spatail': did you mean"),
        ("    select: tiny_spatial_select\n", "", "line 9: study left: say either select: TASK or chosen: STUDY"),
        ("select: tiny_spatial_select", "select: cvbench", "line 11: select: cvbench is a group: a choice is made on"),
        ("steered_paligemma", "steered_litellm", "line 4: litellm runs its model in an engine or behind an API"),
        ("    pretrained: tiny-paligemma2\n", "", "line 3: models.tiny.pretrained is missing"),
        ("tiny-paligemma2", "a,b", "line 5: pretrained=a,b: --model_args cannot hold"),
        ("about: a test", "about: [a", "line 2: not valid YAML"),
        ("  tiny:", "  ..:", "line 3: '..': a name is letters, digits and . _ + -, no dot first"),
        ("\n  mean_shift: {alphas: 10:50:10}", " {}", "line 6: methods: dictionary should have at least 1 item"),
        ("concepts: spatial", "concepts: []", "line 10: studies.left.concepts: tuple should have at least 1 item"),
        ("about: a test", "commands: [{name: a, run: '', makes: x}]", "line 1: unknown program ''"),
        ("about: a test", "commands: [{name: a, run: 'a \"', makes: x}]", "line 1: run: No closing quotation"),
        ("test: tiny_spatial", "test: mmbench_en_dev", "line 12: the system `prompted` asks 'mmbench_en_dev_prompted'"),
        ("about: a test", "models: {}", "line 2: 'models' is given twice"),
        (
            "about: a test",
            "commands: [{name: a b, run: lmms-eval, makes: x}, {name: a_b, run: lmms-eval, makes: y}]",
            "line 1: two commands are named 'a_b'",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_told_with_its_line_before_anything_runs(
    recipe: Callable[..., str], old: str, new: str, expected: str
) -> None:
    with pytest.raises(UserError) as told:
        load_recipe(recipe(old, new))
    assert expected in str(told.value) and "r.yaml" in str(told.value)


def test_values_are_set_by_key_by_star_and_by_a_file_laid_over(recipe: Callable[..., str], tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text('models: {"*": {batch_size: 3}}\nlimit: 5\n')
    _, found = load_recipe(
        recipe(), [str(over)], ["models.*.pretrained=/a/b", "studies.left.test=tiny_colour,tiny_counting"]
    )
    assert found.models["tiny"].batch_size == 3 and found.limit == 5
    assert found.models["tiny"].pretrained == "/a/b" and found.studies["left"].test == ("tiny_colour", "tiny_counting")
    # YAML 1.1 would make this a number to base 60
    assert found.methods["mean_shift"].alphas == "10:50:10"
    second = "  two: {pretrained: tiny-paligemma2}\nmethods:"
    over.write_text('models: {"*": {args: {dtype: auto}}}')
    _, found = load_recipe(recipe("methods:", second), [str(over)], ["models.two.args.dtype=float32"])
    assert [model.args["dtype"] for model in found.models.values()] == ["auto", "float32"]
    for wrong, expected in (
        ("models.tiny.batch_size=0", "--set models.tiny.batch_size=0: models.tiny.batch_size: input should be greater"),
        ("modls.tiny.batch_size=1", "unknown key 'modls': did you mean 'models'"),
        ("limit", "expected KEY=VALUE"),
        ("models.nope.layers=1", "unknown model 'nope': known: tiny; a new one needs pretrained too"),
        ("studies.lft.select=tiny_spatial_select", "unknown study 'lft': did you mean 'left'? known: left; a new one"),
    ):
        with pytest.raises(UserError, match="--set"):
            load_recipe(recipe(), (), [wrong])
        with pytest.raises(UserError) as told:
            load_recipe(recipe(), (), [wrong])
        assert expected in str(told.value)


def test_null_takes_a_name_out_and_an_overlay_has_a_folder_of_its_own(tmp_path: Path) -> None:
    over = tmp_path / "less.yaml"
    over.write_text("methods: {sae: null}")
    _, found = load_recipe("paper_cvbench", [str(over)], ["models.idefics3-8b=null"])
    assert "idefics3-8b" not in found.models and set(found.methods) == {"mean_shift", "linear_probe"}
    lines = "\n".join(run_recipe("paper_cvbench", over=["stand_in"], dry_run=True))
    assert "runs/paper_cvbench-stand_in/" in lines and "runs/paper_cvbench/" not in lines


def test_a_folder_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine is a folder: a recipe is a file, such as mine.yaml"):
        load_recipe("mine")


def test_an_unknown_model_is_told_with_those_that_can_be_steered(recipe: Callable[..., str]) -> None:
    with pytest.raises(UserError) as told:
        load_recipe(recipe("steered_paligemma", "steered_litelm"))
    assert "unknown model 'steered_litelm': " in str(told.value) and "litellm" not in str(told.value)


def test_an_output_that_cannot_be_written_to_is_refused_by_the_plan(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scene.png"
    file.touch()
    for output in (file, file / "below"):
        with pytest.raises(
            UserError, match=f"'{output}' cannot be made, '{file}' is no folder: say another with --output"
        ):
            list(run_recipe(recipe(), output, dry_run=True))
    with pytest.raises(UserError, match=f"'{file}' is no folder"):
        list(run_recipe(recipe("about: a test", f"output: {file}"), dry_run=True))
    # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"'{tmp_path}' does not permit it: say another with --output"):
        list(run_recipe(recipe(), tmp_path / "new" / "one", dry_run=True))


def test_a_plan_says_what_its_vectors_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said = "\n".join(run_recipe("paper_cvbench", dry_run=True))
    assert "# the backbone google/gemma-2-9b is not on this disk" in said
    assert "# gemma-2-2b's SAEs come from gemma-scope-2b-pt-res-canonical" in said
    assert "# WARNING: OPENAI_API_KEY is not set" in said
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    said = "\n".join(run_recipe("paper_cvbench", dry_run=True))
    assert "OPENAI_API_KEY" not in said and "secret" not in said


@pytest.mark.parametrize("name", sorted(set(shipped_recipes()) - {"stand_in"}))
def test_a_recipe_that_ships_has_a_plan_in_which_each_cell_finds_what_it_needs(name: str) -> None:
    _, found = load_recipe(name)
    cells = Planner(found, Path("out")).cells()
    assert len({cell.name for cell in cells}) == len(cells)
    made: dict[str, str] = {}
    for cell in cells:
        assert all(need in made.values() for need in cell.needs)
        made |= dict.fromkeys(cell.makes, cell.name)
        for word in cell.command:
            # whatever a command reads from the recipe's folder is made by a cell that it waits for
            path = word.rpartition("=")[2]
            if path in made and path not in cell.makes:
                assert made[path] in cell.needs, (cell.name, path)


def test_the_paper_s_plan_is_the_paper_s() -> None:
    _, found = load_recipe("paper_cvbench")
    cells = Planner(found, Path("out")).cells()
    searches = [cell for cell in cells if cell.kind == "search"]
    assert len(searches) == 3 * 4 * 4 * 3, "models x concepts x tasks x methods"
    command = str(next(c for c in searches if c.name == "search/paligemma2-3b/relation/counting-sae"))
    assert "--layers 5-20 --alphas 10:60:10 --tokens image,text,both" in command
    assert "out/vectors/gemma-2-2b/counting/sae.safetensors --task cvbench_relation_select" in command
    lines = list(run_recipe("paper_ood", dry_run=True))
    assert "steering=runs/paper_cvbench/search/idefics3-8b/count/counting-mean_shift/choice.yaml" in "\n".join(lines)
    assert not Path("runs/paper_ood").exists()


def test_a_plan_says_what_is_not_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path / "data"))
    arguments = {"over": ["stand_in"], "assignments": [f"chosen_in={tmp_path}", "studies.clevr.test=superclevr"]}

    def told() -> str:
        lines = run_recipe("paper_ood", dry_run=True, **arguments)
        return "\n".join(line for line in lines if line.startswith("# ") and "\n" not in line)

    before = told()
    assert "# steer_blink_spatial_relation, steer_blink_relative_depth and 1 more: BLINK-Benchmark/BLINK is" in before
    assert "superclevr: '" in before and "holds no finished copy of superclevr: run lmms-steer data import" in before
    assert (
        f"WARNING: 54 files that its cells read are not there (the first is {tmp_path}/search/paligemma2-3b" in before
    )
    assert before.endswith(f"run the recipe of {tmp_path} before this one")
    laid_over = tmp_path.with_name(f"{tmp_path.name}-stand_in")
    laid_over.mkdir()
    assert told().endswith(f"before this one, or say --set chosen_in={laid_over}")
    (tmp_path / "hub/datasets--BLINK-Benchmark--BLINK/snapshots/a").mkdir(parents=True)
    copy = tmp_path / "data/superclevr"
    copy.mkdir(parents=True)
    (copy / "manifest.json").write_text('{"rows": {"test": 1}, "files": {"test": ["a"]}, "columns": []}')
    _, found = load_recipe("paper_ood", **{"over": ["stand_in"], "assignments": arguments["assignments"]})
    for cell in Planner(found, tmp_path).cells():
        for path in map(Path, cell.reads):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert not any(word in told() for word in ("BLINK", "no finished copy", "WARNING"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.yaml": "task: mine\ninclude: b.yaml", "b.yaml": "include: a.yaml"}, "a.yaml includes itself"),
        ({"a.yaml": "task: mine\ninclude: none"}, "none cannot be read as a task: [Errno 2]"),
        ({"a.yaml": "task: mine\ndataset_path: [x"}, "a.yaml cannot be read as a task: while parsing"),
        ({"a.yaml": "task: mine\ndataset_path: !!python/object/apply:os.abort []"}, "a.yaml cannot be read as a task"),
        ({"a.yaml": "task: mine\ndataset_path: !function utils.gone", "utils.py": "raise SystemExit(9)"}, None),
        ({"a.yaml": "group: mine\ntask: [b, tiny_spatial]", "b.yaml": "group: b\ntask: [mine]"}, None),
        ({"a.yaml": "tag: mine\ntask: b\ndataset_path: x/y"}, "x/y is not on this disk, "),
    ],
)
def test_a_look_at_one_s_own_tasks_runs_nothing_and_ends_in_lines(
    tmp_path: Path, files: dict[str, str], said: str | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "old_yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to("/no/such")
    task_files.check_task("mine", str(tmp_path))
    lines = list(missing_datasets("mine", str(tmp_path)))
    assert len(lines) == (said is not None) and (said or "") in "".join(lines)


def test_a_name_that_is_taken_is_not_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: mmstar")
    with pytest.raises(UserError, match="mmstar of .* is also a task of lmms-eval: rename yours"):
        task_files.check_task("mmstar", str(tmp_path))
    # listed, not defined: lmms-eval's
    (tmp_path / "a.yaml").write_text("group: mine\ntask: [mmstar]")
    task_files.tasks_in.cache_clear()
    task_files.check_task("mmstar", str(tmp_path))
    assert task_files.task_file("mmstar", str(tmp_path))[1].name == "mmstar.yaml"


def test_two_things_that_would_share_a_file_are_refused(recipe: Callable[..., str], tmp_path: Path) -> None:
    second = "  two: {model: steered_paligemma, pretrained: tiny-paligemma2, backbone: /b/final}\nmethods:"
    _, found = load_recipe(recipe("methods:", second), (), ["models.tiny.backbone=/a/final"])
    with pytest.raises(UserError, match=r"extract/final/mean_shift: .*/a/final.*/b/final"):
        Planner(found, tmp_path).cells()
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: spatial\nabout: mine\npairs:\n- left: The cup is left of the plate.\n")
    with pytest.raises(UserError, match=r"line 10: 'spatial' and '.*mine.yaml' are both the concept 'spatial'"):
        load_recipe(recipe("concepts: spatial", f"concepts: [spatial, {mine}]"))


def test_a_plan_imports_neither_torch_nor_lmms_eval() -> None:
    code = (
        "import sys; from lmms_steer.recipes.command import run_recipe\n"
        "list(run_recipe('paper_cvbench', dry_run=True))\n"
        "print([m for m in ('torch', 'transformers', 'lmms_eval', 'submitit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_s_own_benchmark_as_the_page_writes_it_goes_through_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what Python leaves in the folder must not count as a change of it
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    mine, page = tmp_path / "mine", ROOT / "docs/howto/benchmark.md"
    mine.mkdir()
    for text in blocks(page, "yaml", "python"):
        (mine / text.split()[1].rstrip(",").removeprefix("mine/")).write_text(text)
    for name in ("kitchen", "kitchen_select"):
        rows = {
            "image": [Image.new("RGB", (32, 32), (9 * n, 0, 0)) for n in range(4)],
            "question": [f"{name}: what is left of the cup {n}?" for n in range(4)],
            "choices": [["a plate", "a spoon"]] * 4,
            "answer": ["A", "B", "A", "B"],
        }
        Dataset.from_dict(rows).to_parquet(mine / f"{name}.parquet")
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.replace("tiny_spatial", "kitchen").replace("about: a test", f"include_path: {mine}"))
    settings = [
        "models.tiny.layers=2",
        "methods.mean_shift.alphas=1",
        "methods.mean_shift.controls=0",
        "search.tokens=image",
    ]
    arguments = {"assignments": [*settings, "systems=baseline,steered"], "output": tmp_path / "out"}
    list(run_recipe(str(file), **arguments))
    table = (tmp_path / "out/boards/tiny/left.csv").read_text()
    assert "kitchen" in table and "mean_shift" in table
    assert "data:image/" in (tmp_path / "out/boards/tiny/left.html").read_text(), "its pictures are on the page"
    assert len(Ledger(tmp_path / "out").cells) == 5 and set(states(tmp_path / "out").values()) == {"done"}
    assert all(
        "(done)" in line for line in run_recipe(str(file), dry_run=True, **arguments) if line.startswith("# evaluate/")
    )
    # one's tasks are read too: a changed one is asked again
    (mine / "utils.py").write_text((mine / "utils.py").read_text() + "\n# changed\n")
    said = [line for line in run_recipe(str(file), dry_run=True, **arguments) if line.startswith("# search")]
    assert not any("(done)" in line for line in said) and said
    for old, new, expected in (
        (f"{mine}", f"{mine}/none", "line 1: no such folder of tasks"),
        ("test: kitchen", "test: kitchn", "line 12: unknown task 'kitchn': did you mean 'kitchen'"),
    ):
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(file.read_text().replace(old, new))
        with pytest.raises(UserError, match=expected):
            load_recipe(str(wrong))
    with pytest.raises(UserError, match="holds the output too"):
        list(run_recipe(str(file), **{**arguments, "output": mine / "out"}))


# The machinery, on cells that are shell commands.


def shell(name: str, script: str, root: Path, needs: tuple[str, ...] = (), reads: tuple[str, ...] = ()) -> Cell:
    """Notes that it ran, then runs `script`, in which $OUT is the file that it makes."""
    out = root / f"{name}.txt"
    script = f"echo {name} >> {root}/ran; OUT={out}; {script}"
    return Cell(name, "command", ("sh", "-c", script), needs, reads, (str(out),))


def chain(root: Path) -> list[Cell]:
    cells = [shell(f"a{i}", f"echo {i} > $OUT", root) for i in range(4)]
    cells += [shell(f"b{i}", f"cat {root}/a{i}.txt {root}/a{i}.txt > $OUT", root, (f"a{i}",)) for i in range(4)]
    return [*cells, shell("table", f"cat {root}/b*.txt > $OUT", root, tuple(f"b{i}" for i in range(4)))]


def ran(root: Path) -> list[str]:
    return (root / "ran").read_text().split()


def states(root: Path) -> dict[str, str]:
    return {name: state["state"] for name, state in Ledger(root).states().items()}


def test_two_workers_give_the_table_of_one_and_what_is_done_is_kept(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        list(run_cells(tmp_path / name, chain(tmp_path / name), count))
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "table.txt").read_text() == (two / "table.txt").read_text() == "0\n0\n1\n1\n2\n2\n3\n3\n"
    assert sorted(ran(two)) == sorted(cell.name for cell in chain(two)), "no cell ran twice"
    # another command, and a file that somebody changed: these and what hangs on them run again, the rest is kept
    (one / "b3.txt").write_text("changed")
    cells = chain(one)
    cells[0] = shell("a0", "echo 9 > $OUT", one)
    list(run_cells(one, cells, 1))
    assert ran(one)[9:] == ["a0", "b0", "b3", "table"]
    assert (one / "table.txt").read_text() == "9\n9\n1\n1\n2\n2\n3\n3\n"
    assert sum(state == "kept" for state in states(one).values()) == 5


def test_a_failed_cell_s_dependants_are_skipped_and_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    cells[1] = shell("a1", "echo 'lmms-steer: no such vector' >&2; exit 2", tmp_path)
    cells[2] = shell("a2", "true", tmp_path)  # ends well, but leaves nothing
    lines = []
    with pytest.raises(UserError, match="2 cells failed and 3 were skipped"):
        lines += run_cells(tmp_path, cells, 1)
    found = Ledger(tmp_path).states()
    assert found["a1"]["why"] == "no such vector" and found["b1"]["why"] == found["table"]["why"] == "needs a1"
    assert "it did not write" in found["a2"]["why"]
    assert states(tmp_path) | {"b0": "done", "b3": "done"} == states(tmp_path)
    # put right, only these run
    before = len(ran(tmp_path))
    list(run_cells(tmp_path, chain(tmp_path), 1))
    assert sorted(ran(tmp_path)[before:]) == ["a1", "a2", "b1", "b2", "table"]


def test_a_cell_whose_choice_is_not_there_fails_before_anything_is_loaded(tmp_path: Path) -> None:
    choice = tmp_path / "choice.yaml"
    cell = shell("a", "echo > $OUT", tmp_path, reads=(str(choice),))
    with pytest.raises(UserError, match="1 cell failed"):
        list(run_cells(tmp_path, [cell], 1))
    assert Ledger(tmp_path).states()["a"]["why"] == f"it reads {choice}, which is not there"
    assert not (tmp_path / "ran").exists()
    choice.touch()
    list(run_cells(tmp_path, [cell], 1))
    assert ran(tmp_path) == ["a"]


def test_a_worker_that_dies_is_reported_and_its_cell_tried_once_more(tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/died || {{ touch {tmp_path}/died; kill -9 $PPID; sleep 1; }}; echo ok > $OUT"
    cells = [shell("once", once, tmp_path), shell("always", "kill -9 $PPID; sleep 1", tmp_path)]
    lines = []
    with pytest.raises(UserError, match="1 cell failed"):
        for line in run_cells(tmp_path, cells, 1):
            lines.append(line)
    assert "a worker died at once: it is tried once more" in lines
    assert states(tmp_path) == {"once": "done", "always": "failed"}
    assert ran(tmp_path).count("once") == 2 and ran(tmp_path).count("always") == 2


def started(root: Path, cells: list[Cell], *until: str, workers: int = 1) -> "subprocess.Popen[str]":
    """A run of the cells in a process group of its own, once all of `until` have begun."""
    plan = root / "cells.json"
    plan.write_text(json.dumps([cell.as_dict() for cell in cells]))
    code = (
        "import json, pathlib, signal, sys\n"
        # what a shell starts in the background takes no notice of Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lmms_steer import cli\n"
        "from lmms_steer.recipes import command; from lmms_steer.recipes.cells import Cell\n"
        f"root = pathlib.Path({str(root)!r}); plan = json.loads(pathlib.Path({str(plan)!r}).read_text())\n"
        f"command.run_recipe = lambda *_: command.run_cells(root, [Cell.from_dict(c) for c in plan], {workers})\n"
        "sys.argv = ['lmms-steer', 'run', 'tiny']; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0
    )
    while process.poll() is None and not ((root / "ran").is_file() and {*until} <= {*ran(root)}):
        time.sleep(0.02)
    return process


def at_work(word: object) -> list[psutil.Process]:
    """Processes with a word in their command line."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(word) in part for part in p.info["cmdline"] or ())]


def test_a_run_killed_by_sigkill_goes_on_and_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # the cell waits until somebody opens the gate
    cells[2] = shell("a2", f"cat {gate} > /dev/null; echo 2 > $OUT", tmp_path)
    process = started(tmp_path, cells, "a2")
    with pytest.raises(UserError, match=rf"is in use by another run \(process {process.pid} on "):
        list(run_cells(tmp_path, cells, 1))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert states(tmp_path) | {"a0": "done", "a1": "done", "a2": "running"} == states(tmp_path)
    list(run_cells(tmp_path, chain(tmp_path), 2))
    assert not at_work(gate), "what a worker started ended with it"
    assert (tmp_path / "table.txt").read_text() == "0\n0\n1\n1\n2\n2\n3\n3\n"
    assert ran(tmp_path).count("a0") == ran(tmp_path).count("a1") == 1 and ran(tmp_path).count("a2") == 2


def test_ctrl_c_ends_a_run_with_one_line_and_all_that_it_started_before_it_returns(tmp_path: Path) -> None:
    gate, below = tmp_path / "gate", tmp_path / "below.py"
    os.mkfifo(gate)
    # as torchrun's processes: each in a session of its own
    below.write_text(
        "import os, pathlib, sys; os.setsid()\n"
        f"with open({str(tmp_path / 'ran')!r}, 'a') as ran: print(sys.argv[1], file=ran)\n"
        f"os.execvp('cat', ['cat', {str(gate)!r}])"
    )
    script = f"{sys.executable} {below} below-{{}} & cat {gate}; echo > $OUT"
    cells = [shell(name, script.format(name), tmp_path) for name in "ab"]
    process = started(tmp_path, cells, "below-a", "below-b", workers=2)
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    assert not at_work(tmp_path)
    assert process.communicate()[1] == "lmms-steer: stopped; long work goes on where it was when it is run again\n"
    assert process.returncode == 130
    list(run_cells(tmp_path, [shell("a", "echo > $OUT", tmp_path)], 1))
    assert not at_work(tmp_path), "nor when all is done"


def test_a_run_that_nobody_reads_on_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    lines = run_cells(tmp_path, [shell("a", "echo > $OUT", tmp_path), shell("b", f"cat {gate}", tmp_path)], 1)
    assert any("a: done" in line for line in lines)
    lines.close()
    assert not at_work(tmp_path)


@pytest.mark.parametrize(
    ("sbatch", "said"),
    [
        (
            "echo 'sbatch: warning: old' >&2; echo 'sbatch: error: invalid partition' >&2; exit 1",
            "sbatch: error: invalid",
        ),
        (None, "No such file or directory: 'sbatch'"),
    ],
)
def test_a_cluster_that_takes_no_jobs_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sbatch: str | None,
    said: str,
) -> None:
    # submitit looks for srun to know a cluster by
    for name, script in (("srun", "exit 0"), ("sbatch", sbatch)):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--cluster slurm: no job could be started: ") as told:
        list(run_cells(tmp_path / "out", [shell("a", "echo > $OUT", tmp_path)], 1, "slurm"))
    assert said in str(told.value) and "\n" not in str(told.value)
    assert capsys.readouterr().err == ""


def test_settings_of_a_cluster_that_is_not_asked_for_are_refused(recipe: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="--slurm partition=gpu is for SLURM jobs: add --cluster slurm"):
        list(run_recipe(recipe(), slurm=["partition=gpu"], dry_run=True))


def test_a_command_on_another_machine_is_gone_when_its_stamp_stands_still_whatever_that_clock_says() -> None:
    sign = Heartbeat(1000.0)
    # stamps of a clock that is decades behind
    assert not sign.is_old(5, 1001.0) and not sign.is_old(5, 1001.0 + SILENCE_LIMIT)
    assert not sign.is_old(6, 1002.0 + SILENCE_LIMIT), "a new one"
    assert not sign.is_old(None, 1003.0 + SILENCE_LIMIT), "a disk that is away for a moment"
    assert sign.is_old(6, 1003.0 + 2 * SILENCE_LIMIT) and sign.is_old(None, 1003.0 + 2 * SILENCE_LIMIT)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent died")
def test_what_a_worker_runs_ends_when_the_worker_is_killed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = f"run_in_process(['cat', {str(gate)!r}], pathlib.Path('log'))"
    code = f"import pathlib; from lmms_steer.recipes.in_process import run_in_process; {run}"
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (child := psutil.Process(worker.pid).children()) or child[0].name() != "cat":
        time.sleep(0.02)
    worker.kill()
    psutil.wait_procs(child, timeout=30)
    assert not child[0].is_running()


def test_workers_share_the_accelerators_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(there: str, size: int) -> list[str]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
        return [workers._environment(number, size)["CUDA_VISIBLE_DEVICES"] for number in range(size)]

    assert shares("4,5", 4) == ["4", "5", "4", "5"] and shares("0,1,2,3", 2) == ["0,2", "1,3"]
    assert shares("", 2) == ["", ""]


def test_a_model_that_does_not_fit_is_a_failed_cell_with_one_line(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**6, 10**7], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    assert memory.weight_bytes(str(tmp_path / "m"), "bfloat16") == 2 * 10**13
    assert (
        memory.weight_bytes(str(tmp_path / "m"), "auto")
        == memory.weight_bytes(str(tmp_path / "m"), "auto", processor=True)
        == 4 * 10**13
    )
    # the same weights in another layout are not loaded
    (tmp_path / "m" / "consolidated.safetensors").write_bytes((tmp_path / "m" / "model.safetensors").read_bytes())
    assert memory.weight_bytes(str(tmp_path / "m"), "bfloat16") == 2 * 10**13
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "one.safetensors")
    index = {"weight_map": {"w": "one.safetensors", "v": "one.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert memory.weight_bytes(str(tmp_path / "m"), "bfloat16") == 2 * 10**13
    quantised = Model(pretrained="m", args={"load_in_4bit": "True"})
    assert words.loaded_weights(quantised) is None and words.loaded_weights(Model(pretrained="m")) == ("m", "auto")
    assert memory.weight_bytes("no/such-model", "auto") is None
    cell = Cell("big", "evaluate", ("lmms-eval",), loads=(str(tmp_path / "m"), "bfloat16"))

    def never(command: tuple[str, ...], log: Path) -> int:
        raise AssertionError("it was run")

    ended = run_cell(cell, Ledger(tmp_path), never)
    assert ended["state"] == "failed" and "needs 20000.0 GB for its weights (dtype=bfloat16)" in str(ended["why"])


def test_a_search_that_failed_goes_on_with_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    script = f"test -e {folder}/batch && touch {folder}/choice || {{ mkdir {folder}; touch {folder}/batch; exit 1; }}"
    cell = Cell("search", "search", ("sh", "-c", script), makes=(str(folder / "choice"),), folder=str(folder))
    with pytest.raises(UserError, match="1 cell failed"):
        list(run_cells(tmp_path, [cell], 1))
    before = (folder / "batch").stat().st_mtime_ns
    list(run_cells(tmp_path, [cell], 1))
    assert states(tmp_path) == {"search": "done"} and (folder / "batch").stat().st_mtime_ns == before


def test_a_folder_that_no_cell_is_known_to_have_made_is_put_aside(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "mine").write_text("kept")
    cell = Cell("c", "command", ("mkdir", str(folder)), makes=(str(folder),), folder=str(folder))
    list(run_cells(tmp_path, [cell], 1))
    assert states(tmp_path) == {"c": "done"} and (tmp_path / "replaced" / "c-1" / "mine").read_text() == "kept"


def test_a_command_run_inside_leaves_its_output_status_and_reason_and_the_process_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log, before = tmp_path / "log", (sys.argv, dict(os.environ))
    # pytest's own capture puts objects in the place of the process's output; a worker has none
    with capfd.disabled():
        status = inside.run_in_process(("lmms-steer", "concepts", "show", "spatail"), log)
    assert status == 2 and inside.failure_reason(log).startswith("unknown concept 'spatail'")
    with capfd.disabled():
        status = inside.run_in_process(("lmms-steer", "concepts", "list"), log)
    assert status == 0 and "spatial" in log.read_text()
    assert (sys.argv, dict(os.environ)) == before
    log.write_text("loading\n\x1b[31mtorch.OutOfMemoryError: no room\x1b[0m\n")
    assert inside.failure_reason(log) == "torch.OutOfMemoryError: no room"


def test_what_was_tried_again_and_again_is_told_by_its_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("pyarrow.lib.ArrowInvalid: no footer\nValueError: x\ntenacity.RetryError: RetryError[<Future>]\n")
    assert inside.failure_reason(log) == "ValueError: x"


def test_what_was_noted_on_the_way_is_no_reason_for_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_notes()
    LOGGER.info("out of memory with 16 questions at once, going on with 8")
    LOGGER.warning("vector 'v' was made from another model")
    log = tmp_path / "log"
    log.write_text("KeyError: 'a'\n" + capsys.readouterr().err)
    assert inside.failure_reason(log) == "KeyError: 'a'"


def test_an_evaluation_that_left_too_little_is_not_done(tmp_path: Path) -> None:
    cell = Cell("one", "evaluate", ("lmms-eval",), makes=(str(tmp_path),))
    assert missing_output(cell) == f"no finished evaluation in {str(tmp_path)!r}: there is no *_results.json"
    place = write_run(tmp_path, {"a": [1.0, 0.0], "b": [1.0]}) / "tiny"
    assert missing_output(cell) is None
    samples = place / f"{STAMP}_samples_a.jsonl"
    samples.write_text(samples.read_text().splitlines()[0] + "\n")
    assert "it holds 1 of 2 samples" in (missing_output(cell) or "")
    samples.unlink()
    assert missing_output(cell) == "it wrote no samples of a"
