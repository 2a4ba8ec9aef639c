"""`lmms-steer search` from end to end: its cells, its files, and how answers are scored."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch

from lmms_steer import SteeringSpec, UserError, steer
from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search import assessment
from lmms_steer.search.study_files import save_choice
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store
from tests.helpers.searches import batch_files, result_of, search_into


@pytest.mark.slow
def test_every_cell_s_answers_are_those_of_the_model_with_hooks(finished_study: Path) -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    rows = load_question_set("counting", "select")[:64]
    words = sorted({choice for row in rows for choice in row["choices"]})
    ids = {word: lm.first_token(word) for word in words}
    expected = {}
    for layer, alpha, tokens in ((1, 0.5, "image"), (3, 1.5, "both")):
        hits = []
        line = f"vector=tiny-gemma2/counting,layer={layer},alpha={alpha},tokens={tokens}"
        with steer(lm.model, line), torch.inference_mode():
            for row in rows:
                inputs = lm.model_inputs([row["question"]], [[row["image"]]])
                logits = lm.model(**inputs, use_cache=False).logits[0, -1]
                answer = int(logits[[ids[word] for word in row["choices"]]].argmax())
                hits.append(answer == "ABCDEF".index(row["answer"].strip("()")))
        expected[layer, alpha, tokens] = np.mean(hits)
    study = optuna.load_study(
        study_name="lmms-steer",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(finished_study / "study.log")),
        ),
    )
    found = {(t.params["layer"], t.params["alpha"], t.params["tokens"]): t.value for t in study.trials
             if t.params["vector"] == "counting"}  # fmt: skip
    assert len(study.trials) == 24 and len(found) == 12
    for cell, accuracy in expected.items():
        assert found[cell] == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_search_writes_its_choice_for_lmms_eval_and_its_figures(finished_study: Path) -> None:
    best = result_of(finished_study)["vectors"]["counting"]["best"]
    (intervention,) = SteeringSpec.from_yaml(finished_study / "choice.yaml").interventions
    assert (intervention.layer, intervention.alpha, intervention.tokens) == (
        best["layer"],
        best["alpha"],
        best["tokens"],
    )
    spec = SteeringSpec.from_yaml(finished_study / "choice.yaml")
    assert spec.provenance["chosen_on"] == "tiny_counting_select" and len(spec.provenance["study"]) == 64
    assert len(set(spec.provenance["some_questions"].split())) == 16
    control = SteeringSpec.from_yaml(finished_study / "control_random_0.yaml").interventions[0]
    assert (control.vector, control.control) == ("counting", "random:0")
    for name in ("heatmap.png", "alpha.png"):
        assert (finished_study / name).read_bytes()[:4] == b"\x89PNG"
    assert (
        set(result_of(finished_study)["vectors"]["counting"]["controls"]) == {"random:0"}
        and "gain" in result_of(finished_study)["calibrated"]
    )


@pytest.mark.slow
def test_generated_answers_are_scored_as_in_lmms_eval_s_own_run(tmp_path: Path) -> None:
    lines = search_into(
        tmp_path, score="generate", limit=24, tokens="image,last", layers="1", controls=0, alphas="0.5,20"
    )
    biases = result_of(tmp_path)["calibrated"]
    assert biases["scored_by"] == "letters" and biases["accuracy"] == pytest.approx(biases["baseline"] + biases["gain"])
    assert any(f"among the choices only (baseline there {biases['baseline']:.3f})" in line for line in lines)
    table = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=8)
    rows, task = (
        load_question_set("counting", "select")[:24],
        lmms_eval_tasks.load_task("tiny_counting_select", "steered_paligemma")[0],
    )
    docs = [task.test_docs()[i] for i in range(24)]
    assert any(cell["unparsed"] > 0 for cell in table), "the strongest cells break the text"
    best_cell = result_of(tmp_path)["vectors"]["counting"]["best"]
    chosen = [cell for cell in table if all(cell[key] == best_cell[key] for key in ("layer", "alpha", "tokens"))]
    assert [best_cell["unparsed"]] == [cell["unparsed"] for cell in chosen]
    assert f"unparsed {100 * best_cell['unparsed']:.1f}%" in next(line for line in lines if "cells: layer" in line)
    share = 100 * result_of(tmp_path)["baseline_unparsed"]
    assert f"unparsed {share:.1f}%" in next(line for line in lines if "baseline" in line)
    for cell in table:
        line = f"vector=tiny-gemma2/counting,layer=1,alpha={cell['alpha']},tokens={cell['tokens']}"
        answers = []
        with steer(lm.model, line):
            for row in rows:
                inputs = lm.model_inputs([row["question"]], [[row["image"]]])
                output = lm.model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1:]
                answers.append(lm.tokenizer.decode(output).strip())
        right = [row["choices"]["ABCDEF".index(row["answer"].strip("()"))] for row in rows]
        unparsed = [task.process_results(row, [text])["unparsed"] for row, text in zip(docs, answers, strict=True)]
        assert cell["unparsed"] == pytest.approx(np.mean(unparsed)), cell
        assert cell["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(answers, right, strict=True)])), cell


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_every_strategy_writes_the_same_files_and_reports_when_nothing_won(tmp_path: Path) -> None:
    for strategy in ("race", "screen", "tpe"):
        folder = tmp_path / strategy
        settings = {"strategy": strategy, "layers": "1-3", "trials": 9, "controls": 1, "batch_size": 64}
        lines = search_into(folder, figures=True, **settings)
        won = result_of(folder)["vectors"]["counting"]["best"]["winner"]
        assert any("no winner" in line for line in lines) != won
        assert any("choice.yaml still holds this cell" in line for line in lines) != won
        names = {path.name for path in folder.iterdir()}
        assert names >= {"plan.json", "cells.parquet", "result.json", "choice.yaml", "choice_1se.yaml", "study.log",
                         "control_random_0.yaml", "answer_bias.yaml", "heatmap.png", "alpha.svg"}  # fmt: skip
        cells = pq.read_table(folder / "cells.parquet").to_pylist()
        assert any(cell["dropped"] for cell in cells) == strategy.startswith("race")
        best = result_of(folder)["vectors"]["counting"]["best"]
        curve = ("counting", best["layer"], best["tokens"])
        own = [cell for cell in cells if (cell["vector"], cell["layer"], cell["tokens"]) == curve]
        assert ("dropped early" in (folder / "alpha.svg").read_text()) == any(cell["dropped"] for cell in own)


@pytest.mark.slow
def test_a_vector_whose_path_has_an_equals_sign_is_searched_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a=1" / "v.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(store.find("counting", "tiny-gemma2").path.read_bytes())
    search_into(tmp_path / "study", vectors=(str(path),), limit=16, layers="1", controls=2)
    assert set(result_of(tmp_path / "study")["vectors"][str(path)]["controls"]) == {"random:0", "random:1"}
    assert (tmp_path / "study" / "control_random_1.yaml").is_file()


@pytest.mark.slow
def test_a_saved_winner_becomes_its_vector_s_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    settings = {"controls": 0, "layers": "3", "keep": True}
    lines = search_into(tmp_path / "none", **settings)
    assert lines[-1] == "counting: no winner, so no default is saved" and not own_cache.exists()
    monkeypatch.setattr(assessment, "corrected_p", lambda *_: 0.01)
    lines = search_into(tmp_path / "some", **settings)
    best = result_of(tmp_path / "some")["vectors"]["counting"]["best"]
    path = own_cache / "vectors" / "tiny-gemma2" / "counting" / "mean_shift.choices.yaml"
    assert best["winner"] and f"saved in {path}: on tiny-paligemma2, vector=counting alone now means" in lines[-1]
    resolved = resolve(SteeringSpec.parse("vector=counting"), ModelFacts("tiny-paligemma2", 5, 96))
    (chosen,) = resolved.spec.interventions
    assert (chosen.layer, chosen.alpha, chosen.tokens) == (3, best["alpha"], best["tokens"])
    assert resolved.spec.provenance["chosen_on"] == "tiny_counting_select (64 questions)"


def test_a_choice_holds_layer_alpha_and_tokens_alone() -> None:
    for line in ("vector=v,layer=1,alpha=1,tokens=text,scale=unit", "vector=v,layer=1,alpha=1,tokens=text,gamma_text=2",
                 "vector=v,layer=1,alpha=1,tokens=text; vector=w,layer=1,alpha=1,tokens=text"):  # fmt: skip
        with pytest.raises(UserError, match="a vector's choice holds layer, alpha and tokens alone"):
            save_choice(SteeringSpec.parse(line), "tiny-paligemma2")


@pytest.mark.slow
def test_a_choice_for_another_vector_causes_a_warning(tmp_path: Path) -> None:
    search_into(tmp_path, limit=32)
    path = tmp_path / "choice.yaml"
    path.write_text(path.read_text().replace("vector: counting", "vector: spatial"))
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", steering=str(path))
    assert any("is not the one that layer, alpha and tokens were chosen for" in w for w in lm.resolved.warnings)


@pytest.mark.parametrize("spec", ["", "scale=unit"])
def test_an_alpha_is_refused_where_its_vector_is_not_finite_or_zero_and_runs_where_it_is_absurd(
    tmp_path: Path, spec: str
) -> None:
    small: dict[str, Any] = {
        "layers": "1",
        "tokens": "image",
        "limit": 8,
        "controls": 0,
        "spec": spec,
        "blank_image": False,
    }
    lines = search_into(tmp_path / "absurd", alphas="1e38", **small)
    assert any("best of 1 cell: layer=1,alpha=1e+38,tokens=image" in line for line in lines)
    assert not any("hooks" in line for line in lines), "its replay is checked, and right"
    for alpha, what in (("1e39", "overflows float32"), ("1e-47", "is zero in float32: it would change nothing")):
        with pytest.raises(UserError) as refused:
            search_into(tmp_path / alpha, alphas=f"0.5,{alpha}", **small)
        line = str(refused.value)
        assert line.startswith(f"alpha={float(alpha):g}: the scaled vector '") and line.endswith(what)
        assert "counting" in line
        assert not batch_files(tmp_path / alpha)
