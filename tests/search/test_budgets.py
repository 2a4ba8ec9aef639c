"""Alphas for KL budgets: found on curves that are known, in a search, and refused where they do not hold."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import entropy

from lmms_steer import SteeringSpec, UserError, steer
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search.budget_study import StudyBudgets
from lmms_steer.search.budgets import resolve_budgets
from lmms_steer.search.measure import Measurer
from lmms_steer.search.options import SearchOptions, parse_budgets
from lmms_steer.search.plan import Cell
from lmms_steer.search.results import CellResult, SearchResult, VectorResult
from lmms_steer.search.study_files import save_winners
from lmms_steer.steering.alpha_search import TOLERANCE
from lmms_steer.steering.budget import budget_provenance
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import own_code
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.store import find
from lmms_steer.vectors.weights import model_source
from tests.helpers.models import vectors
from tests.helpers.own_operations import once, register_as_mine, twice
from tests.helpers.searches import result_of, search_into

BUDGETS = (0.03, 0.1, 0.3)
PLACES = [Cell("v", layer, 0.0, tokens) for layer in (0, 3) for tokens in ("image", "both")]


@pytest.mark.parametrize(
    "curve",
    [
        lambda alpha: 7e-5 * alpha**2,
        lambda alpha: 4e3 * alpha**2,
        lambda alpha: 0.5 * math.tanh((3 * alpha) ** 3),
        # falls again after its peak, so that several alphas have the same KL
        lambda alpha: 2 * (alpha / 0.5) ** 2 / (1 + (alpha / 0.5) ** 4),
        lambda alpha: math.inf if alpha > 0.9 else alpha**2,
    ],
    ids=["weak", "strong", "saturating", "falling", "overflowing"],
)
def test_an_alpha_is_found_whose_kl_is_the_budget(curve: Callable[[float], float]) -> None:
    rounds = []

    def measure(number: int, cells: Sequence[Cell]) -> list[float]:
        rounds.append(number)
        return [curve(cell.alpha) * (1 + cell.layer) for cell in cells]

    found = resolve_budgets(PLACES, BUDGETS, measure)
    assert rounds == list(range(len(rounds))) and len(rounds) < 20
    assert [(one.cell.layer, one.cell.tokens, one.budget) for one in found] == [
        (place.layer, place.tokens, budget) for place in PLACES for budget in BUDGETS
    ]
    for one in found:
        assert not one.failure and curve(one.cell.alpha) * (1 + one.cell.layer) == one.kl
        assert abs(one.kl / one.budget - 1) <= TOLERANCE
        assert float(f"{one.cell.alpha:g}") == one.cell.alpha, "a spec writes the alpha that was measured"


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (lambda alpha: 0.02 * math.tanh(alpha), "cannot be reached: KL 0.02 at alpha 4096"),
        (lambda alpha: 0.0, "cannot be reached: KL 0 at alpha 4096"),
        (lambda alpha: 0.04 + alpha, "is passed at the smallest alpha: KL 0.04 at 9.53674e-07"),
        (lambda alpha: 0.001 if alpha < 0.3 else 5.0, "is met by no alpha: KL jumps from 0.001 at alpha 0.29"),
    ],
)
def test_a_budget_that_no_alpha_meets_is_explained(curve: Callable[[float], float], message: str) -> None:
    (one,) = resolve_budgets([Cell("v", 0, 0.0, "both")], [0.03], lambda _, cells: [curve(c.alpha) for c in cells])
    assert message in one.failure


def test_a_budget_without_an_alpha_is_named_with_its_layer_for_every_vector() -> None:
    curves: dict[int, Callable[[float], float]] = {
        0: lambda alpha: alpha**2, 2: lambda alpha: 0.02 * math.tanh(alpha), 4: lambda alpha: 0.5 + alpha,
    }  # fmt: skip
    places = [Cell(vector, layer, 0.0, "image") for vector in ("v", "v,control=random:0") for layer in curves]
    found = resolve_budgets(places, [0.1], lambda _, cells: [curves[cell.layer](cell.alpha) for cell in cells])
    own, *left_out = StudyBudgets(found, 64, True).lines()
    assert own.startswith("kl:0.1 of v on image tokens: alpha 0.31") and own.endswith("(layer 0)")
    assert left_out == [
        f"left out: kl:0.1 of {vector} on image tokens: at layer 2 it cannot be reached: KL 0.02 at alpha 4096;"
        " at layer 4 it is passed at the smallest alpha: KL 0.5 at 9.53674e-07"
        for vector in ("v", "v,control=random:0")
    ]


def test_budgets_are_read_and_refused_in_one_line(tmp_path: Path) -> None:
    assert parse_budgets("kl:0.10, kl:1,kl:0.1") == ("kl:0.1", "kl:1") and parse_budgets("0.1:1:0.1") == ()
    for text, message in (
        ("kl:0.1,0.5", "not both"),
        ("kl:0", "above 0"),
        ("kl:x", "--alphas kl:x: expected a number of nats"),
    ):
        with pytest.raises(UserError, match=message):
            parse_budgets(text)
    with pytest.raises(UserError, match="the strategy tpe proposes alphas itself"):
        SearchOptions("steered_hf", "pretrained=m", ("v",), "t", tmp_path, alphas="kl:0.1", strategy="tpe")
    with pytest.raises(UserError, match="has to be resolved for the model first: lmms-steer search --alphas kl:0.1"):
        SteeringSpec.parse("vector=spatial,layer=1,alpha=kl:0.1,tokens=image")


@pytest.mark.slow
def test_a_search_resolves_budgets_and_its_choice_holds_for_what_it_was_resolved_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    settings: dict[str, Any] = {"alphas": "kl:0.05,kl:40", "layers": "1", "tokens": "image", "limit": 12}
    settings |= {"batch_size": 12, "score": "generate"}
    lines = search_into(study, **settings)
    rows = {
        (row["cell"]["vector"], row["cell"]["tokens"], row["budget"]): row
        for row in json.loads((study / "budgets.json").read_text())["resolved"]
    }
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    row = rows["counting", "image", 0.05]
    measured = []
    for asked in load_question_set("counting", "select")[:12]:
        inputs = lm.model_inputs([asked["question"]], [[asked["image"]]])
        line = f"vector=tiny-gemma2/counting,layer=1,alpha={row['cell']['alpha']},tokens=image"
        with torch.inference_mode():
            base = lm.model(**inputs).logits[0, -1].double()
            with steer(lm.model, line):
                measured.append(entropy(base.softmax(-1), lm.model(**inputs).logits[0, -1].double().softmax(-1)))
    assert np.mean(measured) == pytest.approx(0.05, rel=TOLERANCE + 1e-3) and not row["failure"]
    cells = pq.read_table(study / "cells.parquet").to_pylist()
    assert {cell["vector"]: cell["kl"] for cell in cells} == {
        vector: pytest.approx(one["kl"], rel=1e-4) for (vector, _, budget), one in rows.items() if budget == 0.05
    }, "the cells of the search do the damage that was asked for"
    assert "cannot be reached" in rows["counting", "image", 40.0]["failure"]
    (left_out,) = [line for line in lines if line.startswith("left out: kl:40 of counting on image tokens: at layer 1")]
    assert result_of(study)["cells"] == 2, "a cell of each vector"

    monkeypatch.setattr(Measurer, "__call__", lambda *_: pytest.fail("a finished search is measured again"))
    assert left_out in search_into(study, **settings)
    with pytest.raises(UserError, match="--alphas kl:0.05,kl:40 there, 0.5 here"):
        search_into(study, **{**settings, "alphas": "0.5"})

    choice = SteeringSpec.from_yaml(study / "choice.yaml")
    facts = ModelFacts("tiny-paligemma2", 5, 96)
    (chosen,) = resolve(choice, facts).spec.interventions
    assert chosen.alpha == rows["counting", str(chosen.tokens), 0.05]["cell"]["alpha"]
    assert choice.provenance["budget"] == "kl:0.05" and choice.provenance["budget_prompts"] == 12
    resolve(SteeringSpec.from_yaml(study / "control_random_0.yaml"), facts)
    named = "the alpha was resolved for the budget kl:0.05"
    with pytest.raises(UserError, match=f"{named} with another vector than 'counting' is now"):
        resolve(choice, facts, {"counting": vectors(5, 96, model="tiny-gemma2")})
    with pytest.raises(UserError, match=f"{named} on 'tiny-paligemma2' .*, and this is 'other'"):
        resolve(choice, ModelFacts("other", 5, 96), {"counting": resolve(choice, facts).vectors[0]})
    edited = SteeringSpec.parse(str(choice).replace("layer=1", "layer=2"))
    with pytest.raises(UserError, match=f"{named} for layer=1,.*, which this spec no longer says"):
        resolve(SteeringSpec(edited.interventions, choice.provenance), facts)


def test_an_alpha_does_not_hold_for_other_code_of_the_user_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_as_mine(monkeypatch, once)
    one, vector = Intervention("v", 1, 0.37, "image", operation="mine"), vectors(5, 96, model="tiny-gemma2")
    source = model_source("tiny-paligemma2")
    found = budget_provenance(one, 0.1, 0.101, 64, source, own_code(one)) | {"vector_sha256": vector.sha256}
    (tmp_path / "choice.yaml").write_text(SteeringSpec((one,), found).to_yaml())
    choice = SteeringSpec.from_yaml(tmp_path / "choice.yaml")
    facts = ModelFacts("tiny-paligemma2", 5, 96)
    assert resolve(choice, facts, {"v": vector}).spec.interventions == (one,)
    register_as_mine(monkeypatch, twice)
    with pytest.raises(UserError, match="the budget kl:0.1 with other code of the operation mine than it has now"):
        resolve(choice, facts, {"v": vector})
    # an older version did not record the code
    older = {key: value for key, value in choice.provenance.items() if key != "budget_code"}
    resolve(SteeringSpec(choice.interventions, older), facts, {"v": vector})


def test_a_kept_choice_holds_on_the_weights_that_its_budget_was_resolved_on(own_cache: Path) -> None:
    made = SteeringVectors.load(find("tiny-gemma2/counting", None).path)
    cell = CellResult(0.6, 0.1, 0.0, 0.2, 0.01, 9, 1, layer=1, alpha=0.37, tokens="image")
    found = VectorResult(cell, 0.01, True, 4, 4, 64, cell, {})
    result = SearchResult(64, 0.5, None, 4, None, {"tiny-gemma2/counting": found})
    plan: Any = SimpleNamespace(task="t_select", n=64, model="m", model_args="a", spec="",
                                user_vectors=["tiny-gemma2/counting"],
                                vectors={"tiny-gemma2/counting": made.sha256})  # fmt: skip
    source = model_source("tiny-paligemma2")

    def keep() -> str:
        more = lambda intervention, _: budget_provenance(intervention, 0.1, 0.101, 64, source, {})  # noqa: E731
        return next(save_winners(plan, result, "tiny-paligemma2", more))

    assert "alone now means layer=1,alpha=0.37,tokens=image (kl:0.1)" in keep().replace(", ", ",")
    facts, typed = ModelFacts("tiny-paligemma2", 5, 96), SteeringSpec.parse("vector=tiny-gemma2/counting")
    assert resolve(typed, facts).spec.interventions[0].alpha == 0.37
    assert resolve(SteeringSpec.parse(f"{typed},layer=2"), facts).spec.interventions[0].alpha == 0.5, "not elsewhere"
    source = {**source, "model_id": "tuned", "weights_sha256": "0" * 64}
    keep()
    with pytest.raises(UserError, match="resolved for the budget kl:0.1 on 'tuned' .*, and this is 'tiny-paligemma2'"):
        resolve(typed, facts)
