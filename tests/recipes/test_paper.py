"""The paper's recipe has the settings of its released code, line by line; recipes of before plan what they planned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner

PALIGEMMA_3B = "--model steered_paligemma --model_args pretrained=google/paligemma2-3b-mix-448,dtype=bfloat16"


def planned(name: str, *assignments: str) -> dict[str, Cell]:
    _, recipe = load_recipe(name, (), assignments)
    return {cell.name: cell for cell in Planner(recipe, Path("out")).cells()}


@pytest.fixture(scope="module")
def exact() -> dict[str, Cell]:
    return planned("paper_exact")


def test_searches_have_the_paper_s_layers_alphas_targets_and_scorer(exact: dict[str, Cell]) -> None:
    commands = {name: str(cell) for name, cell in exact.items() if cell.kind == "search"}
    # models x concepts x tasks x methods, where one model has no SAE
    assert len(commands) == (3 * 3 + 2) * 4 * 4
    for name, command in commands.items():
        _, model, task, vector = name.split("/")
        layers = "15-30" if model == "paligemma2-10b" else "5-20"
        alphas = "0.1,0.2,0.4,0.6,0.8,1.0" if vector.endswith("-mean_shift") else "10:60:10"
        assert f" --layers {layers} --alphas {alphas} --tokens image,text_paper,both_paper " in command
        assert " --metric acc_paper --choose per_target " in command and f"--task cvbench_{task}_select " in command
        assert ",dtype=bfloat16 " in command and " --limit " not in command and " --strategy " not in command
    # 16 layers, 6 alphas, 3 targets; a random vector goes the same way
    assert exact["search/idefics3-8b/relation/spatial-sae"].answers == 16 * 6 * 3 * 500 * 2


def test_each_target_is_a_system_and_the_other_benchmarks_take_its_choice(exact: dict[str, Cell]) -> None:
    chosen = "out/search/paligemma2-3b/relation/spatial-mean_shift"
    for target in ("image", "text_paper", "both_paper"):
        for study, label in (
            ("relation", "spatial-mean_shift"),
            ("whatsup_a", "mean_shift"),
            ("whatsup_b", "mean_shift"),
        ):
            for system, file in ((target, f"choice_{target}"), (f"{target}-random-0", f"control_random_0_{target}")):
                cell = exact[f"evaluate/paligemma2-3b/{study}/{label}-{system}"]
                assert f"{PALIGEMMA_3B},steering={chosen}/{file}.yaml " in str(cell)
                assert cell.needs == ("search/paligemma2-3b/relation/spatial-mean_shift",) and not cell.reads
                assert f"{chosen}/{file}.yaml" in exact[cell.needs[0]].makes
    tested = {cell.name.split("/")[2]: str(cell).split(" --tasks ")[1].split()[0] for cell in exact.values()
              if cell.name.endswith("/baseline")}  # fmt: skip
    assert tested == {
        "relation": "cvbench_relation_test", "count": "cvbench_count_test", "depth": "cvbench_depth_test",
        "distance": "cvbench_distance_test", "whatsup_a": "whatsup_a_test", "whatsup_b": "whatsup_b_test",
        "blink_relation": "steer_blink_spatial_relation", "blink_depth": "steer_blink_relative_depth",
        "blink_count": "steer_blink_counting", "clevr": "clevr_count_test", "superclevr": "superclevr_count_test",
        "vsr_random": "vsr_random_test", "vsr_zeroshot": "vsr_zeroshot_test", "vtabfact": "vtabfact_test",
        "chartqa_human": "steer_chartqa_human_test", "chartqa_machine": "steer_chartqa_machine_test",
        "docvqa_counting": "steer_docvqa_counting_test", "docvqa_layout": "steer_docvqa_layout_test",
        "vqav2": "steer_vqav2_test",
    }  # fmt: skip


def test_evaluations_are_of_one_question_at_a_time_and_compared_by_the_paper_s_scorer(exact: dict[str, Cell]) -> None:
    evaluations = [cell for cell in exact.values() if cell.kind == "evaluate"]
    assert all(" --batch_size 1 " in str(cell) and ",dtype=bfloat16" in str(cell) for cell in evaluations)
    assert all(" --metric acc_paper " in str(cell) for cell in exact.values() if cell.kind == "compare")
    assert "cvbench_depth_test_prompted_paper" in str(exact["evaluate/gemma3-4b/depth/prompted"])
    assert not any("gemma3-4b" in name and "-sae" in name for name in exact)
    report = exact["report"]
    assert str(report) == "lmms-steer report out --metric acc_paper" and report.show
    assert set(report.needs) == {cell.name for cell in exact.values() if cell.kind in ("search", "evaluate")}


def test_vectors_are_those_of_the_paper_s_backbones_and_its_selection_of_features(exact: dict[str, Cell]) -> None:
    commands = {name: str(cell) for name, cell in exact.items() if cell.kind == "extract"}
    # a base model for PaliGemma 2, the instructed one for Idefics3; Gemma 3 is its own, and has no SAE
    layers = {"gemma-2-2b": "5-20", "gemma-2-9b": "15-30", "Llama-3.1-8B-Instruct": "5-20"}
    methods = ("mean_shift", "linear_probe", "sae")
    made = {f"extract/{backbone}/{method}" for backbone in layers for method in methods}
    assert commands.keys() == made | {f"extract/gemma-3-4b-it/{method}" for method in methods[:2]}
    for name, command in commands.items():
        assert " --concept spatial,counting,entity,attribute " in command
        _, backbone, method = name.split("/")
        # only the layers that are searched are read with an SAE
        sae = f" --judge llm --paper-exact --layers {layers.get(backbone)}"
        assert command.endswith(sae) if method == "sae" else not {"--judge", "--paper-exact"} & set(command.split())


def test_recipes_of_before_plan_the_same_commands() -> None:
    cells = planned("paper_cvbench")
    assert len(cells) == 489 and len(planned("paper_ood")) == 189
    vector = "out/vectors/gemma-2-2b/spatial/mean_shift.safetensors"
    folder = "out/search/paligemma2-3b/relation/spatial-mean_shift"
    assert str(cells["search/paligemma2-3b/relation/spatial-mean_shift"]) == (
        f"lmms-steer search {PALIGEMMA_3B} --vector {vector} --task cvbench_relation_select --layers 5-20"
        f" --alphas 0.1:1.0:0.1 --tokens image,text,both --controls 1 --batch_size 16 --output {folder}"
    )
    assert cells["search/paligemma2-3b/relation/spatial-mean_shift"].makes == tuple(
        f"{folder}/{file}" for file in ("choice.yaml", "choice_1se.yaml", "result.json", "control_random_0.yaml")
    )
    compare = cells["compare/paligemma2-3b/relation"]
    assert "--metric" not in compare.command and compare.show and "report" not in cells


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # 2 vectors of 90 cells: all on 100 questions, the better quarter on 67 more, a quarter of those on the rest
        ("race", 2 * (90 * 100 + 22 * 67 + 6 * 333)),
        # a third of the 15 layers and targets is left, with 6 alphas
        ("race+screen", 2 * (30 * 100 + 8 * 67 + 4 * 333)),
        ("grid", 2 * 90 * 500),
        ("tpe", 2 * 64 * 500),
    ],
)
def test_the_plan_counts_the_answers_of_the_strategy_that_runs(
    recipe: Callable[..., str], strategy: str, expected: int
) -> None:
    path = Path(recipe("{alphas: 10:50:10}", "{alphas: 10:60:10}"))
    path.write_text(f"search: {{strategy: {strategy}}}\n{path.read_text()}    select_questions: 500\n")
    _, loaded = load_recipe(str(path), (), ["models.tiny.layers=0-4"])
    (search,) = (cell for cell in Planner(loaded, Path("out")).cells() if cell.kind == "search")
    assert search.answers == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("about: a test", "search: {choose: each}", "line 1: unknown value of choose 'each': known: "),
        ("about: a test", "search: {choose: per_target, strategy: race}", "line 1: the strategy race may drop every"),
        ("about: a test", "metric: ac", "line 1: unknown metric of tiny_spatial_select 'ac': did you mean 'acc'"),
        ("about: a test", "metric: unparsed", "line 1: tiny_spatial_select: a smaller unparsed is better"),
        ("about: a test", "search: {score: letters}\nmetric: acc", "line 2: metric: acc: with score: letters"),
        ("about: a test", "report: papr", "line 1: unknown report 'papr': did you mean 'paper'"),
        ("about: a test", "report: paper\nsystems: steered", "line 1: a report compares with the baseline"),
        ("    model:", "    methods: pca\n    model:", "line 4: unknown method of this recipe 'pca'"),
        ("select: tiny_spatial_select", "chosen: right", "line 11: unknown study that chooses 'right': known: none"),
        (
            "test: tiny_spatial\n",
            "test: tiny_spatial\n  two: {concepts: counting, chosen: left, test: tiny_counting}\n",
            "line 13: the study left chooses nothing for counting",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met_are_one_line(
    recipe: Callable[..., str], old: str, new: str, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe(old, new))
    assert expected in str(caught.value)


def test_a_choice_of_another_recipe_that_lacks_a_target_is_named_before_anything_runs() -> None:
    _, recipe = load_recipe("paper_ood", (), ["search.choose=per_target", "search.tokens=image"])
    cells = Planner(recipe, Path("out")).cells()
    reads = [path for cell in cells if cell.name == "evaluate/idefics3-8b/clevr/sae-image" for path in cell.reads]
    assert reads == ["runs/paper_cvbench/search/idefics3-8b/count/counting-sae/choice_image.yaml"]


def test_our_protocol_races_for_one_choice() -> None:
    cells = planned("paper")
    search = str(cells["search/paligemma2-10b/depth/spatial-sae"])
    assert "--layers 15-30" in search and "--strategy race" in search and "--choose" not in search
    assert "--tokens image,text,both " in search and " --controls 3 " in search
    assert "evaluate/gemma3-4b/clevr/mean_shift" in cells and "evaluate/gemma3-4b/clevr/calibrated" not in cells


@pytest.mark.parametrize("name", ["paper", "paper_exact"])
def test_the_rehearsal_on_stand_ins_has_every_kind_of_cell_and_is_short(name: str) -> None:
    _, whole = load_recipe(name)
    _, rehearsal = load_recipe(name, ["stand_in"])
    cells = {cell.name: str(cell) for cell in Planner(rehearsal, Path("out")).cells()}
    assert len(cells) < 700 and not any("google/" in command for command in cells.values())
    all_cells = {cell.name for cell in Planner(whole, Path("out")).cells()}
    left_out = ("/paligemma2-10b/", "/idefics3-8b/", "/gemma3-4b/", "-random-1", "-random-2")
    of_models = {cell for cell in all_cells if not cell.startswith("extract/") and not any(n in cell for n in left_out)}
    assert of_models == {cell for cell in cells if not cell.startswith("extract/")}
    searches = [command for cell, command in cells.items() if cell.startswith("search/")]
    tokens = ",".join(("image", "text", "both") if name == "paper" else ("image", "text_paper", "both_paper"))
    # 4 questions cannot be raced over
    assert all(f" --tokens {tokens} --controls 1 " in one and "--strategy" not in one for one in searches)
