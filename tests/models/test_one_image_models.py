"""`steered_hf` on tiny BLIP-2, InstructBLIP and Kosmos-2 checkpoints, whose processors have no chat template.

The reference is the model of transformers on one question at a time, with the processor called as its documentation
does, and a hook of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmms_eval.evaluator import simple_evaluate
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer import UserError
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.inspection.prompt import inspect_prompt
from lmms_steer.models import batches
from lmms_steer.models.prompt_formats import _with_answers
from lmms_steer.models.prompts import prompt_format_for
from tests.helpers.checkpoints import GENERATING_PARTS, build
from tests.helpers.models import picture, vectors
from tests.helpers.task_manager import task_manager

QUESTIONS = ("where is the cat ?", "how many cups are on the table ?", "where is the dog ?")
SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4}
LAYER, ALPHA = 1, 3.0
V = vectors(scale=5)
LAYERS = {"blip-2": "language_model.model.decoder.layers", "instructblip": "language_model.model.layers"}


@pytest.fixture(scope="module", params=list(GENERATING_PARTS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / request.param
    for part in build(request.param):
        part.save_pretrained(folder)
    V.save(folder / "v.safetensors")
    return folder


def steered(folder: Path, tokens: str, alpha: float = ALPHA) -> SteeredVlm:
    spec = {"vector": str(folder / "v.safetensors"), "layer": LAYER, "alpha": alpha, "tokens": tokens}
    return SteeredVlm(pretrained=str(folder), batch_size=3, **spec)


def image_positions(name: str, batch: Any) -> list[int]:
    """Counted from the processors' documentation: BLIP puts them first, Kosmos-2 after `<s>` and `<image>`."""
    return list(range(2, 66)) if name == "kosmos-2" else list(range(4))


@contextmanager
def reference(model: Any, name: str, chosen: list[int]) -> Iterator[None]:
    """Adds alpha v at the chosen positions of the prompt."""

    def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] == 1:
            return None
        changed = hidden.clone()
        changed[:, chosen] += ALPHA * torch.from_numpy(V[LAYER]).float()
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    layers = model.get_submodule(LAYERS.get(name, "text_model.model.layers"))
    handle = layers[LAYER].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def answers(lm: SteeredVlm, *questions: tuple[str, list[Any]]) -> list[str]:
    found = batches.run_grouped(list(questions), lm._generated_together, lambda part: lm._generate(part, SETTINGS))
    return [result.text for result in found]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["image", "text", None])
def test_a_batch_has_the_answers_of_a_reference_on_single_questions(saved: Path, tokens: str | None) -> None:
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(saved)
    expected = []
    for i, question in enumerate(QUESTIONS):
        inputs = processor(images=picture(i), text=question, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        image = image_positions(saved.name, inputs)
        chosen = {"image": image, "text": [c for c in range(length) if c not in image], None: []}[tokens]
        with reference(model, saved.name, chosen):
            out = model.generate(**inputs, **SETTINGS, do_sample=False)[0, length:]
        expected.append(processor.tokenizer.decode(out, skip_special_tokens=True))
    lm = steered(saved, tokens or "both", ALPHA if tokens else 0)
    assert lm.prompt_format.name == "plain"
    assert answers(lm, *((q, [picture(i)]) for i, q in enumerate(QUESTIONS))) == expected
    plain = answers(steered(saved, "both", 0), *((q, [picture(i)]) for i, q in enumerate(QUESTIONS)))
    assert (plain == expected) == (tokens is None)


@pytest.mark.slow
def test_the_log_likelihood_of_an_answer_is_that_of_generating_it(saved: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(saved)
    questions: list[Any] = [
        (q, [picture(i)], a) for i, (q, a) in enumerate(zip(QUESTIONS, ("left of the dog", "three", "on"), strict=True))
    ]
    scored = steered(saved, "image")._score(questions)
    for (question, (image,), answer), result in zip(questions, scored, strict=True):
        inputs = processor(images=image, text=question, return_tensors="pt")
        start = inputs["input_ids"].shape[1]
        words = processor.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        with reference(model, saved.name, image_positions(saved.name, inputs)):
            out = model.generate(
                **inputs,
                max_new_tokens=len(words),
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                prefix_allowed_tokens_fn=lambda _, ids, w=words, s=start: [w[len(ids) - s]],
            )
        scores = [step.log_softmax(-1)[0, word] for step, word in zip(out.logits, words, strict=True)]
        assert result.text[0] == pytest.approx(-float(torch.stack(scores).mean()), abs=1e-5)


@pytest.mark.slow
def test_lmms_eval_evaluates_the_steered_model(saved: Path) -> None:
    def samples(alpha: float) -> Any:
        args = f"pretrained={saved},vector={saved / 'v.safetensors'},layer={LAYER},alpha={alpha},tokens=image"
        settings: dict[str, Any] = {"batch_size": 2, "limit": 4, "log_samples": True, "bootstrap_iters": 0}
        tasks = ["tiny_spatial", "tiny_spatial_ll"]
        return simple_evaluate(
            model="steered_hf", model_args=args, tasks=tasks, task_manager=task_manager(), device="cpu", **settings
        )["samples"]

    before, after = samples(0), samples(ALPHA)
    for task in before:
        found = [[sample["resps"] for sample in one[task]] for one in (before, after)]
        assert len(found[0]) == 4 and found[0] != found[1]


@pytest.mark.slow
def test_relative_strengths_use_the_norms_at_the_image_tokens(saved: Path) -> None:
    spec = {"vector": str(saved / "v.safetensors"), "layer": LAYER, "alpha": 2, "tokens": "image", "scale": "relative"}
    norms = SteeredVlm(pretrained=str(saved), **spec).resolved.norms
    assert norms is not None and norms[LAYER]["image"] > 0 and norms[LAYER]["image"] != norms[LAYER]["text"]


def test_inspect_shows_the_steered_tokens_of_an_image(saved: Path) -> None:
    lm = steered(saved, "image")
    found = inspect_prompt(lm, [picture(0)], QUESTIONS[0])
    image = [place for place, kind in enumerate(found.kinds) if kind == "image"]
    assert image == image_positions(saved.name, None)
    assert [place for place, there in enumerate(found.steered) if there] == image
    assert {found.tokens[place] for place in image} == {"<image>"}


def test_a_question_has_one_picture(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    plain = prompt_format_for(processor)
    for visuals in ([], [picture(0), picture(1)], [[picture(0), picture(1)]]):
        with pytest.raises(UserError, match="takes one image with every question: 'where is the cat"):
            plain(processor, [QUESTIONS[0]], [visuals])


def test_a_processor_with_a_chat_template_keeps_it() -> None:
    named: Any = type("Blip2Processor", (), {"chat_template": "{{ messages }}"})()
    assert prompt_format_for(named).name == "chat"


def test_an_answer_is_not_put_into_the_inputs_of_the_q_former() -> None:
    ids = torch.tensor([[5, 6, 7]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "qformer_input_ids": ids.clone()}
    made = _with_answers(batch, [[8, 9]], 0)
    assert made["input_ids"].tolist() == [[5, 6, 7, 8, 9]] and made["qformer_input_ids"].tolist() == [[5, 6, 7]]


def test_questions_are_generated_together_where_padding_does_not_move_them() -> None:
    lm: Any = SteeredVlm.__new__(SteeredVlm)
    lm.processor = SimpleNamespace(tokenizer=lambda text, **_: {"input_ids": text.split()})
    for kind, together in (("kosmos-2", False), ("blip-2", True)):
        lm.config = SimpleNamespace(model_type=kind)
        one, other, longer = (lm._generated_together((text, ())) for text in ("a b", "c d", "a b c"))
        assert one == other == lm._generated_together(("<image> a b", ())) and (one == longer) == together
