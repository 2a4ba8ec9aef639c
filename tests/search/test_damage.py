"""A cell's damage: KL(unsteered || steered), and the answers that it broke and mended."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import entropy

from lmms_steer import steer
from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search import damage_figure
from lmms_steer.search.assessment import cell_result
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question, load_questions
from lmms_steer.search.results import VectorResult
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.steering.damage import divergence_from
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.helpers.searches import result_of, search_into

CELLS = [Cell("v", 1, 0.5, "image"), Cell("v", 3, 1.5, "both"), Cell("v", 3, -0.01, "last")]


@pytest.fixture(scope="module")
def paligemma() -> SteeredPaliGemma:
    return SteeredPaliGemma(pretrained="tiny-paligemma2")


@pytest.fixture(scope="module")
def counting() -> Any:
    return lmms_eval_tasks.load_task("tiny_counting_select", "steered_paligemma")[0]


def plain_divergence(lm: Any, question: Question, cell: Cell) -> float:
    """KL of the next token from two plain forward passes of one question, in float64."""
    inputs = lm.model_inputs([question.text], [question.visuals])
    line = f"vector=tiny-gemma2/counting,layer={cell.layer},alpha={cell.alpha},tokens={cell.tokens}"
    with torch.inference_mode():
        base = lm.model(**inputs).logits[0, -1].double()
        with steer(lm.model, line):
            steered = lm.model(**inputs).logits[0, -1].double()
    return float(entropy(base.softmax(-1), steered.softmax(-1)))


def test_the_divergence_is_scipy_s_relative_entropy() -> None:
    base, steered = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = entropy(base.double().softmax(-1), steered.double().softmax(-1), axis=-1)
    assert divergence_from(base)(steered[None])[0].numpy() == pytest.approx(expected, rel=1e-5)
    assert divergence_from(base)(base[None] + 5).max() < 1e-6, "logits that all move alike change nothing"
    never, other = torch.tensor([0.0, -torch.inf]), torch.tensor([[0.0, 0.0], [-torch.inf, 0.0], [torch.nan, 0.0]])
    assert divergence_from(never)(other).tolist() == [pytest.approx(np.log(2)), torch.inf, torch.inf]
    assert divergence_from(never)(never[None]).tolist() == [0.0], "a token that neither writes counts 0"


@pytest.mark.slow
@pytest.mark.parametrize("why", ["", "a test wants hooks"], ids=["replayed", "hooked"])
@pytest.mark.parametrize("score", ["letters", "text", "texts"])
def test_a_cell_s_damage_is_that_of_plain_forward_passes(
    paligemma: SteeredPaliGemma, counting: Any, monkeypatch: pytest.MonkeyPatch, why: str, score: str
) -> None:
    settings = {**counting.config.generation_kwargs, "max_new_tokens": 3 if score == "texts" else 1}
    monkeypatch.setattr(counting.config, "generation_kwargs", settings)
    questions = list(load_questions(counting, 3))
    vectors = {"v": SteeringVectors.load(store.find("counting", "tiny-gemma2").path)}
    measure = Measurer(paligemma, counting, vectors, score != "letters", ("image", "both", "last"))
    measure.why_not_replayed = why
    measured = measure(questions, CELLS)
    assert measured.why_not_replayed == why, "measured in the way that this test is about"
    expected = [[plain_divergence(paligemma, question, cell) for question in questions] for cell in CELLS]
    assert measured.kl.numpy() == pytest.approx(np.array(expected), rel=1e-3, abs=1e-6)
    assert measured.kl.max() > 1 and measured.kl[2].max() < 0.01, "cells differ in their damage"


@pytest.mark.slow
def test_a_study_has_each_cell_s_damage_and_counts_what_it_broke_and_mended(finished_study: Path) -> None:
    scores, base, kl = [], [], []
    for path in sorted((finished_study / "batches").glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        scores += [row["scores"] for row in rows]
        base += [row["base"] for row in rows]
        kl += [row["kl"] for row in rows]
    cells = pq.read_table(finished_study / "cells.parquet").to_pylist()
    for place, cell in enumerate(cells):
        pairs = [(bool(own[place]), bool(unsteered)) for own, unsteered in zip(scores, base, strict=True)]
        assert (cell["mended"], cell["broken"]) == (pairs.count((True, False)), pairs.count((False, True)))
        assert cell["kl"] == pytest.approx(np.mean([row[place] for row in kl]))
    found = result_of(finished_study)["vectors"]["counting"]
    for one, vector in ((found["best"], "counting"), (found["controls"]["random:0"], "counting,control=random:0")):
        chosen = {"vector": vector, **{key: one[key] for key in ("layer", "alpha", "tokens")}}
        (row,) = [cell for cell in cells if cell.items() >= chosen.items()]
        assert (one["kl"], one["fixed"], one["broken"]) == (row["kl"], row["mended"], row["broken"])
    assert (finished_study / "damage.svg").read_text().startswith("<?xml")
    assert (finished_study / "damage.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_study_of_an_older_version_goes_on_and_says_that_its_damage_is_unknown(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished_study, folder)
    (folder / "damage.png").unlink()
    first, *others = sorted((folder / "batches").glob("*.parquet"))
    pq.write_table(pq.read_table(first).drop_columns("kl"), first)
    others[-1].unlink()
    lines = search_into(folder, blank_image=False, figures=True)
    assert any(line.startswith("  damage: KL unknown (measured by an older version), ") for line in lines)
    cells, before = (pq.read_table(one / "cells.parquet").to_pylist() for one in (folder, finished_study))
    assert all(np.isnan(cell["kl"]) for cell in cells) and not (folder / "damage.png").exists()
    known = [{key: value for key, value in cell.items() if key not in ("kl", "unparsed")} for cell in cells]
    assert known == [{key: cell[key] for key in known[0]} for cell in before]
    assert "kl" not in result_of(folder)["vectors"]["counting"]["best"]
    assert result_of(folder)["blank"] == result_of(finished_study)["blank"], "of the same cell"


def test_cells_that_were_dropped_early_are_hollow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(damage_figure, "save_figure", lambda figure, *_: drawn.append(figure))

    def grid(vector: str, dropped: int) -> ScoreGrid:
        cells = [Cell(vector, layer, 1.0, "image") for layer in range(4)]
        scores = np.ones((4, 20))
        scores[:dropped, 10:] = np.nan
        kl = {cell: np.full(20, 0.1 * (1 + cell.layer)) for cell in cells}
        return ScoreGrid(cells, scores, np.zeros(20), kl=kl)

    for dropped in (0, 1):
        own = grid("v", dropped)
        best = cell_result(own, 3)
        result = VectorResult(best, 0.01, True, 4, 4 - dropped, 20, best, {})
        damage_figure.draw_damage(tmp_path, "v", own, [grid("v,control=random:0", 2 * dropped)], result)
        (axes,) = drawn.pop().axes
        lines = [line for line in axes.lines if line.get_marker() in "oD" and len(line.get_xdata())]
        hollow = sum(len(line.get_xdata()) for line in lines if line.get_markerfacecolor() == "none")
        assert hollow == 3 * dropped
        assert sum(len(line.get_xdata()) for line in lines) == 8
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert ("hollow: dropped early, on fewer questions" in texts) == bool(dropped)
