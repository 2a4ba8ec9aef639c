"""`lmms-steer search --harness lm-eval`: cells score as in lm-eval itself, and it resumes and screens as others do."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from scipy.stats import entropy

from lmms_steer import UserError, steer
from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search import assessment
from lmms_steer.search.command import run_search
from lmms_steer.search.harnesses import create, load
from lmms_steer.search.lm_eval_scorers import LikelihoodScorer
from lmms_steer.search.margins import gradients_of_margin
from lmms_steer.search.measure import Measurer
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.questions import PreparedBatch, Question
from lmms_steer.steering.calls import continuation
from tests.helpers.lm_eval_tasks import CHOICE, ROWS, WRITING, lm_eval_samples, save_llama, write_task
from tests.helpers.models import vectors
from tests.helpers.searches import result_of


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `m`, a vector and the tasks `choose` and `write`."""
    folder = tmp_path_factory.mktemp("lm_eval")
    save_llama(folder / "m")
    vectors(scale=3).save(folder / "v.safetensors")
    write_task(folder / "tasks", "choose", ROWS, CHOICE)
    write_task(folder / "tasks", "write", ROWS, WRITING)
    written = lm_eval_samples(folder / "tasks", "write", {"pretrained": str(folder / "m")})
    rows = [{**row, "answer": sample["filtered_resps"][0]} for row, sample in zip(ROWS, written, strict=True)]
    write_task(folder / "tasks", "write", rows, WRITING)
    write_task(folder / "tasks", "others", [{**row, "q": f"or {row['q']}"} for row in ROWS[:8]], CHOICE)
    return folder


def search(llama: Path, output: Path, **options: Any) -> list[str]:
    settings: dict[str, Any] = {
        "harness": "lm-eval",
        "layers": "0-2:2",
        "alphas": "0.4,2",
        "controls": 0,
        "batch_size": 5,
        **options,
    }
    model = settings.pop("model_args", f"pretrained={llama / 'm'}")
    vector, task = settings.pop("vector", str(llama / "v.safetensors")), settings.pop("task", "choose")
    include = settings.pop("include_path", llama / "tasks")
    return list(
        run_search(SearchOptions("steered_hf", model, (vector,), task, output, include_path=include, **settings))
    )


def scores_of(output: Path) -> tuple[dict[int, float], dict[tuple[int, float, str], dict[int, float]]]:
    """The study's stored scores by document: the unsteered model's, and each cell's."""
    base: dict[int, float] = {}
    cells: dict[tuple[int, float, str], dict[int, float]] = {}
    for path in sorted((output / "batches").glob("*.parquet")):
        table = pq.read_table(path)
        names = json.loads(table.schema.metadata[b"cells"])
        for row in table.to_pylist():
            base[row["doc_id"]] = row["base"]
            for (_, layer, alpha, tokens), score in zip(names, row["scores"], strict=True):
                cells.setdefault((layer, alpha, tokens), {})[row["doc_id"]] = score
    return base, cells


def assert_scored_as_by_lm_eval(
    llama: Path, output: Path, task: str, metric: str, model_args: dict[str, Any], vector: str
) -> None:
    base, cells = scores_of(output)
    unsteered = lm_eval_samples(llama / "tasks", task, model_args)
    assert list(base.values()) and base == {s["doc_id"]: s[metric] for s in unsteered}
    moved = 0
    for (layer, alpha, tokens), scores in cells.items():
        spec = {"vector": vector, "layer": layer, "alpha": alpha, "tokens": tokens}
        expected = {s["doc_id"]: s[metric] for s in lm_eval_samples(llama / "tasks", task, {**model_args, **spec})}
        assert scores == expected, (layer, alpha, tokens)
        moved += expected != base
    assert moved, "no cell has an effect"


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("choose", "acc_norm"), ("write", "exact_match")])
def test_every_cell_s_scores_are_lm_eval_s_own(llama: Path, tmp_path: Path, task: str, metric: str) -> None:
    lines = search(llama, tmp_path / "s", task=task, metric=metric)
    assert not any("hooks" in line for line in lines), "replayed"
    args, vector = {"pretrained": str(llama / "m")}, str(llama / "v.safetensors")
    assert_scored_as_by_lm_eval(llama, tmp_path / "s", task, metric, args, vector)


@pytest.mark.slow
def test_a_search_on_the_embedded_text_model_scores_as_lm_eval_does(llama: Path, tmp_path: Path) -> None:
    colours = {"a": " red", "b": " green", "c": " blue"}
    asked = [(thing, place) for thing in ("ball", "lamp", "door", "cup") for place in range(3)]
    rows = [{"q": f"the{[*colours.values()][place]} {thing} is", **colours, "gold": place} for thing, place in asked]
    write_task(llama / "tasks", "colours", rows, CHOICE)
    # float32, because in bfloat16 batches of another size can turn a near tie
    args = {"pretrained": "tiny-gemma2", "dtype": "float32"}
    options = {"vector": "tiny-gemma2/colour-red", "alphas": "4", "layers": "1,3", "tokens": "both", "task": "colours"}
    search(llama, tmp_path / "s", model_args="pretrained=tiny-gemma2,dtype=float32", **options)
    assert_scored_as_by_lm_eval(llama, tmp_path / "s", "colours", "acc", args, "tiny-gemma2/colour-red")


def prepared(llama: Path, task: str = "choose", n: int = 5) -> tuple[Any, list[Question], PreparedBatch]:
    options = SearchOptions("steered_hf", f"pretrained={llama / 'm'}", ("v",), task, llama, harness="lm-eval",
                            include_path=llama / "tasks")  # fmt: skip
    lm, (loaded, _) = create(options), load(options, task)
    questions = list(loaded.questions(n, False))
    return lm, questions, loaded.prepare(lm, questions)


def test_a_replay_of_scored_answers_equals_the_model_with_hooks(llama: Path) -> None:
    lm, questions, batch = prepared(llama)
    assert 5 < len(batch.question_of) <= 15 and (batch.inputs["attention_mask"] == 0).any(), "several rows each, padded"
    targets = ("text", "both", "last", "text_paper")
    special = lm.tokenizer.all_special_ids
    replay = Replay(lm.model, batch.inputs, ReplayOptions(targets, special, scored=batch.scored))
    hooked = HookedBatch(lm.model, batch.inputs, special, batch.scored)
    rows = [(row, int(batch.scored[row]) + 1) for row in range(len(batch.scored))]
    delta = torch.randn(48, generator=torch.Generator().manual_seed(0))
    for layer in (0, 2):
        for tokens in targets:
            ours, theirs = replay.steer(layer, delta, tokens), hooked.steer(layer, delta, tokens)
            assert not torch.allclose(theirs, hooked.base, atol=0.01), "steering has an effect"
            assert max(float((ours[r, -n:] - theirs[r, -n:]).abs().max()) for r, n in rows) < 1e-4
    assert replay.starts["last"] > 0, "the positions before the last one of the prompt are reused"
    answered = replay.reduce_all(3, delta[None], ["both"], lambda logits: logits)
    last_layer = torch.stack([answered[0, r, -n] - hooked.base[r, -n] for r, n in rows if n > 1])
    assert last_layer.abs().max() > 0.01, "the token after the prompt is predicted from a steered position"
    assert torch.allclose(answered[0, 0, -1], hooked.base[0, -1], atol=1e-4), "the answer is not steered"


def test_answers_that_begin_alike_are_decided_by_the_first_token_that_differs() -> None:
    scorer = LikelihoodScorer.__new__(LikelihoodScorer)
    scorer.batch = [SimpleNamespace(answers=("x", "y"))] * 2  # type: ignore[list-item]
    alike, prefix = ([5, 7], [5, 8, 9]), ([5], [5, 6])
    scorer._answers = [[(row, torch.tensor(ids)) for row, ids in enumerate(answers)] for answers in (alike, prefix)]
    logits = torch.randn(1, 2, 3, 10)
    second, first = scorer._deciding(logits)
    assert torch.equal(second[0], torch.stack((logits[0, 0, -1], logits[0, 1, -2])))
    assert torch.equal(first[0], torch.stack((logits[0, 0, -1], logits[0, 1, -2])))


@pytest.mark.parametrize("hooked", [False, True], ids=["replayed", "hooked"])
def test_the_damage_of_scored_answers_is_that_of_the_token_that_decides(llama: Path, hooked: bool) -> None:
    lm, questions, batch = prepared(llama)
    targets, special, delta = ("both", "last"), lm.tokenizer.all_special_ids, torch.from_numpy(vectors(scale=3)[1])
    options = ReplayOptions(targets, special, scored=batch.scored)
    source = (
        HookedBatch(lm.model, batch.inputs, special, batch.scored)
        if hooked
        else Replay(lm.model, batch.inputs, options)
    )
    deltas = torch.stack((delta, delta))
    kl = batch.scorer.scores(source, 1, deltas, targets).kl
    for place, question in enumerate(questions):
        encoded = [lm.tok_encode(request.args[0] + request.args[1]) for request in question.requests]
        context = len(lm.tok_encode(question.requests[0].args[0]))
        answers = [ids[context:] for ids in encoded]
        heads = list(zip(*answers, strict=False))
        at = next((i for i, tokens in enumerate(heads) if len(set(tokens)) > 1), 0)
        per_answer = [ids[: context + at] for ids in encoded]
        for row, tokens in enumerate(targets):
            expected = []
            for ids in per_answer:
                inputs, spec = torch.tensor([ids]), f"vector=v,layer=1,alpha=1,tokens={tokens}"
                with torch.no_grad():
                    base = lm.model(inputs).logits[0, -1].double()
                    with steer(lm.model, spec, {"v": vectors(scale=3)}, special), continuation(torch.tensor([at])):
                        steered = lm.model(inputs).logits[0, -1].double()
                expected.append(float(entropy(base.softmax(-1), steered.softmax(-1))))
            assert float(kl[row, place]) == pytest.approx(sum(expected) / len(expected), rel=1e-3), (place, tokens)
    assert kl.max() > 0.01


def test_a_slope_equals_the_effect_of_a_small_alpha_on_the_answers_margin(llama: Path) -> None:
    lm, questions, batch = prepared(llama)
    scorer, kept = batch.scorer, int(batch.scored.max()) + 1
    margin, gradients = gradients_of_margin(lm.model, batch.inputs, scorer, kept)
    hooked = HookedBatch(lm.model, batch.inputs, (), batch.scored)
    prompt = (
        torch.arange(batch.inputs["input_ids"].shape[1]) < batch.inputs["input_ids"].shape[1] - batch.scored[:, None]
    )
    mask, direction, small = prompt & batch.inputs["attention_mask"].bool(), torch.randn(48), 1e-3
    of_rows = ((gradients[1] @ direction) * mask).sum(1)
    slope = torch.zeros(5).index_add(0, batch.question_of, of_rows)
    ends = [scorer.margin(hooked.steer(1, sign * small * direction, "both")) for sign in (1, -1)]
    assert torch.allclose((ends[0] - ends[1]) / (2 * small), slope, atol=0.1, rtol=0.1)
    assert torch.allclose(scorer.margin(hooked.base), margin, atol=1e-4) and margin.shape == (5,)


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_a_finished_search_is_resumed_confirmed_screened_and_kept(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    lines = search(llama, tmp_path / "s", strategy="race+screen", controls=1, confirm="others", limit=12)
    result = result_of(tmp_path / "s")
    assert result["n"] == 12 and result["confirmed"]["n"] == 8 and "calibrated" not in result
    assert any("8 other questions (others)" in line for line in lines) and not any("biases" in line for line in lines)
    monkeypatch.setattr(Measurer, "__call__", lambda *_: pytest.fail("a finished search is measured again"))
    monkeypatch.setattr(assessment, "corrected_p", lambda *_: 0.01)
    again = search(llama, tmp_path / "s", strategy="race+screen", controls=1, confirm="others", limit=12, keep=True)
    assert again[0] == lines[0]
    best = result["vectors"][str(llama / "v.safetensors")]["best"]
    if best["gain"] > 0:
        assert (llama / "v.choices.yaml").is_file()
    with pytest.raises(UserError, match="--metric None there, acc_norm here"):
        search(llama, tmp_path / "s", strategy="race+screen", controls=1, limit=12, metric="acc_norm")
    logged = lm_eval_samples(llama / "tasks", "choose", {"pretrained": str(llama / "m")})
    ids = {question_id(stable_hash(sample["prompt_hash"]), 0) for sample in logged}
    chosen_on = yaml.safe_load((tmp_path / "s" / "choice.yaml").read_text())["provenance"]
    assert set(chosen_on["some_questions"].split()) <= ids and chosen_on["chosen_on"] == "choose"


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"tokens": "image"}, CHOICE, "--tokens image: a text model has no image tokens"),
        ({"score": "letters"}, CHOICE, "--score letters: lm-eval's tasks score answers themselves"),
        ({"harness": "lm_eval"}, CHOICE, "unknown harness 'lm_eval': did you mean 'lm-eval'"),
        pytest.param({"task": "nothing"}, CHOICE, "unknown task 'nothing' of lm-eval", marks=pytest.mark.slow),
        ({"split": "train"}, CHOICE, "unknown split 'train' of one"),
        ({"metric": "f1"}, CHOICE + "  - metric: f1\n", "its metric f1 is not a number from 0 to 1"),
        ({}, "output_type: loglikelihood_rolling\ndoc_to_target: '{{q}}'\nmetric_list: [{metric: word_perplexity}]\n",
         "one is loglikelihood_rolling, whose questions have no score each"),
        ({}, WRITING.replace("{until", "{do_sample: true, temperature: 0.7, until"), "one samples its answers"),
        ({}, WRITING.replace("{until", "{num_beams: 4, until"), "one sets num_beams=4 for generation"),
        ({"strategy": "screen"}, WRITING, "it has no choices with one right answer, which the screen needs"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_one_line(
    llama: Path, tmp_path: Path, options: dict[str, Any], settings: str, message: str
) -> None:
    write_task(tmp_path / "tasks", "one", ROWS, settings)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        search(llama, tmp_path / "s", include_path=tmp_path / "tasks", **{"task": "one", **options})
    assert "\n" not in str(refused.value)
