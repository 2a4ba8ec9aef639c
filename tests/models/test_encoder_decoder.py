"""`steered_hf` on a tiny Florence-2: what plain transformers gives, steered in the decoder, or refused in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from lmms_steer import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.inspection.prompt import inspect_prompt
from lmms_steer.models.decoder_batches import with_decoder_part
from lmms_steer.models.residual_norms import measure_norms
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.search.margins import margin_slopes
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors
from tests.helpers.task_manager import task_manager

QUESTIONS = [("where is the cat ?", [picture(0)]), ("how many cups are on the table ?", [picture(1)])]
ANSWERS = ("left of the dog", "three")
NEW, LAYER, ALPHA = 4, 1, 3.0
SETTINGS = {"max_new_tokens": NEW, "min_new_tokens": NEW}
V = vectors(scale=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "florence2"
    for part in build("florence2"):
        part.save_pretrained(made)
    V.save(made.parent / "v.safetensors")
    return made


@pytest.fixture(scope="module")
def create(folder: Path) -> Callable[..., SteeredVlm]:
    def make(**args: Any) -> SteeredVlm:
        return SteeredVlm(pretrained=str(folder), batch_size=2, **args)

    return make


@pytest.fixture(scope="module")
def steered(create: Callable[..., SteeredVlm], folder: Path) -> SteeredVlm:
    return create(vector=str(folder.parent / "v.safetensors"), layer=LAYER, alpha=ALPHA, tokens="text", phase="all")


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


@contextmanager
def added(model: Any, strength: float) -> Iterator[None]:
    """Add the vector at every position of the decoder, by a hook that is not the package's."""
    v = torch.from_numpy(V[LAYER]).float()
    layer = model.model.language_model.decoder.layers[LAYER]
    handle = layer.register_forward_hook(lambda module, args, output: output + strength * v)  # noqa: ARG005
    try:
        yield
    finally:
        handle.remove()


def written(plain: tuple[Any, Any], question: str, images: list[Any], words: list[int] | None) -> tuple[Tensor, Tensor]:
    """What plain transformers writes after start token and BOS, or is made to write, and the logits."""
    model, processor = plain
    inputs = processor(text=question, images=images[0], return_tensors="pt")
    more: dict[str, Any] = {"max_new_tokens": NEW + 1, "min_new_tokens": NEW + 1}
    if words is not None:
        more = {"prefix_allowed_tokens_fn": lambda _, ids: [2] if len(ids) == 1 else [words[len(ids) - 2]]}
        more |= {"max_new_tokens": len(words) + 1, "min_new_tokens": len(words) + 1}
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, output_logits=True, return_dict_in_generate=True, **more)
    assert out.sequences[0, :2].tolist() == [1, 2]
    return out.sequences[0, 2:], torch.cat(out.logits[1:])


@pytest.mark.parametrize("strength", [0.0, ALPHA])
def test_answers_and_scores_are_those_of_plain_transformers(
    create: Callable[..., SteeredVlm], steered: SteeredVlm, plain: tuple[Any, Any], strength: float
) -> None:
    lm, tokenizer = steered if strength else create(), plain[1].tokenizer
    answers = lm._generate(QUESTIONS, SETTINGS)
    scores = lm._score([(*question, answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)])
    with added(plain[0], strength):
        for question, answer, given, scored in zip(QUESTIONS, ANSWERS, answers, scores, strict=True):
            ids, _ = written(plain, *question, None)
            assert given.text == tokenizer.decode(ids, skip_special_tokens=True)
            assert given.token_counts.output_tokens == NEW
            words = tokenizer(answer, add_special_tokens=False)["input_ids"]
            _, logits = written(plain, *question, words)
            loss = -logits.log_softmax(-1)[range(len(words)), words].mean()
            assert scored.text[0] == pytest.approx(float(loss), abs=1e-4)


def test_steering_changes_answers_and_a_batch_gives_those_of_single_questions(
    create: Callable[..., SteeredVlm], steered: SteeredVlm
) -> None:
    together = [result.text for result in steered._generate(QUESTIONS, SETTINGS)]
    assert together == [steered._generate([question], SETTINGS)[0].text for question in QUESTIONS]
    assert together != [result.text for result in create()._generate(QUESTIONS, SETTINGS)]


def test_beams_and_a_bias_on_answers_begin_after_the_prompt(
    create: Callable[..., SteeredVlm], tmp_path: Path, steered: SteeredVlm
) -> None:
    (tmp_path / "bias.yaml").write_text("three: 1000\n")
    lm = create(answer_bias=str(tmp_path / "bias.yaml"))
    assert all(result.text.startswith("t") for result in lm._generate(QUESTIONS, SETTINGS))
    assert len(steered._generate(QUESTIONS, {**SETTINGS, "num_beams": 3})) == 2


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"contrast": "vcd"}, r"contrast=vcd: .* is an encoder-decoder, which has no contrasts here"),
        ({"tokens": "image"}, "the images of a Florence2ForConditionalGeneration are in its encoder"),
        (
            {"scale": "relative"},
            "is an encoder-decoder, and the prompt of its decoder is little more than a start token",
        ),
        ({"alpha": "kl:0.1"}, "give alpha as a number, with scale=raw or scale=token"),
    ],
    ids=["contrast", "image", "relative", "budget"],
)
def test_what_is_not_defined_is_refused(
    create: Callable[..., SteeredVlm], folder: Path, args: dict[str, Any], why: str
) -> None:
    spec = {"vector": str(folder.parent / "v.safetensors"), "layer": LAYER, "tokens": "text"}
    with pytest.raises(UserError, match=why) as refused:
        create(**(args if "contrast" in args else {**spec, **args}))
    assert "\n" not in str(refused.value)


def test_norms_and_questions_without_an_image_are_refused(
    create: Callable[..., SteeredVlm], plain: tuple[Any, Any]
) -> None:
    with pytest.raises(UserError, match="on which nothing can be measured"):
        measure_norms(*plain)
    with pytest.raises(UserError, match="takes one image with every question"):
        create()._generate([("where ?", [])], SETTINGS)


def test_extraction_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    build("florence2")[0].config.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"^cannot read sentences in .*: its encoder would read them, and vectors are for its decoder$"
    ):
        Backbone(str(tmp_path))


def test_inspect_shows_the_prompt_of_the_decoder(steered: SteeredVlm) -> None:
    found = inspect_prompt(steered, QUESTIONS[0][1], QUESTIONS[0][0], alphas=[0.0, 1.0], new_tokens=2)
    assert found.tokens == ["<eos>", "<bos>"] and found.kinds == ["text"] * 2 and found.steered == [True, True]
    assert len(found.continuations) == 2


def test_a_format_may_put_a_question_into_the_decoder(create: Callable[..., SteeredVlm]) -> None:
    """Donut's questions are its decoder's prompt."""

    def in_decoder(processor: Any, questions: Any, visuals: Any, answers: Any) -> Any:  # noqa: ARG001
        batch = processor(text=[""] * len(questions), images=[list(own) for own in visuals], return_tensors="pt")
        asked = processor.tokenizer(list(questions), return_tensors="pt", padding=True, add_special_tokens=False)
        decoder = {"decoder_input_ids": asked["input_ids"], "decoder_attention_mask": asked["attention_mask"]}
        return BatchFeature({**batch, **decoder})

    lm = create(prompt_format=in_decoder)
    inputs = lm.model_inputs([QUESTIONS[0][0]], [QUESTIONS[0][1]], ["three"])
    asked = lm.tokenizer(QUESTIONS[0][0], add_special_tokens=False)["input_ids"]
    answer = lm.tokenizer("three", add_special_tokens=False)["input_ids"]
    assert inputs["decoder_input_ids"].tolist() == [[1, *asked, *answer]]
    assert inputs["labels"].tolist() == [[-100] * (1 + len(asked)) + answer]
    with pytest.raises(UserError, match="have different lengths in one batch: use batch_size=1"):
        lm._generate(QUESTIONS, SETTINGS)


def test_an_encoder_that_is_padded_on_the_left_is_refused(plain: tuple[Any, Any]) -> None:
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}
    with pytest.raises(UserError, match="pads its encoder on the left: use batch_size=1"):
        with_decoder_part(plain[0], batch, None, 0)


def test_a_cell_of_a_search_is_the_model_with_hooks_and_its_slope_is_the_difference(
    create: Callable[..., SteeredVlm],
) -> None:
    lm = create()
    batch = [Question(0, "where ?", [picture(0)], ("three", "dog", "left"), 1, {})]
    inputs, scorer = lm.model_inputs(["where ?"], [[picture(0)]]), LetterScorer(lm, batch)
    hooked, v = HookedBatch(lm.model, inputs), torch.from_numpy(V[LAYER]).float()
    with torch.no_grad(), added(lm.model, ALPHA):
        expected = lm.model(**inputs).logits[:, -1]
    assert torch.allclose(hooked.steer(LAYER, ALPHA * v, "text"), expected, atol=1e-5)
    assert not torch.allclose(hooked.base, expected, atol=1e-2)
    _, slopes = margin_slopes(lm, {"v": V}, [Cell("v", LAYER, 1.0, "text")], None, batch)
    up, down = (scorer.margin(hooked.steer(LAYER, step * v, "text")) for step in (0.03, -0.03))
    found = (up - down) / 0.06
    assert float(slopes["v", LAYER, "text"]) == pytest.approx(float(found), rel=0.05)


def test_lm_eval_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    from lmms_steer.harness.lm_eval import SteeredHFLM

    build("florence2")[0].config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is an encoder-decoder: evaluate it with lmms-eval --model steered_hf$"):
        SteeredHFLM(pretrained=str(tmp_path))


@pytest.mark.slow
def test_lmms_eval_generates_and_scores_what_plain_transformers_does(
    steered: SteeredVlm, folder: Path, plain: tuple[Any, Any]
) -> None:
    from lmms_eval.evaluator import simple_evaluate

    spec = f"vector={folder.parent / 'v.safetensors'},layer={LAYER},alpha={ALPHA},tokens=text,phase=all"
    results = simple_evaluate(
        model="steered_hf", model_args=f"pretrained={folder},{spec}", tasks=["tiny_spatial", "tiny_spatial_ll"],
        task_manager=task_manager(), batch_size=4, limit=6, log_samples=True, bootstrap_iters=0,
        gen_kwargs=f"max_new_tokens={NEW},min_new_tokens={NEW}",
    )  # fmt: skip
    assert results["steering"]["spec"] == str(steered.resolved.spec)
    generated, scored = (results["samples"][task] for task in ("tiny_spatial", "tiny_spatial_ll"))
    assert len(generated) == len(scored) == 6
    questions, tokenizer = load_question_set("spatial", "test"), plain[1].tokenizer
    with added(plain[0], ALPHA):
        for sample, ranked in zip(generated, scored, strict=True):
            asked = questions[sample["doc_id"]]
            shown = asked["question"], [asked["image"].convert("RGB")]
            assert sample["arguments"][0] == asked["question"]
            ids, _ = written(plain, *shown, None)
            assert sample["filtered_resps"] == [tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0]]
            for choice, (loss, _) in zip(asked["choices"], ranked["filtered_resps"], strict=True):
                words = tokenizer(choice, add_special_tokens=False)["input_ids"]
                _, logits = written(plain, *shown, words)
                expected = -float(logits.log_softmax(-1)[range(len(words)), words].mean())
                assert float(loss) == pytest.approx(expected, abs=1e-3)
