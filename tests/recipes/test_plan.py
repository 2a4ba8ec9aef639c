"""Planning a recipe: its cells, their names, and what a dry run says."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.command import run_recipe
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.loading import complete_recipes, load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.vectors import store
from tests.helpers.models import vectors


def test_an_unwritable_output_folder_is_refused(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scene.png"
    file.touch()
    for output in (file, file / "below"):
        with pytest.raises(
            UserError, match=f"'{output}' cannot be created: '{file}' is not a folder; choose another with --output"
        ):
            list(run_recipe(recipe(), output, dry_run=True))
    with pytest.raises(UserError, match=f"'{file}' is not a folder"):
        list(run_recipe(recipe("about: a test", f"output: {file}"), dry_run=True))
    # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"no permission for '{tmp_path}'; choose another with --output"):
        list(run_recipe(recipe(), tmp_path / "new" / "one", dry_run=True))


def test_an_output_folder_may_be_below_the_home_folder(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lines = list(run_recipe(recipe("about: a test", "output: ~/runs/x"), dry_run=True))
    assert any(f"--output_path {tmp_path}/home/runs/x/runs/tiny/left/baseline" in line for line in lines)
    assert not any("~" in line for line in lines)


def test_an_overlay_s_folder_is_beside_that_of_the_recipe(recipe: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("limit: 5")
    lines = list(
        run_recipe(recipe("about: a test", f"output: {tmp_path}/x/"), None, [f"{tmp_path}/few.yaml"], dry_run=True)
    )
    assert any(f"--output_path {tmp_path}/x-few/runs/tiny/left/baseline" in line for line in lines)


def test_a_folder_that_is_typed_in_another_way_keeps_its_finished_cells(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Ledger(Path("out")).begin(Planner(load_recipe(recipe())[1], Path("out")).cells())

    def commands(output: Path) -> list[str]:
        return [line for line in run_recipe(recipe(), output, dry_run=True) if "--output_path" in line]

    before = commands(Path("out"))
    assert before and all("--output_path out/runs/" in line for line in before)
    assert commands(tmp_path / "out") == before
    # from another working folder every cell would run again
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"^../out was begun in {tmp_path} as out, .*: start the recipe there"):
        commands(Path("../out"))
    monkeypatch.chdir(tmp_path)
    # not where the earlier path names another folder, or none
    (tmp_path / "out").rename(tmp_path / "moved")
    assert all("--output_path moved/runs/" in line for line in commands(Path("moved")))


@pytest.mark.usefixtures("smol_package")
@pytest.mark.parametrize("name", complete_recipes())
def test_cells_of_shipped_recipes_need_the_cells_that_make_their_inputs(name: str, own_cache: Path) -> None:
    _, loaded = load_recipe(name)
    cells = Planner(loaded, Path("out")).cells()
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
    # a plan does not make the pretrained model, which takes half a minute
    assert not (own_cache / "models").exists()


@pytest.mark.usefixtures("smol_package")
def test_commands_of_shipped_recipes_make_the_images_of_their_questions() -> None:
    checked = 0
    for name in complete_recipes():
        for cell in Planner(load_recipe(name)[1], Path("out")).cells():
            if cell.command[:3] == ("lmms-steer", "data", "questions"):
                # it writes questions.jsonl and images/ into this folder
                assert cell.command[4] in cell.makes, (name, cell.name)
                checked += 1
    assert checked == 2


def test_a_command_of_one_s_own_has_the_folder_and_the_arguments_of_the_model(recipe: Callable[..., str]) -> None:
    run = "lmms-steer curve --model_args {model_args:tiny} --output {output}/curve"
    name = recipe("about: a test", f"commands: [{{name: a, run: '{run}', makes: x}}]")
    _, loaded = load_recipe(name, (), ["models.tiny.args.dtype=bfloat16"])
    (line,) = [str(cell) for cell in Planner(loaded, Path("out")).cells() if cell.kind == "command"]
    assert line == "lmms-steer curve --model_args pretrained=tiny-paligemma2,dtype=bfloat16 --output out/curve"


def test_a_folder_s_name_may_hold_quotes_and_backslashes(recipe: Callable[..., str]) -> None:
    name = recipe("about: a test", "commands: [{name: a, run: 'lmms-steer curve --output {output}', makes: x}]")
    for folder in ("o'p", 'o"p', "o\\p"):
        cells = Planner(load_recipe(name)[1], Path(folder)).cells()
        assert [cell.command[-1] for cell in cells if cell.kind == "command"] == [folder]


def test_the_smaller_of_two_limits_counts(recipe: Callable[..., str]) -> None:
    for own, whole, expected in (("200", "4", "4"), ("4", "200", "4"), ("null", "7", "7"), ("7", "null", "7")):
        _, loaded = load_recipe(recipe(), (), [f"search.limit={own}", f"limit={whole}"])
        (search,) = [cell for cell in Planner(loaded, Path("out")).cells() if cell.kind == "search"]
        assert f"--limit {expected} " in str(search)


@pytest.mark.parametrize("name", ["../../evil", "search", ".hidden", "a/b"])
def test_a_command_s_name_is_that_of_a_file_and_of_no_kind_of_cells(recipe: Callable[..., str], name: str) -> None:
    path = recipe("about: a test", f"commands: [{{name: '{name}', run: 'lmms-steer curve', makes: x}}]")
    with pytest.raises(UserError, match=rf"line 1: command '{re.escape(name)}': a name is made of letters"):
        load_recipe(path)


def test_a_folder_with_the_name_of_a_concept_is_no_input(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spatial").mkdir()
    (extract,) = [one for one in Planner(load_recipe(recipe())[1], Path("out")).cells() if one.kind == "extract"]
    assert not extract.reads


def test_the_plan_of_the_paper_s_recipe_has_its_searches() -> None:
    _, loaded = load_recipe("paper_cvbench")
    cells = Planner(loaded, Path("out")).cells()
    searches = [cell for cell in cells if cell.kind == "search"]
    assert len(searches) == 3 * 4 * 4 * 3, "models x concepts x tasks x methods"
    command = str(next(c for c in searches if c.name == "search/paligemma2-3b/relation/counting-sae"))
    assert "--layers 5-20 --alphas 10:60:10 --tokens image,text,both" in command
    assert "out/vectors/gemma-2-2b/counting/sae.safetensors --task cvbench_relation_select" in command
    lines = list(run_recipe("paper_ood", dry_run=True))
    assert "steering=runs/paper_cvbench/search/idefics3-8b/count/counting-mean_shift/choice.yaml" in "\n".join(lines)
    assert not Path("runs/paper_ood").exists()


@pytest.mark.usefixtures("own_cache")
def test_stored_vectors_are_searched_by_name_and_not_extracted(recipe: Callable[..., str], tmp_path: Path) -> None:
    # of another tool, with a concept and a method that only it knows
    store.save(vectors(model="tiny-gemma2", concept="turning", method="reft-v1.2"))
    name = recipe("mean_shift: {alphas: 10:50:10}", "reft-v1.2: {stored: true, alphas: 1}")
    _, loaded = load_recipe(name, (), ["studies.left.concepts=turning"])
    cells = {cell.name: cell for cell in Planner(loaded, tmp_path / "out").cells()}
    assert {cell.kind for cell in cells.values()} == {"search", "evaluate", "compare"}
    search = cells["search/tiny/left/turning-reft-v1.2"]
    assert "--vector tiny-gemma2/turning/reft-v1.2 --task tiny_spatial_select" in str(search) and not search.needs
    assert cells["evaluate/tiny/left/reft-v1.2"].needs == (search.name,)
    before = Ledger(tmp_path / "out").marks.fingerprint(search)
    store.save(vectors(seed=1, model="tiny-gemma2", concept="turning", method="reft-v1.2"))
    assert Ledger(tmp_path / "out").marks.fingerprint(search) != before, "another vector of that name"
    with pytest.raises(UserError, match="stored=true: unknown vector 'tiny-gemma2/spatial/reft': did you mean"):
        load_recipe(recipe(), (), ["methods.reft.stored=true"])
    settings = ["methods.sae.stored=true", "methods.sae.judge=none"]
    with pytest.raises(UserError, match="a stored vector is used as it is: leave out sae, judge"):
        load_recipe(recipe(), (), settings)


def test_only_the_saes_of_the_searched_layers_are_read_and_settings_are_passed_on(
    recipe: Callable[..., str], tmp_path: Path
) -> None:
    methods = "methods:\n  sae: {judge: none, paper_exact: true}\n"
    second = "  two: {model: steered_paligemma, pretrained: tiny-paligemma2, layers: '3,4', backbone_dtype: bfloat16}\n"
    settings = ["models.tiny.layers=1-3", "models.tiny.backbone_dtype=bfloat16"]

    def commands(*assignments: str) -> dict[str, str]:
        _, loaded = load_recipe(recipe("methods:", second + methods), (), assignments)
        return {cell.name: str(cell) for cell in Planner(loaded, tmp_path).cells() if cell.kind == "extract"}

    made = commands(*settings)
    assert made["extract/tiny-gemma2/sae"].endswith("--judge none --paper-exact --layers 1-3,3,4 --dtype bfloat16")
    # all layers of a mean shift cost nothing
    assert made["extract/tiny-gemma2/mean_shift"].endswith("--replace --dtype bfloat16")
    # one of the models searches all of its layers
    assert "--layers" not in commands(settings[1])["extract/tiny-gemma2/sae"]
    with pytest.raises(UserError, match="the backbone 'tiny-gemma2' share its vectors: give all of them the same back"):
        commands(settings[0])
    with pytest.raises(UserError, match=r"unknown dtype 'bf16'"):
        commands(settings[0], "models.tiny.backbone_dtype=bf16")


def test_two_cells_or_concepts_with_the_same_name_are_refused(recipe: Callable[..., str], tmp_path: Path) -> None:
    second = "  two: {model: steered_paligemma, pretrained: tiny-paligemma2, backbone: /b/final}\nmethods:"
    with pytest.raises(UserError, match=r"the backbones '/a/final' and '/b/final' have the same name"):
        load_recipe(recipe("methods:", second), (), ["models.tiny.backbone=/a/final"])
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: spatial\nabout: mine\npairs:\n- left: The cup is left of the plate.\n")
    with pytest.raises(UserError, match=r"line 10: 'spatial' and '.*mine.yaml' are both the concept 'spatial'"):
        load_recipe(recipe("concepts: spatial", f"concepts: [spatial, {mine}]"))


def test_a_concept_file_with_a_comma_is_refused(recipe: Callable[..., str], tmp_path: Path) -> None:
    mine = tmp_path / "a,b.yaml"
    mine.write_text("name: mine\nabout: mine\npairs:\n- left: The cup is left of the plate.\n")
    with pytest.raises(UserError, match=r"line 10: '.*a,b.yaml': a concept file's path cannot contain ','"):
        load_recipe(recipe("concepts: spatial", f'concepts: ["{mine}"]'))


@pytest.mark.slow
def test_a_dry_run_imports_neither_torch_nor_lmms_eval(own_cache: Path) -> None:
    # as where it was made, so that its package need not be there
    (own_cache / "models" / "smollm2-135m").mkdir(parents=True)
    code = (
        "import sys; from lmms_steer.recipes.command import run_recipe\n"
        "import time; began = time.process_time()\n"
        "[list(run_recipe(name, dry_run=True)) for name in ('paper_exact', 'smol')]\n"
        "assert time.process_time() - began < 5\n"
        "print([m for m in ('torch', 'transformers', 'lmms_eval', 'submitit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_slurm_settings_need_the_slurm_cluster(recipe: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="--slurm partition=gpu is for SLURM jobs: add --cluster slurm"):
        list(run_recipe(recipe(), slurm=["partition=gpu"], dry_run=True))
