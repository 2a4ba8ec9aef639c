"""Systems of a recipe's own: model arguments such as a contrast, beside the built-in systems and with blank images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.cells import Cell, Marks
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner

OWN = """\
commands:
- {name: sight, run: lmms-steer extract, after: [search], makes: "{output}/sight/v.safetensors"}
- {name: later, run: lmms-steer compare, after: [evaluate], makes: x}
- {name: last, run: lmms-steer compare, after: [later], makes: y}
systems:
- baseline
- steered
- controls
- {name: vcd, args: {contrast: vcd, contrast_beta: 0.2}}
- {name: icd, args: {contrast: icd, contrast_text: "Be vague, and wrong."}}
- {name: vti, args: {preset: vti, vector: "{output}/sight/v.safetensors", layers: 1-3}, after: [sight, extract]}
"""


def planned(path: str, folder: Path, *assignments: str) -> dict[str, Cell]:
    _, loaded = load_recipe(path, (), assignments)
    return {cell.name: cell for cell in Planner(loaded, folder).cells()}


def test_own_systems_are_evaluated_with_their_arguments_after_what_they_read(
    recipe: Callable[..., str], tmp_path: Path
) -> None:
    cells = planned(recipe("about: a test\n", OWN), tmp_path)
    model_args = {
        name.rpartition("/")[2]: cell.command[cell.command.index("--model_args") + 1]
        for name, cell in cells.items()
        if name.startswith("evaluate/")
    }
    chosen = f"{tmp_path}/search/tiny/left/spatial-mean_shift"
    tiny = "pretrained=tiny-paligemma2"
    assert model_args == {
        "baseline": tiny,
        "vcd": f"{tiny},contrast=vcd,contrast_beta=0.2",
        "icd": f'{tiny},contrast=icd,contrast_text="Be vague, and wrong."',
        "vti": f"{tiny},preset=vti,vector={tmp_path}/sight/v.safetensors,layers=1-3",
        "mean_shift": f"{tiny},steering={chosen}/choice.yaml",
        "mean_shift-random-0": f"{tiny},steering={chosen}/control_random_0.yaml",
    }
    assert cells["evaluate/tiny/left/vti"].needs == ("extract/tiny-gemma2/mean_shift", "command/sight")
    assert cells["evaluate/tiny/left/vcd"].needs == ()
    order = list(cells)
    assert all(order.index(need) < order.index(name) for name, cell in cells.items() for need in cell.needs)
    board = cells["compare/tiny/left"]
    assert f"vti={tmp_path}/runs/tiny/left/vti" in board.command and "evaluate/tiny/left/vti" in board.needs


def test_random_vectors_beside_a_choice_have_its_place(recipe: Callable[..., str], tmp_path: Path) -> None:
    own = OWN.replace("- baseline", "- baseline\n- blank")
    cells = planned(recipe("about: a test\n", own), tmp_path, "methods.mean_shift.random_beside=2")
    chosen = f"pretrained=tiny-paligemma2,steering={tmp_path}/search/tiny/left/spatial-mean_shift/choice.yaml"
    beside = {name: cell for name, cell in cells.items() if "beside" in name}
    assert {name: cell.command[cell.command.index("--model_args") + 1] for name, cell in beside.items()} == {
        f"evaluate/tiny/left/mean_shift-beside-{seed}": f"{chosen},control=random:{seed}" for seed in range(2)
    }
    assert {cell.needs for cell in beside.values()} == {cells["evaluate/tiny/left/mean_shift"].needs}
    assert f"mean_shift-beside-1={tmp_path}/runs/tiny/left/mean_shift-beside-1" in cells["compare/tiny/left"].command


def test_random_vectors_beside_a_choice_that_is_not_measured_are_refused(recipe: Callable[..., str]) -> None:
    path = recipe("about: a test\n", OWN.replace("- steered\n", ""))
    with pytest.raises(UserError, match=r"methods.mean_shift.random_beside=2: random vectors are measured beside"):
        load_recipe(path, (), ["methods.mean_shift.random_beside=2"])


def test_a_changed_argument_runs_the_evaluation_again(recipe: Callable[..., str], tmp_path: Path) -> None:
    first = planned(recipe("about: a test\n", OWN), tmp_path)
    second = planned(recipe("about: a test\n", OWN.replace("0.2", "0.3")), tmp_path)
    marks = Marks(tmp_path)
    changed = {name for name, cell in first.items() if marks.fingerprint(cell) != marks.fingerprint(second[name])}
    assert changed == {"evaluate/tiny/left/vcd"}


def test_blank_asks_every_system_but_random_vectors_again(recipe: Callable[..., str], tmp_path: Path) -> None:
    own = OWN.replace("- baseline", "- baseline\n- blank\n- prompted\n- {name: dark, args: {image: blank}}")
    cells = planned(recipe("about: a test\n", own), tmp_path)
    evaluated = {name.rpartition("/")[2]: str(cell) for name, cell in cells.items() if cell.kind == "evaluate"}
    blank = {name: command for name, command in evaluated.items() if "image=blank" in command}
    seeing = ("baseline", "prompted", "vcd", "icd", "vti", "mean_shift")
    assert set(blank) == {"dark", *(f"{name}-blank" for name in seeing)}
    assert "pretrained=tiny-paligemma2,contrast=vcd,contrast_beta=0.2,image=blank " in blank["vcd-blank"]
    assert "runs/tiny/left/vcd-blank" in str(cells["compare/tiny/left"])


def test_a_system_may_be_of_some_studies_only(recipe: Callable[..., str], tmp_path: Path) -> None:
    own = OWN.replace("contrast_beta: 0.2}", "contrast_beta: 0.2}, studies: left")
    second = "studies:\n  other: {concepts: spatial, chosen: left, test: tiny_spatial}\n"
    path = Path(recipe("about: a test\n", own))
    path.write_text(path.read_text().replace("studies:\n  left", f"{second}  left"))
    cells = planned(str(path), tmp_path)
    assert "evaluate/tiny/left/vcd" in cells and "evaluate/tiny/other/icd" in cells
    assert "evaluate/tiny/other/vcd" not in cells


def test_a_study_that_is_removed_is_no_mistake_in_the_systems_that_name_it(
    recipe: Callable[..., str], tmp_path: Path
) -> None:
    two = "studies:\n  right: {concepts: spatial, select: tiny_spatial_select, test: tiny_spatial}\n"
    own = (
        "about: a test\nsystems:\n- baseline\n"
        "- {name: a, args: {contrast: vcd}, studies: [left, right]}\n"
        "- {name: b, args: {contrast: icd}, studies: right}\n"
        "- {name: c, args: {contrast: m3id}, studies: 'right, left'}\n"
    )
    path = recipe("about: a test\n", own)
    Path(path).write_text(Path(path).read_text().replace("studies:\n  left", f"{two}  left"))
    assert "evaluate/tiny/right/b" in planned(path, tmp_path)
    cells = planned(path, tmp_path, "studies.right=null")
    names = {name.rpartition("/")[2] for name in cells if name.startswith("evaluate/")}
    assert names == {"baseline", "a", "c"} and not any("/right/" in name for name in cells)
    Path(path).write_text(Path(path).read_text().replace("[left, right]", "[left, rihgt]"))
    with pytest.raises(UserError, match="a: unknown study 'rihgt'"):
        load_recipe(path)


def test_a_study_may_have_no_prompted_system(recipe: Callable[..., str], tmp_path: Path) -> None:
    path = recipe("test: tiny_spatial", "test: mmbench_en_dev\n    test_prompted: []")
    assert "evaluate/tiny/left/prompted" not in planned(path, tmp_path)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("vcd", "unknown system 'vcd'"),
        ("steerd", "unknown system 'steerd': did you mean 'steered'"),
        ("{name: vcd, args: {contrast: vdc}}", "vcd: unknown contrast 'vdc': did you mean 'vcd'"),
        (
            "{name: vcd, args: {contrast: vcd, contrast_alpha: 11}}",
            "contrast_alpha=11: vcd expects a number",
        ),
        ("{name: vcd, args: {contrast_alpha: 1}}", "vcd: contrast_alpha=1 without contrast=NAME"),
        ("{name: a, args: {preset: vti}}", "a: preset=vti:code needs vector=…, layers=… beside it"),
        ("{name: a, args: {vecter: spatial}}", "a: unknown key 'vecter' in --model_args: did you mean 'vector'"),
        ("{name: a, args: {vector: spatial, tokens: imag}}", "a: unknown tokens"),
        ("{name: a, args: {vector: spatial, layer: 5}}", "a: --layers 5: the model has the layers 0-4"),
        ("{name: a, args: {vector: spatial, layers: 3-9}}", "a: --layers 3-9: the model has the layers 0-4"),
        ("{name: a, args: {steering: s.yaml, control: rnadom}}", "a: unknown control 'rnadom'"),
        (
            "{name: a, args: {steering: s.yaml, control: random:1, alpha: 1}}",
            "a: steering=s.yaml is a whole spec: leave alpha",
        ),
        ("{name: a, args: {pretrained: x}}", "a: pretrained is the model's: leave it out"),
        ("{name: a, args: {dtype: float32}}", "a: dtype is the model's: leave it out"),
        (
            "{name: steered, args: {contrast: vcd}}",
            "steered has settings of its own: give",
        ),
        ("{name: a/b, args: {contrast: vcd}}", "system 'a/b': a name is made of letters"),
        ("{name: a-blank, args: {contrast: vcd}}", "system 'a-blank': a name is made of letters"),
        ("{name: steered, after: [search]}", "after: steered has no args, and only a system of your own has this key"),
        ("{name: a, args: {vector: '{output}/v'}}", "a: {output} in args needs after:"),
        ("{name: a, args: {contrast: vcd}, studies: [lfet]}", "a: unknown study 'lfet': did you mean 'left'"),
        ("{name: a, args: {contrast: vcd}, after: [sihgt]}", "a: after: unknown cell 'sihgt': did you mean 'sight'"),
        (
            "{name: a, args: {contrast: vcd}, after: [last]}",
            "a waits for a command that waits for evaluate",
        ),
        ("{name: vcd, args: {contrast: vcd}}\n- {name: vcd, args: {contrast: icd}}", "two systems are named 'vcd'"),
        ("{nam: vcd, args: {contrast: vcd}}", "unknown key 'nam': did you mean 'name'"),
        ("{args: {contrast: vcd}}", "systems.1.name is missing"),
    ],
)
def test_mistakes_in_systems_are_one_line(recipe: Callable[..., str], system: str, expected: str) -> None:
    commands = OWN[: OWN.index("systems:")]
    path = recipe("about: a test\n", f"{commands}systems:\n- baseline\n- {system}\n")
    with pytest.raises(UserError) as caught:
        load_recipe(path, (), ["models.tiny.args.dtype=float32"])
    line = 8 if system.startswith("{name: vcd, args: {contrast: vcd}}\n") else 7
    assert f"r.yaml, line {line}: " in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("{vector: spatial, layer: 1}", "vector: every system would have it, the baseline too: put it into a system"),
        ("{contrast: vcd}", "contrast: every system would have it"),
        ("{image: blank}", "image: every system would have it"),
        ("{dtyp: bfloat16}", "unknown key 'dtyp' in --model_args: did you mean 'dtype'"),
    ],
)
def test_a_model_s_arguments_steer_nothing(recipe: Callable[..., str], args: str, expected: str) -> None:
    path = recipe("pretrained: tiny-paligemma2\n", f"pretrained: tiny-paligemma2\n    args: {args}\n")
    with pytest.raises(UserError, match=rf"r.yaml, line 6: {expected}"):
        load_recipe(path)


def test_a_system_may_be_a_random_vector_at_the_place_of_a_file(recipe: Callable[..., str], tmp_path: Path) -> None:
    own = "systems:\n- baseline\n- {name: a, args: {steering: s.yaml, control: 'random:1'}}\n"
    cells = planned(recipe("about: a test\n", own), tmp_path)
    assert "steering=s.yaml,control=random:1" in str(cells["evaluate/tiny/left/a"])


def test_wrappers_have_neither_contrasts_nor_blank_images(recipe: Callable[..., str]) -> None:
    for systems, expected in [
        ("[baseline, {name: v, args: {contrast: vcd}}]", "v: contrasts work with steered_paligemma"),
        ("[baseline, {name: v, args: {preset: vcd}}]", "v: contrasts work with steered_paligemma"),
        ("[baseline, blank]", "the system blank needs one of the models steered_paligemma"),
    ]:
        path = recipe("about: a test\n", f"systems: {systems}\n")
        with pytest.raises(UserError) as caught:
            load_recipe(path, (), ["models.tiny.model=steered_qwen2_5_vl"])
        assert expected in str(caught.value)
