"""A cell for each token target: the paper's rule for the choice, its files, and what cannot choose so."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lmms_eval.filters import build_filter_ensemble
from torch import nn

from lmms_steer import SteeringSpec, UserError
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.search.assessment import assess_search
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.options import SearchOptions, check_metric
from lmms_steer.search.plan import Cell, Plan
from lmms_steer.search.power import measured_power_line
from lmms_steer.search.report import report_lines
from lmms_steer.search.results import SearchResult, VectorResult
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.search.study_files import write_choices
from tests.search.test_results import minimal

TARGETS = ("image", "text_paper", "both_paper")
RANDOM = "v,control=random:0"
# vector, target ▸ alpha ▸ correct answers of 20; the baseline has 10
CORRECT = {
    ("v", "image"): {0.1: 12, 0.2: 13, 0.4: 13},
    ("v", "text_paper"): {0.1: 15, 0.2: 11, 0.4: 15},
    ("v", "both_paper"): {0.1: 8, 0.2: 7, 0.4: 9},
    (RANDOM, "image"): {0.1: 10, 0.2: 9, 0.4: 11},
    (RANDOM, "text_paper"): {0.1: 12, 0.2: 10, 0.4: 10},
    (RANDOM, "both_paper"): {0.1: 10, 0.2: 12, 0.4: 12},
}
# by the released code's rule: the best train gain, and of equal ones the smallest alpha
CHOSEN = {("v", "image"): 0.2, ("v", "text_paper"): 0.1, ("v", "both_paper"): 0.4}
CHOSEN_FOR_RANDOM = {"image": 0.4, "text_paper": 0.1, "both_paper": 0.2}


def correct(n: int) -> list[float]:
    return [1.0] * n + [0.0] * (20 - n)


def plan() -> Plan:
    return Plan(
        model="m", model_args="pretrained=x", vectors={"v": "a", RANDOM: "b"}, task="t", n=20, questions="q",
        layers=(1,), alphas=(0.1, 0.2, 0.4), tokens=TARGETS, batch_size=1, strategy="grid", score="generate", trials=1,
        seed=0,
    )  # fmt: skip


def grid() -> ScoreGrid:
    # the larger alphas first, so that a tie is not broken by the order
    cells = [Cell(v, 1, alpha, t) for (v, t), counts in CORRECT.items() for alpha in sorted(counts, reverse=True)]
    scores = [correct(CORRECT[cell.vector, cell.tokens][cell.alpha]) for cell in cells]
    return ScoreGrid(cells, np.array(scores), np.array(correct(10)))


def test_each_target_has_the_best_of_its_own_cells_and_so_have_the_controls(tmp_path: Path) -> None:
    result = assess_search(plan(), grid(), None, per_target=True)
    found = result.vectors["v"]
    assert (found.best.tokens, found.best.alpha) == ("text_paper", 0.1), "the best of all targets is chosen as before"
    assert {("v", t): one.best.alpha for t, one in found.targets.items()} == CHOSEN
    assert {t: one.controls["random:0"].alpha for t, one in found.targets.items()} == CHOSEN_FOR_RANDOM
    assert [one.cells_tried for one in found.targets.values()] == [3, 3, 3]
    write_choices(tmp_path, plan(), "ids", "v", grid(), found)
    for tokens in TARGETS:
        (chosen,) = SteeringSpec.from_yaml(tmp_path / f"choice_{tokens}.yaml").interventions
        assert (chosen.tokens, chosen.alpha, chosen.control) == (tokens, CHOSEN["v", tokens], None)
        (random,) = SteeringSpec.from_yaml(tmp_path / f"control_random_0_{tokens}.yaml").interventions
        assert (random.tokens, random.alpha, random.control) == (tokens, CHOSEN_FOR_RANDOM[tokens], "random:0")
        assert (tmp_path / f"choice_1se_{tokens}.yaml").is_file()
    assert SearchResult.from_json(result.to_json()) == result
    lines = list(report_lines(plan(), result, tmp_path))
    assert any(line.startswith("  tokens=image: layer=1,alpha=0.2: +15.0 points [") for line in lines)
    assert not any("WARNING" in line for line in lines), "a random vector is compared with a winner only"
    vector = replace(found, winner=True, controls={"random:0": replace(found.best, gain=0.6 * found.best.gain)})
    strong = list(report_lines(plan(), replace(result, vectors={"v": vector}), tmp_path))
    assert any(line.startswith("  WARNING: a random vector gains 60% of that") for line in strong)
    assert lines[-1].endswith("(evaluate each choice_TARGET.yaml there)"), "not --confirm, which is refused"


def test_unparsed_answers_are_warned_of_with_the_way_to_read_them(tmp_path: Path) -> None:
    result = assess_search(plan(), grid(), None, per_target=False)
    vector = result.vectors["v"]
    shown = replace(result, vectors={"v": replace(vector, best=replace(vector.best, unparsed=0.3))})
    lines = list(report_lines(plan(), shown, tmp_path))
    assert (
        "WARNING: t: 30.0% (v) of the answers name no choice or number, or several, and count as wrong: read some of"
        " them before you trust scores and gains (a search keeps no texts: evaluate choice.yaml with --log_samples)"
    ) in lines


def test_a_search_in_which_every_cell_harms_says_so_and_gives_no_p(tmp_path: Path) -> None:
    result = assess_search(plan(), grid(), None)
    found = result.vectors["v"]
    harmful = replace(found.best, gain=-0.1)
    for cells, verdict in ((found.cells_tried, f"all {found.cells_tried} cells lower the score"), (1, "it lowers the")):
        vector = replace(found, best=harmful, winner=False, cells_tried=cells, one_standard_error=harmful)
        lines = list(report_lines(plan(), replace(result, vectors={"v": vector}), tmp_path))
        assert any(line.startswith(f"v: no winner: {verdict}") for line in lines)
        assert not any("p = " in line or "p is corrected" in line for line in lines)
        # the best cell is not written twice
        assert "  it is also the cell with the smallest |alpha| within one standard error of the best" in lines


def test_intervals_are_said_to_ignore_the_choice(tmp_path: Path) -> None:
    result = assess_search(plan(), grid(), None)
    note = "  each 95% interval is of its cell alone; p is corrected for the choice"
    assert note in report_lines(plan(), result, tmp_path)
    single = replace(result.vectors["v"], cells_tried=1, finalists=1)
    for other in (replace(result, vectors={"v": single}), replace(result, n_images=1)):
        assert note not in report_lines(plan(), other, tmp_path), "nothing was chosen, or there is no interval"
    assert "all questions show one image: there is no interval and no test of a gain" in list(
        report_lines(plan(), replace(result, n_images=1), tmp_path)
    )


def test_a_p_value_on_a_part_of_the_questions_has_the_gain_there() -> None:
    whole, n = grid(), plan().n
    assert assess_search(plan(), whole, None).vectors["v"].counted_gain is None
    result = assess_search(plan(), replace(whole, spent=n - 5), None)
    found = result.vectors["v"]
    # 15 right answers of 20, the first ones
    assert found.best.gain == 0.25 and (found.counted_on, found.counted_gain) == (5, 0.0)
    assert SearchResult.from_json(result.to_json()) == result
    assert assess_search(plan(), replace(whole, spent=n), None).vectors["v"].counted_gain is None


def test_of_graded_scores_no_share_that_changes_between_right_and_wrong_is_claimed() -> None:
    whole = grid()
    changed = [
        abs(count - 10) / 20 for (vector, _), counts in CORRECT.items() if vector == "v" for count in counts.values()
    ]
    assert assess_search(plan(), whole, None).vectors["v"].discordant == pytest.approx(np.median(changed))
    graded = ScoreGrid(whole.cells, 0.3 + whole.scores / 2, 0.3 + whole.base / 2)
    found = assess_search(plan(), graded, None).vectors["v"]
    assert found.discordant is None and measured_power_line(found, None) == ""


def test_a_search_for_one_choice_writes_what_it_wrote_before(tmp_path: Path) -> None:
    result = assess_search(plan(), grid(), None)
    assert not result.vectors["v"].targets and "targets" not in result.to_json()["vectors"]["v"]
    write_choices(tmp_path, plan(), "ids", "v", grid(), result.vectors["v"])
    assert {path.name for path in tmp_path.iterdir()} == {"choice.yaml", "choice_1se.yaml", "control_random_0.yaml"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"choose": "per_targt"}, "unknown --choose 'per_targt': did you mean 'per_target'"),
        ({"choose": "per_target", "strategy": "race"}, "the strategy race may drop every cell of a token target"),
        ({"choose": "per_target", "strategy": "grid+screen"}, "the strategy grid.screen may drop every cell"),
        ({"choose": "per_target", "strategy": "tpe"}, "the strategy tpe may drop every cell of a token target"),
        ({"choose": "per_target", "confirm": "x"}, "--confirm takes one cell, and --choose per_target chooses one for"),
        ({"choose": "per_target", "keep": True}, "--keep takes one cell"),
        ({"metric": "acc_paper", "score": "letters"}, "with --score letters the likeliest letter counts"),
    ],
)
def test_options_that_exclude_each_other_are_refused(tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        SearchOptions("steered_hf", "pretrained=x", ("v",), "task", tmp_path, **more)


class Words(nn.Module):
    """A model that generates one word, and its tokenizer."""

    generation_config = SimpleNamespace(eos_token_id=0)

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.full((len(input_ids), 1), 5)], 1)

    def decode(self, ids: list[int], **_: Any) -> str:
        return f"word {ids[0]}"


@pytest.mark.parametrize(("metric", "expected"), [(None, 0.25), ("acc_paper", 1.0)])
def test_the_named_metric_of_generated_text_counts_and_else_the_first(metric: str | None, expected: float) -> None:
    config = SimpleNamespace(
        output_type="generate_until", generation_kwargs={}, metric_list=[{"metric": "acc"}], task="t"
    )
    filters = [build_filter_ensemble("none", [["take_first", None]])]
    task = SimpleNamespace(config=config, _filters=filters, process_results=lambda *_: {"acc": 0.25, "acc_paper": 1.0})
    lm = SimpleNamespace(model=Words(), tokenizer=Words(), first_token=len)
    question: Any = SimpleNamespace(answers=(), doc=None)
    inputs = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    hooked = HookedBatch(lm.model, inputs)
    hooked.base = torch.zeros(1, 9)
    assert GenerationScorer(lm, task, [question], inputs, metric).base(hooked).scores.tolist() == [expected]


def test_a_metric_that_the_task_lacks_or_minimises_is_refused() -> None:
    listed = [{"metric": "acc", "higher_is_better": True}, {"metric": "unparsed", "higher_is_better": False}]
    check_metric("acc", "t", listed)
    with pytest.raises(UserError, match="unknown metric of t 'ac': did you mean 'acc'"):
        check_metric("ac", "t", listed)
    with pytest.raises(UserError, match=r"t: a smaller unparsed is better: choose another metric \(acc\)"):
        check_metric("unparsed", "t", listed)
    check_metric(None, "t", listed)
    with pytest.raises(UserError, match="t: a smaller mae is better: a search needs one where more is better"):
        check_metric(None, "t", [{"metric": "mae", "higher_is_better": False}])
    with pytest.raises(UserError, match="t has no metric that a search could maximise"):
        check_metric(None, "t", [])


def test_a_report_says_what_a_p_value_is_of(tmp_path: Path) -> None:
    result = SearchResult.from_json(minimal())
    n = plan().n

    def lines(**vectors: VectorResult) -> str:
        return "\n".join(report_lines(plan(), replace(result, vectors=vectors), tmp_path))

    vector = replace(result.vectors["v"], counted_on=n)
    assert "counted on" not in lines(v=vector) and "each p is" not in lines(v=vector)
    # after a screen all cells that are left are finalists
    screened = lines(v=replace(vector, counted_on=n - 5))
    assert f"(max-T; counted on the {n - 5} questions that had no part in dropping cells)" in screened
    raced = lines(v=replace(vector, counted_on=n - 5, finalists=1, counted_gain=0.025))
    assert "in the only finalist" in raced
    assert f"counted on the {n - 5} questions that had no part in dropping cells: +2.5 points there)" in raced
    assert "each p is for the cells of one vector: 2 vectors have 2 chances of a small one" in lines(v=vector, w=vector)
