"""Strategies of other packages: registered by name, given as a function, combined with a filter, resumed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.harness import steered
from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.search.checked_rungs import check_kept, checked
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import Cell
from lmms_steer.search.required_questions import check_questions, context_of
from lmms_steer.search.strategies import (
    FilterContext,
    Rung,
    SearchStrategy,
    Strategy,
    StrategyAttributes,
    StrategyContext,
    register_strategy,
    strategies,
)
from tests.helpers.searches import kill_after, result_of, search_into, start_search

SMALL = {"limit": 16, "layers": "1", "controls": 1}


def halves(search: StrategyContext) -> Strategy:
    """Every cell on half of the questions, then the better half of each vector's on the others."""
    half = search.n // 2
    scores, _ = yield Rung(search.cells, range(half))
    rows = dict(zip(search.cells, scores.mean(1), strict=True))
    vectors = dict.fromkeys(cell.vector for cell in search.cells)
    kept: list[Cell] = []
    for vector in vectors:
        own = sorted((cell for cell in rows if cell.vector == vector), key=lambda cell: (-rows[cell], cell))
        kept += own[: max(1, len(own) // 2)]
    yield Rung(kept, range(half, search.n))


def only_image_tokens(context: FilterContext) -> list[Cell]:
    return [cell for cell in context.cells if cell.tokens == "image"]


def register(_: object = None) -> None:
    """Register two strategies as another package does."""
    register_strategy("halves", description="the better half of the cells on all questions")(halves)
    images = register_strategy("images", description="image tokens only", filter=only_image_tokens)
    images(strategies.get("grid").build)


@pytest.fixture
def registered() -> Iterator[None]:
    register()
    yield
    for name in ("halves", "images", "careful"):
        strategies._entries.pop(name, None)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_registered_strategy_is_a_strategy_of_the_command(tmp_path: Path) -> None:
    args = "--model steered_paligemma --model_args pretrained=tiny-paligemma2 --vector counting --strategy halves"
    grid = "--task tiny_counting_select --layers 1 --alphas 0.5,1.5 --controls 1 --limit 16 --score letters --output"
    done = CliRunner().invoke(app, ["search", *args.split(), *grid.split(), str(tmp_path)])
    assert done.exit_code == 0, done.output
    best = result_of(tmp_path)["vectors"]["counting"]["best"]
    assert (best["cells_tried"], best["finalists"], best["counted_on"]) == (6, 3, 8)
    cells = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    assert sorted(cell["n"] for cell in cells) == [8] * 6 + [16] * 6
    assert '"strategy": "halves"' in (tmp_path / "plan.json").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_registered_strategy_is_resumed_after_a_kill(tmp_path: Path) -> None:
    settings = {"strategy": "halves", "batch_size": 2, **SMALL}
    search_into(tmp_path / "whole", **settings)
    process = start_search(tmp_path / "killed", first=f"{__name__}.register", **settings)
    kill_after(2, process, tmp_path / "killed")
    assert not (tmp_path / "killed" / "result.json").exists()
    search_into(tmp_path / "killed", **settings)
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("registered", "few_questions")
def test_a_filter_goes_before_any_strategy(tmp_path: Path) -> None:
    lines = search_into(tmp_path / "screened", strategy="halves+screen", **{**SMALL, "layers": "0-3"})
    # a third of 4 layers x 3 targets, for the vector and its control
    assert "the filter of halves+screen keeps 16 of 48 cells" in lines
    assert len(pq.read_table(tmp_path / "screened" / "cells.parquet")) == 16
    for name, strategy in (("own", "tpe+images"), ("alone", "images")):
        search_into(tmp_path / name, strategy=strategy, trials=3, **SMALL)
        cells = pq.read_table(tmp_path / name / "cells.parquet").to_pylist()
        assert {cell["tokens"] for cell in cells} == {"image"}


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_filter_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the filter of images keeps no cell"):
        search_into(tmp_path, strategy="images", **{**SMALL, "tokens": "text"})


@pytest.mark.slow
def test_a_function_is_taken_where_a_name_is(tmp_path: Path) -> None:
    search_into(tmp_path, strategy=halves, **SMALL)
    assert result_of(tmp_path)["vectors"]["counting"]["best"]["finalists"] == 3
    assert f'"strategy": "{__name__}.halves"' in (tmp_path / "plan.json").read_text()
    assert "halves" not in strategies


@pytest.mark.slow
def test_a_strategy_that_finishes_no_cell_is_refused(tmp_path: Path) -> None:
    def unfinished(search: StrategyContext) -> Strategy:
        yield Rung(search.cells, range(search.n // 2))

    def empty(search: StrategyContext) -> Strategy:
        yield from ()

    for strategy in (unfinished, empty):
        with pytest.raises(UserError, match=rf"{strategy.__name__} measured no cell of counting on all questions"):
            search_into(tmp_path / strategy.__name__, strategy=strategy, **SMALL)


OF_TWO = StrategyContext([Cell("v", 1, 0.5, "image"), Cell("v", 2, 0.5, "image")], 8, vectors=("v",), layers=(1, 2),
                         alphas=(0.5,), tokens=("image",))  # fmt: skip
FIRST = OF_TWO.cells[0]


@pytest.mark.parametrize(
    ("rung", "message"),
    [
        ((OF_TWO.cells, range(8)), r"yielded a tuple: expected Rung\(cells, questions\)"),
        (None, "yielded a NoneType"),
        (Rung(OF_TWO.cells, [0, 1, 2]), "expected a range without gaps"),  # type: ignore[arg-type]
        (Rung(OF_TWO.cells, range(0, 8, 2)), "expected a range without gaps"),
        (Rung(OF_TWO.cells, range(9)), r"range\(0, 9\): the search has the questions 0-7"),
        (Rung(OF_TWO.cells, range(-2, 8)), "the search has the questions 0-7"),
        (Rung(OF_TWO.cells, range(0)), "the search has the questions 0-7"),
        (Rung([], range(8)), "expected a list of at least one"),
        (Rung([("v", 1, 0.5, "image")], range(8)), "which is no cell"),  # type: ignore[list-item]
        (Rung([FIRST, replace(FIRST, vector="w")], range(8)), "vector is none of v"),
        (Rung([replace(FIRST, layer=-1)], range(8)), "layer is none of 1, 2"),
        (Rung([replace(FIRST, tokens="imgae")], range(8)), "tokens is none of image"),
        (Rung([replace(FIRST, alpha=float("nan"))], range(8)), "expected a finite number for alpha"),
    ],
)
def test_a_rung_that_cannot_be_measured_is_refused_in_one_line(rung: Any, message: str) -> None:
    def wrong(_: StrategyContext) -> Strategy:
        yield rung

    with pytest.raises(UserError, match=f"^the strategy wrong .*{message}"):
        next(checked(wrong(OF_TWO), "wrong", OF_TWO))


def test_a_strategy_that_yields_nothing_of_its_own_is_refused_in_one_line() -> None:
    for returned in (None, [Rung(OF_TWO.cells, range(8))]):
        with pytest.raises(UserError, match=r"^the strategy wrong returned a .*: write a function that yields rungs$"):
            next(checked(returned, "wrong", OF_TWO))


def test_a_strategy_may_propose_alphas_of_its_own_unless_they_were_resolved() -> None:
    def between(_: StrategyContext) -> Strategy:
        numbers: Any = {"alpha": np.float32(0.25), "layer": np.int64(2)}
        yield Rung([replace(FIRST, **numbers)], range(8))

    rung = next(checked(between(OF_TWO), "between", OF_TWO))
    assert json.dumps([[cell.layer, cell.alpha] for cell in rung.cells]) == "[[2, 0.25]]"
    with pytest.raises(UserError, match="with KL budgets only the cells of the grid have an alpha"):
        next(checked(between(OF_TWO), "between", OF_TWO, fixed_alphas=True))


def test_a_filter_that_keeps_other_cells_than_it_was_given_is_refused() -> None:
    assert check_kept(OF_TWO.cells[:1], "f", OF_TWO.cells) == OF_TWO.cells[:1]
    with pytest.raises(UserError, match="which is not a cell that it was given"):
        check_kept([replace(FIRST, layer=3)], "f", OF_TWO.cells)
    with pytest.raises(UserError, match="the filter of f returned a NoneType: expected a list of cells"):
        check_kept(None, "f", OF_TWO.cells)


@pytest.mark.slow
def test_a_search_checks_what_its_strategy_asks_for(tmp_path: Path) -> None:
    def gaps(search: StrategyContext) -> Strategy:
        yield Rung(search.cells, range(0, search.n, 2))

    with pytest.raises(UserError, match="gaps asks for the questions .* expected a range without gaps"):
        search_into(tmp_path, strategy=gaps, **SMALL)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rase", "unknown strategy 'rase': did you mean 'race'"),
        ("rase+screen", "unknown strategy 'rase': did you mean 'race'"),
        ("race+scren", "unknown strategy 'scren': did you mean 'screen'"),
        ("race+grid", r"'race\+grid': 'grid' is no filter: expected one of budget, screen after the '\+'"),
        ("screen+race", r"'screen\+race': 'screen' is a filter, which is written last and runs first"),
    ],
)
def test_an_unknown_strategy_is_refused_with_the_nearest(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchOptions("steered_hf", "pretrained=x", ("v",), "task", tmp_path, strategy=name)
    with pytest.raises(UserError, match=message):
        parse_strategy(name)


def test_the_built_in_strategies_are_listed_with_a_description() -> None:
    assert set(strategies.names()[:5]) == {"budget", "grid", "race", "screen", "tpe"}
    assert all(entry.description and "\n" not in entry.description for entry in strategies.entries().values())
    chosen = parse_strategy("race+screen")
    assert (chosen.strategy.name, chosen.filtered_by and chosen.filtered_by.name, chosen.needs_answer_set) == (
        "race",
        "screen",
        True,
    )
    assert parse_strategy("screen").questions_spent(240) == parse_strategy("race+screen").questions_spent(240) == 100
    assert not parse_strategy("race").needs_answer_set and parse_strategy("tpe").strategy.adaptive


@pytest.mark.parametrize(("strategy", "needed"), [("race", 270), ("screen", 276), ("race+screen", 252)])
def test_a_strategy_on_too_few_questions_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, needed: int
) -> None:
    monkeypatch.setattr(lmms_eval_tasks, "load_task", lambda *_: pytest.fail("the task is loaded"))
    message = (
        f"the strategy {strategy} needs at least {needed} questions for 24 cells, and a search with --limit has 42: on"
        " fewer it finds a gain of +8.0 points with less than 80% probability; use the strategy grid (--strategy grid)"
    )
    grid = {"layers": "0-1", "alphas": "1,2,3,4", "tokens": "image,text,both"}
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        search_into(tmp_path / "study", strategy=strategy, limit=42, **grid)
    assert not (tmp_path / "study").exists()
    check_questions(parse_strategy(strategy), context_of((2, 4, 3), needed), "it")


@pytest.mark.usefixtures("registered")
def test_a_registered_strategy_is_refused_only_below_the_minimum_that_it_declares() -> None:
    grid = (5, 6, 3)
    check_questions(parse_strategy("halves"), context_of(grid, 2), "it")
    register_strategy("careful", description="every cell", min_questions=50)(lambda search: halves(search))
    check_questions(parse_strategy("careful"), context_of(grid, 50), "it")
    with pytest.raises(UserError, match="careful needs at least 50 questions, and it has 49"):
        check_questions(parse_strategy("careful"), context_of(grid, 49), "it")
    with pytest.raises(UserError, match=r"careful\+screen needs at least 325 questions for 90 cells, and it has 324"):
        check_questions(parse_strategy("careful+screen"), context_of(grid, 324), "it")


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_task_of_too_few_questions_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_strategy("careful", description="every cell", min_questions=501)(lambda search: halves(search))
    monkeypatch.setattr(steered, "create_model", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match="careful needs .* 501 questions, and tiny_counting_select has 500"):
        search_into(tmp_path, strategy="careful", limit=None)


def test_the_function_of_a_registered_strategy_stands_for_its_name() -> None:
    assert parse_strategy(strategies.get("tpe").build) == parse_strategy("tpe")
    assert parse_strategy(strategies.get("screen").build).filtered_by is strategies.get("screen")


def test_every_attribute_that_has_a_default_can_be_registered() -> None:
    optional = [field.name for field in fields(SearchStrategy) if field.default is not MISSING]
    assert list(StrategyAttributes.__annotations__) == optional


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'race' is already registered"):
        register_strategy("race", description="another race")(halves)
    assert np.array_equal(strategies.names(), tuple(dict.fromkeys(strategies.names())))


def test_an_installed_package_adds_a_strategy_by_an_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "first_cells-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: first-cells\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[lmms_steer.strategies]\nfirst = first_cells:first\n")
    (tmp_path / "first_cells.py").write_text(
        "from lmms_steer.search.strategies import Rung, register_strategy\n"
        "@register_strategy('first', description='the first cell only')\n"
        "def first(search):\n"
        "    yield Rung(search.cells[:1], range(search.n))\n"
    )
    code = (
        "from lmms_steer.search.chosen_strategy import parse_strategy;"
        " from lmms_steer.search.strategies import strategies;"
        " print(strategies.names()[-1], parse_strategy('first+screen').strategy.description)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "first the first cell only\n"


def test_looking_up_a_strategy_imports_no_torch() -> None:
    code = (
        "import sys; from lmms_steer.search.chosen_strategy import parse_strategy;"
        " from lmms_steer.search.strategies import strategies; strategies.entries();"
        " parse_strategy('race+screen'); sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
