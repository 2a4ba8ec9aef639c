"""KL(run || plain model) of a run's answers, against sums over steps that are computed one by one, without a cache."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import UserError
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.models.divergence import TOKENS, DivergenceMeter, answer_divergence
from lmms_steer.models.prompts import answer_token_ids
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors
from tests.models.test_contrasts import CASES, QUESTIONS, branches, next_log_p, reference

ANSWERS = ("three , or", "left")
VCD = CASES[0][1]


@pytest.fixture(scope="module", params=["paligemma2", "idefics3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("models") / request.param
    model, processor = build(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
    model.save_pretrained(made)
    processor.save_pretrained(made)
    vectors().save(made.parent / "v.safetensors")
    (made.parent / "bias.yaml").write_text("three: 1.5\nleft: -2.0\n")
    return made


def expected(run: SteeredVlm, plain: SteeredVlm, question: str, seed: int, answer: str) -> float:
    """The sum over the answer's tokens; `run` may be steered, contrasted or biased."""
    image, total = picture(seed), 0.0
    tokens = answer_token_ids(run.tokenizer, run.prompt_end, answer)
    for place in range(len(tokens)):
        log_p = next_log_p(plain, plain.model_inputs([question], [[image]]), tokens[:place])
        shown = branches(run, "vcd", VCD, question, image)[: 2 if run.contrasted is not None else 1]
        own = [next_log_p(run, one, tokens[:place]) for one in shown]
        scores = reference("vcd", VCD, own[0], own[1], place) if len(own) > 1 else own[0]
        biases = run.answer_bias.words if run.answer_bias is not None else {}
        ids = {word: {run.first_token(word), run.bracketed_token(word)} for word in biases}
        if not set().union(*ids.values()) & set(tokens[:place]):
            for word, bias in biases.items():
                scores[list(ids[word])] += bias
        log_q = scores.log_softmax(-1)
        allowed = log_q.isfinite()
        total += float((log_q[allowed].exp() * (log_q[allowed] - log_p[allowed])).sum())
    return total


@pytest.mark.parametrize("changed", ["steered and contrasted", "biased"])
def test_a_batch_has_the_sums_of_its_steps(folder: Path, changed: str) -> None:
    spec = {"vector": str(folder.parent / "v.safetensors"), "layer": 1, "alpha": 6, "tokens": "image"}
    bias = {"answer_bias": str(folder.parent / "bias.yaml")}
    args: dict[str, Any] = bias if changed == "biased" else {"contrast": "vcd", **VCD, **spec}
    run, plain = SteeredVlm(pretrained=str(folder), **args), SteeredVlm(pretrained=str(folder))
    meter = DivergenceMeter(run, limit=2)
    asked = [
        (question, [picture(n)], answer) for n, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    meter.measure("a_task", asked, lambda one: len(one[1]))
    each = [expected(run, plain, question, n, answer) for n, (question, _, answer) in enumerate(asked)]
    assert meter.record() == {"a_task": {"nats": pytest.approx(sum(each) / 2, rel=1e-3), "questions": 2}}
    assert min(each) > 1e-3
    # the hooks are back
    assert expected(run, plain, QUESTIONS[0], 0, ANSWERS[0]) == pytest.approx(each[0])


def test_long_answers_are_cut_and_empty_ones_are_left_out(folder: Path) -> None:
    plain = SteeredVlm(pretrained=str(folder))
    meter = DivergenceMeter(plain, limit=3)
    asked = [(QUESTIONS[0], [picture(0)], answer) for answer in ("", " \n ", "left three " * 40)]
    meter.measure("a_task", asked, lambda one: len(one[1]))
    assert meter.record() == {"a_task": {"nats": 0.0, "questions": 1}}
    assert len(plain.tokenizer(meter._beginning(asked[2][2]), add_special_tokens=False)["input_ids"]) <= TOKENS + 1


@pytest.mark.parametrize("contrasted", [False, True])
def test_an_answer_without_a_token_is_refused(folder: Path, contrasted: bool) -> None:
    lm = SteeredVlm(pretrained=str(folder), **({"contrast": "vcd", **VCD} if contrasted else {}))
    with pytest.raises(UserError, match=r"' ' is an answer without a token"):
        lm.answer_logits([(QUESTIONS[0], [picture(0)], answer) for answer in ("left", " ")])


def test_logits_that_are_not_finite_are_infinitely_far() -> None:
    labels = torch.tensor([[-100, 3]])
    plain = torch.zeros(1, 2, 5)
    broken = plain.clone()
    broken[0, 1] = torch.nan
    assert answer_divergence(broken, plain, labels) == [math.inf]
    broken[0, 1], broken[0, 0] = 0.0, torch.nan
    assert answer_divergence(broken, plain, labels) == [0.0]


@pytest.mark.parametrize("limit", [0, "many", 3.5, True])
def test_a_wrong_number_of_questions_is_refused(folder: Path, limit: Any) -> None:
    with pytest.raises(UserError, match=f"divergence={limit}: expected a whole number from 1 up"):
        SteeredVlm(pretrained=str(folder), divergence=limit)
