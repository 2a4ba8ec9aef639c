"""Loading a recipe: overlays, single keys, and mistakes that are loaded before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.command import run_recipe
from lmms_steer.recipes.loading import find_recipe, load_recipe, shipped_overlays


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("about", "abuot", "line 1: unknown key 'abuot': did you mean 'about'"),
        ("    model:", "    modell:", "line 4: unknown key 'modell': did you mean 'model'"),
        ("steered_paligemma", "steered_paligema", "line 4: unknown model 'steered_paligema': did you mean"),
        ("mean_shift", "mean_shfit", "line 7: unknown method 'mean_shfit': did you mean 'mean_shift'"),
        ("10:50:10", "0", "line 7: --alphas 0: an alpha of 0 is the baseline"),
        ("spatial\n    s", "spatail\n    s", "line 10: unknown concept 'spatail': did you mean 'spatial'"),
        ("test: tiny_spatial", "test: tiny_spatail", "line 12: unknown task 'tiny_spatail': did you mean"),
        ("    select: tiny_spatial_select\n", "", "line 9: study left: set either select: TASK or chosen: STUDY"),
        ("select: tiny_spatial_select", "select: cvbench", "line 11: select: cvbench is a group: a choice is made on"),
        ("steered_paligemma", "steered_litellm", "line 4: litellm runs its model in an engine or behind an API"),
        ("    pretrained: tiny-paligemma2\n", "", "line 3: models.tiny.pretrained is missing"),
        ("tiny-paligemma2", "a,b", "line 5: pretrained=a,b: a value in --model_args cannot contain"),
        ("about: a test", "about: [a", "line 2: not valid YAML"),
        (
            "  tiny:",
            "  ..:",
            "line 3: '..': a name is made of letters, digits and . _ + -, and starts with no dot",
        ),
        ("\n  mean_shift: {alphas: 10:50:10}", " {}", "line 6: methods: mapping should have at least 1 item"),
        ("concepts: spatial", "concepts: []", "line 10: studies.left.concepts: list should have at least 1 item"),
        ("about: a test", "commands: [{name: a, run: '', makes: x}]", "line 1: unknown program ''"),
        ("about: a test", "commands: [{name: a, run: 'a \"', makes: x}]", "line 1: run: No closing quotation"),
        (
            "test: tiny_spatial",
            "test: mmbench_en_dev",
            "line 12: the system `prompted` needs the task 'mmbench_en_dev_prompted'",
        ),
        ("about: a test", "models: {}", "line 2: 'models' is given twice"),
        ("concepts: spatial", "concepts: [spatial, spatial]", "studies.left.concepts: each name can be there once"),
        ("tiny-paligemma2\n", "''\n", "line 5: models.tiny.pretrained: string should have at least 1 character"),
        (
            "tiny-paligemma2\n",
            "tiny-paligemma2\n    args: {pretrained: smol-idefics3}\n",
            "line 6: pretrained: give the model's own key, not one in args",
        ),
        ("tiny-paligemma2\n", "tiny-paligemma2\n    args: {dtype: float99}\n", "line 6: unknown dtype 'float99'"),
        (
            "methods:",
            "  a: {model: steered_hf, pretrained: x, backbone: a/m}\n"
            "  b: {model: steered_hf, pretrained: y, backbone: b/m}\nmethods:",
            "line 7: the backbones 'a/m' and 'b/m' have the same name",
        ),
        (
            "about: a test",
            "commands: [{name: a b, run: lmms-eval, makes: x}, {name: a_b, run: lmms-eval, makes: y}]",
            "line 1: two commands are named 'a_b'",
        ),
        (
            "about: a test",
            "commands: [{name: a, run: 'lmms-steer curve --model_args {model_args:tny}', makes: x}]",
            "line 1: unknown model 'tny': did you mean 'tiny'?",
        ),
    ],
)
def test_mistakes_are_reported_with_their_line(recipe: Callable[..., str], old: str, new: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe(old, new))
    assert expected in str(caught.value) and "r.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("search", "select", "expected"),
    [
        (
            "{strategy: race}",
            200,
            "r.yaml, line 1: the strategy race needs at least 313 questions for 75 cells, and the study left",
        ),
        ("{strategy: race+screen, limit: 64}", 2000, "questions for 75 cells, and the study left has 64"),
        ("{strategy: race}", 450, ""),
        ("{strategy: tpe}", 450, ""),
    ],
)
def test_a_strategy_on_too_few_questions_is_refused_before_anything_runs(
    recipe: Callable[..., str], search: str, select: int, expected: str
) -> None:
    path = Path(recipe("about: a test", f"search: {search}"))
    path.write_text(path.read_text() + f"    select_questions: {select}\n")
    if not expected:
        assert load_recipe(str(path))
        return
    with pytest.raises(UserError) as caught:
        load_recipe(str(path))
    assert expected in str(caught.value) and "use the strategy grid" in str(caught.value)


def test_overlays_and_assignments_set_values_by_key_and_star(recipe: Callable[..., str], tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text('models: {"*": {batch_size: 3}}\nlimit: 5\n')
    _, loaded = load_recipe(
        recipe(), [str(over)], ["models.*.pretrained=/a/b", "studies.left.test=tiny_colour,tiny_counting"]
    )
    assert loaded.models["tiny"].batch_size == 3 and loaded.limit == 5
    assert loaded.models["tiny"].pretrained == "/a/b" and loaded.studies["left"].test == (
        "tiny_colour",
        "tiny_counting",
    )
    # YAML 1.1 would make this a number to base 60
    assert loaded.methods["mean_shift"].alphas == "10:50:10"
    second = "  two: {pretrained: tiny-paligemma2}\nmethods:"
    over.write_text('models: {"*": {args: {dtype: auto}}}')
    _, loaded = load_recipe(recipe("methods:", second), [str(over)], ["models.two.args.dtype=float32"])
    assert [model.args["dtype"] for model in loaded.models.values()] == ["auto", "float32"]
    _, loaded = load_recipe(
        recipe("methods:", second), (), ["studies.*.test=tiny_colour", "methods.*=null", "methods.pca.controls=2"]
    )
    assert list(loaded.methods) == ["pca"] and [study.test for study in loaded.studies.values()] == [("tiny_colour",)]
    for wrong, expected in (
        ("models.tiny.batch_size=0", "--set models.tiny.batch_size=0: models.tiny.batch_size: input should be greater"),
        ("modls.tiny.batch_size=1", "unknown key 'modls': did you mean 'models'"),
        ("limit", "expected KEY=VALUE"),
        ("models.nope.layers=1", "unknown model 'nope': known: tiny; a new model also needs pretrained"),
        ("models.tinny.layer=1", "unknown model 'tinny': did you mean 'tiny'? known: tiny; a new model also needs"),
        ("models.tinny=null", "--set models.tinny=null: unknown model 'tinny': did you mean 'tiny'? known: tiny"),
        ("models.tiny.layer=1", "unknown key 'layer': did you mean 'layers'"),
        (
            "studies.lft.select=tiny_spatial_select",
            "unknown study 'lft': did you mean 'left'? known: left; a new study also needs",
        ),
    ):
        with pytest.raises(UserError, match="--set"):
            load_recipe(recipe(), (), [wrong])
        with pytest.raises(UserError) as caught:
            load_recipe(recipe(), (), [wrong])
        assert expected in str(caught.value)


@pytest.mark.slow
def test_null_removes_a_name_and_an_overlay_gets_its_own_folder(tmp_path: Path) -> None:
    over = tmp_path / "less.yaml"
    over.write_text("methods: {sae: null}")
    _, loaded = load_recipe("paper_cvbench", [str(over)], ["models.idefics3-8b=null"])
    assert "idefics3-8b" not in loaded.models and set(loaded.methods) == {"mean_shift", "linear_probe"}
    lines = "\n".join(run_recipe("paper_cvbench", overlays=["stand_in"], dry_run=True))
    assert "runs/paper_cvbench-stand_in/" in lines and "runs/paper_cvbench/" not in lines


def test_an_overlay_with_a_list_that_yaml_reads_as_keys_is_refused(recipe: Callable[..., str], tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    for text, line, key in (
        ("models:\n  tiny: {layers: 1,3}", 2, "3"),
        ("models:\n  '*': {layers: 1,3}", 2, "3"),
        ("search: {tokens: image, text}", 1, "text"),
    ):
        over.write_text(text)
        with pytest.raises(UserError, match=f"over.yaml, line {line}: unknown key '{key}': known: "):
            load_recipe(recipe(), [str(over)])
    # names, and keys that other recipes have, may be missing
    over.write_text("models: {other: null, tiny: {processes: null}}\nlimit: null")
    assert list(load_recipe(recipe(), [str(over)])[1].models) == ["tiny"]


def test_the_sae_overlay_searches_the_layers_whose_saes_are_trained() -> None:
    assert load_recipe("smol", ["smol_sae"])[1].models["smol-idefics3"].layers == "8,16,24"


def test_a_folder_is_refused_as_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine is a folder: a recipe is a file, such as mine.yaml"):
        load_recipe("mine")


def test_an_unknown_model_error_names_only_steerable_models(recipe: Callable[..., str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe("steered_paligemma", "steered_litelm"))
    assert "unknown model 'steered_litelm': " in str(caught.value) and "litellm" not in str(caught.value)


def test_a_folder_of_results_does_not_hide_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smol").mkdir()
    assert find_recipe("smol").name == "smol.yaml"
    with pytest.raises(UserError, match="other is a folder"):
        (tmp_path / "other").mkdir()
        find_recipe("other")


def test_an_unknown_name_is_compared_with_recipes_or_with_overlays() -> None:
    with pytest.raises(UserError, match="unknown recipe 'tinny': did you mean 'tiny'") as caught:
        load_recipe("tinny")
    assert "stand_in" not in str(caught.value)
    with pytest.raises(UserError, match="unknown overlay 'stand_im': did you mean 'stand_in'") as caught:
        load_recipe("tiny", overlays=["stand_im"])
    assert "paper" not in str(caught.value)


def test_an_overlay_alone_is_refused_with_the_command() -> None:
    for name in shipped_overlays():
        with pytest.raises(
            UserError, match=f"^{name} is laid over another recipe: lmms-steer run RECIPE --with {name}$"
        ):
            load_recipe(name)
