"""The strategy `budget`: which layers it keeps, what it writes, how it resumes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer.recipes.answers import budget_answers, search_answers
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.layer_scores import layer_scores, register_layer_score
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import Cell
from lmms_steer.search.required_questions import questions_needed
from lmms_steer.search.strategies import Rung, StrategyContext
from lmms_steer.search.strategies.budget import best_layers, kept_cells
from tests.helpers.searches import result_of, search_into


def test_the_best_layers_are_kept_and_equal_ones_are_spread() -> None:
    assert best_layers({0: 0.1, 3: 0.9, 4: 0.5, 7: 0.7}) == [3, 7], "at most half of them"
    assert best_layers(dict.fromkeys(range(21), 1.0)) == [0, 10, 20]
    assert best_layers({**dict.fromkeys(range(8), 0.0), 5: 2.0}) == [5, 0, 7]
    assert best_layers({2: 0.0}) == [2]
    cells = [Cell(v, layer, kl, "image") for v in ("a", "b") for layer in range(4) for kl in (0.1, 0.3)]
    scores = [float(cell.layer if cell.vector == "a" else -cell.layer) for cell in cells]
    assert {(cell.vector, cell.layer) for cell in kept_cells(cells, scores)} == {("a", 2), ("a", 3), ("b", 0), ("b", 1)}


def test_a_score_is_chosen_after_a_colon_and_counts_the_questions_whose_answers_it_reads() -> None:
    plain, by_slope = parse_strategy("budget"), parse_strategy("grid+budget:slope")
    assert plain.needs_budgets and plain.default_alphas == by_slope.default_alphas == "kl:0.03,kl:0.1,kl:0.3,kl:1"
    assert (plain.questions_spent(500), by_slope.questions_spent(500), by_slope.questions_spent(40)) == (0, 64, 40)
    assert not plain.needs_answer_set and by_slope.needs_answer_set and by_slope.filters_places
    assert parse_strategy("grid").default_alphas == "0.1:1.0:0.1" and not parse_strategy("race+screen").filters_places
    for name, message in (
        ("budget:slop", "unknown layer score 'slop': did you mean 'slope'"),
        ("race:slope", "the strategy race takes no argument, but is given 'slope'"),
    ):
        with pytest.raises(UserError, match=message):
            parse_strategy(name)


def test_numbers_are_refused_where_budgets_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--alphas 0.5,1: the strategy grid.budget takes KL budgets; its default is kl"):
        SearchOptions("m", "pretrained=x", ("v",), "t", tmp_path, alphas="0.5,1", strategy="grid+budget")
    assert SearchOptions("m", "pretrained=x", ("v",), "t", tmp_path, strategy="budget").alphas.startswith("kl:")
    assert SearchOptions("m", "pretrained=x", ("v",), "t", tmp_path).alphas == "0.1:1.0:0.1"


def test_many_questions_are_raced_and_few_are_all_asked() -> None:
    cells = [Cell("v", layer, alpha, "image") for layer in range(3) for alpha in (0.1, 0.2, 0.3)]
    chosen = parse_strategy("budget").strategy
    needed = int(questions_needed(parse_strategy("race"), StrategyContext(cells, 0, vectors=("v",))))
    assert 150 < needed < 270, "a race of nine cells needs fewer than one of 24"
    for n, first, how in ((needed - 1, range(needed - 1), "all on"), (needed, range(100), "racing over")):
        search = StrategyContext(cells, n, vectors=("v",))
        assert next(chosen.build(search)) == Rung(cells, first)
        assert chosen.summary(search).endswith(f"{how} {n} questions (a race of them needs {needed})")


RECIPE = """\
models:
  tiny: {model: steered_paligemma, pretrained: tiny-paligemma2, layers: 0-3}
methods:
  mean_shift: {controls: 1ALPHAS}
search: {strategy: "budget:agreement", tokens: image}
studies:
  counting: {concepts: counting, select: tiny_counting_select, test: tiny_counting, select_questions: 100}
"""


def test_a_recipe_takes_the_strategy_with_its_budgets(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.replace("ALPHAS", ""))
    _, recipe = load_recipe(str(path))
    model, study, method = recipe.models["tiny"], recipe.studies["counting"], recipe.methods["mean_shift"]
    assert search_answers(recipe, model, study, method) == 2 * 2 * 4 * 100, "2 vectors, 2 layers, 4 budgets"
    path.write_text(RECIPE.replace("ALPHAS", ", alphas: [kl:0.1, kl:0.3]"))
    _, recipe = load_recipe(str(path))
    asked = recipe, recipe.models["tiny"], study, recipe.methods["mean_shift"]
    assert search_answers(*asked) == 2 * 2 * 2 * 100 and method.alphas is None
    # a KL of alpha² reaches 0.1 and 0.3 by 4 alphas: 1/64, 8 times that, and the two roots
    assert budget_answers(*asked) == 2 * 2 * 4 * 64
    path.write_text(RECIPE.replace("ALPHAS", ", alphas: '0.5,1'"))
    with pytest.raises(UserError, match=r"line 4: --alphas 0.5,1: the strategy budget:agreement takes KL budgets"):
        load_recipe(str(path))


@pytest.mark.slow
def test_a_search_measures_only_the_layers_that_rank_first_and_resumes(tmp_path: Path) -> None:
    study, ranked = tmp_path / "study", []

    @register_layer_score("planted", description="the last but one first", needs="prompts", depends_on=())
    def planted(context):  # type: ignore[no-untyped-def]
        ranked.append(len(context.questions))
        return {layer: {2: 1.0, 0: 0.5}.get(layer, 0.0) for layer in context.layers}

    settings: dict[str, Any] = {
        "strategy": "budget:planted",
        "alphas": "kl:0.05,kl:40",
        "layers": "0-3",
        "tokens": "image",
    }
    settings |= {"limit": 12, "batch_size": 12}
    try:
        lines = search_into(study, **settings)
        assert ranked == [12] and "counting on image tokens: layer 0, 2" in lines
        assert "the filter of budget:planted keeps 8 of 16 cells" in lines
        (left_out,) = [line for line in lines if line.startswith("left out: kl:40 of counting on")]
        assert "at layer 0 it cannot be reached" in left_out and "at layer 2 it cannot be reached" in left_out
        cells = pq.read_table(study / "cells.parquet").to_pylist()
        assert {(cell["vector"], cell["layer"]) for cell in cells} == {
            (vector, layer) for vector in ("counting", "counting,control=random:0") for layer in (0, 2)
        }
        budgets = (study / "budgets.json").read_bytes()
        resolved = json.loads(budgets)["resolved"]
        assert {one["cell"]["layer"] for one in resolved} == {0, 2}, "no alpha is looked for elsewhere"
        result = result_of(study)
        # as if it had been killed while the budgets were resolved
        rounds = sorted(study.glob("budgets/**/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        kept = {path: path.stat().st_mtime_ns for path in rounds[: len(rounds) // 2]}
        for path in (*rounds[len(kept) :], *study.glob("batches/*.parquet"), study / "result.json"):
            path.unlink()
        (study / "layers.json").write_text("[0.5")
        search_into(study, **settings)
        assert result_of(study) == result and len(ranked) == 2, "the damaged scores are computed again"
        assert kept and {path: path.stat().st_mtime_ns for path in kept} == kept, "no round is measured twice"
        assert (study / "budgets.json").read_bytes() == budgets
        search_into(study, **settings)
        assert result_of(study) == result and len(ranked) == 2
    finally:
        layer_scores._entries.pop("planted")
