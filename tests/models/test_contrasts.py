"""Decoding contrasts against references that are written by hand: no cache, one question, one step at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lmms_steer import UserError
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.models.contrast_inputs import kept_signal, with_noise
from lmms_steer.models.contrasts import ContrastStep, contrasts, read_contrast, register_contrast
from lmms_steer.models.early_layers import read_layers
from lmms_steer.models.media import Audio
from lmms_steer.models.prompts import answer_token_ids
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, record, vectors

QUESTIONS = ("where is the red cat ?", "how many cups are on the table ?")
NAMES = ("paligemma2", "idefics3", "qwen2_5_vl")
TOKENS = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("models")
    for name in NAMES:
        model, processor = build(name)
        # larger weights than a random model's, so that images and words change which token is likeliest
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(2.5)
        model.save_pretrained(made / name)
        processor.save_pretrained(made / name)
    return {name: made / name for name in NAMES}


def load(folder: Path, **args: Any) -> SteeredVlm:
    return SteeredVlm(pretrained=str(folder), **args)


def grey(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, (128, 128, 128))


def extended(inputs: dict[str, Any], answer: list[int]) -> dict[str, Any]:
    """A prompt's inputs with tokens of the answer; PaliGemma's are a suffix, which the prompt does not see."""
    longer = dict(inputs)
    added = {"input_ids": answer, "attention_mask": [1] * len(answer), "token_type_ids": [1] * len(answer)}
    for key, value in inputs.items():
        if torch.is_tensor(value) and value.shape == inputs["input_ids"].shape:
            longer[key] = torch.cat([value, torch.tensor([added.get(key, [0] * len(answer))], dtype=value.dtype)], 1)
    return longer


@torch.no_grad()
def next_log_p(lm: SteeredVlm, inputs: dict[str, Any], answer: list[int]) -> torch.Tensor:
    logits: torch.Tensor = lm.model(**extended(inputs, answer), use_cache=False).logits[0, -1]
    return logits.double().log_softmax(-1)


def both_next(lm: SteeredVlm, both: list[Any], answer: list[int]) -> list[torch.Tensor]:
    """log p and log p' of the next token; for `sla` the logits, and the mean logits of layers 1 and 2."""
    if len(both) > 1:
        return [next_log_p(lm, inputs, answer) for inputs in both]
    inputs = extended(both[0], answer)
    outputs = record(lm.model, lambda: lm.model(**inputs, use_cache=False))
    head = lm.model.lm_head.weight.detach().double()
    early = (outputs[1][0, -1].double() + outputs[2][0, -1].double()) / 2 @ head.T
    with torch.no_grad():
        return [lm.model(**inputs, use_cache=False).logits[0, -1].double(), early]


def branches(lm: SteeredVlm, name: str, args: dict[str, Any], question: str, image: Image.Image) -> list[Any]:
    """The inputs of the plain model and of the contrasted branch for one question."""
    plain = lm.model_inputs([question], [[image]])
    if name == "sla":
        return [plain]
    if name == "icd":
        return [plain, lm.model_inputs([f"{args['contrast_text']}\n{question}"], [[image]])]
    if args["contrast_image"] == "absent":
        return [plain, lm.model_inputs([question], [[]])]
    return [plain, lm.model_inputs([question], [[grey(image)]])]


def reference(name: str, args: dict[str, Any], p: torch.Tensor, other: torch.Tensor, place: int) -> torch.Tensor:
    """The papers' formulas for one row of log-probabilities."""
    if name == "m3id":
        weight = math.exp(args["contrast_decay"] * place) - 1 if p.exp().max() < args["contrast_alpha"] else 0.0
        return p + weight * (p - other) if weight else p
    if name == "sla":
        return p * (1 - float(args["contrast_alpha"])) + other * float(args["contrast_alpha"])
    a, b = args["contrast_alpha"], args["contrast_beta"]
    scores = [
        (1 + a) * float(p[i]) - a * float(other[i]) if p[i].exp() >= b * p.exp().max() else -math.inf
        for i in range(len(p))
    ]
    return torch.tensor(scores, dtype=torch.float64)


CASES = [
    ("vcd", {"contrast_alpha": 2, "contrast_beta": 0.05, "contrast_image": "blank"}),
    ("vcd", {"contrast_alpha": 2, "contrast_beta": 0.05, "contrast_image": "absent"}),
    ("icd", {"contrast_alpha": 2, "contrast_beta": 0.05, "contrast_text": "left right dog table"}),
    ("m3id", {"contrast_alpha": 1, "contrast_decay": 0.7, "contrast_image": "blank"}),
    ("sla", {"contrast_alpha": 0.7, "contrast_layers": "1-2"}),
]


STEERED = {"layer": 1, "alpha": 6, "tokens": "image"}


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("architecture", NAMES)
def test_a_batch_is_decoded_and_scored_like_the_formula_step_by_step(
    folders: dict[str, Path], tmp_path: Path, architecture: str, number: int
) -> None:
    contrast, args = CASES[number]
    if architecture == "paligemma2" and args.get("contrast_image") == "absent":
        with pytest.raises(UserError, match="PaliGemma needs an image with every question; choose contrast_image=bl"):
            load(folders[architecture], contrast=contrast, **args)
        return
    spec: dict[str, Any] = {}
    if architecture == "idefics3":
        # its rows of both branches are steered, where they have an image
        vectors().save(tmp_path / "v.safetensors")
        spec = {"vector": str(tmp_path / "v.safetensors"), **STEERED}
    lm = load(folders[architecture], contrast=contrast, **args, **spec)
    batch = [(question, [picture(number)]) for number, question in enumerate(QUESTIONS)]
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    words = "three , or"
    tokens = answer_token_ids(lm.tokenizer, lm.prompt_end, words)
    generated = [result.text for result in lm._generate(batch, settings)]
    sampled = [result.text for result in lm._generate(batch, {**settings, "do_sample": True, "top_k": 1})]
    scored = [result.text for result in lm._score([(*question, words) for question in batch])]
    changed = 0
    for place, (question, (image,)) in enumerate(batch):
        both = branches(lm, contrast, args, question, image)
        texts = []
        for formula in (True, False):
            answer: list[int] = []
            while len(answer) < TOKENS:
                p, other = both_next(lm, both, answer)
                # `min_new_tokens` rules the end out
                p[lm.tokenizer.eos_token_id] = -math.inf
                scores = reference(contrast, args, p, other, len(answer)) if formula else p
                answer.append(int(scores.argmax()))
            texts.append(lm.tokenizer.decode(answer, skip_special_tokens=True))
        changed += texts[0] != texts[1]
        assert (generated[place], sampled[place]) == (texts[0], texts[0])
        total, best = 0.0, True
        for before, token in enumerate(tokens):
            p, other = both_next(lm, both, tokens[:before])
            scores = reference(contrast, args, p, other, before)
            total -= float(scores.log_softmax(-1)[token]) / len(tokens)
            best &= int(scores.argmax()) == token
        loss, is_greedy = scored[place]
        assert is_greedy == best
        assert loss == pytest.approx(total, rel=1e-4) if math.isfinite(total) else loss > 1000
    assert changed


def test_a_penalty_of_the_checkpoint_is_left_out_with_a_note(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    contrast, args = CASES[0]
    lm, batch = load(folders["idefics3"], contrast=contrast, **args), [(QUESTIONS[0], [picture(0)])]
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    (without,) = lm._generate(batch, settings)
    lm.model.generation_config.update(repetition_penalty=7.5, num_beams=2, no_repeat_ngram_size=1)
    caplog.set_level("INFO", "lmms_steer")
    (configured,), (again,) = lm._generate(batch, settings), lm._generate(batch, settings)
    assert configured.text == again.text == without.text
    notes = [record.message for record in caplog.records if "generation_config" in record.message]
    assert [note.split(" ")[0] for note in notes] == ["num_beams=2", "repetition_penalty=7.5", "no_repeat_ngram_size=1"]
    plain = load(folders["idefics3"])
    (before,) = plain._generate(batch, settings)
    plain.model.generation_config.update(repetition_penalty=7.5)
    assert plain._generate(batch, settings)[0].text != before.text, "the penalty would show"


def test_sampling_draws_from_the_contrasted_distribution(folders: dict[str, Path]) -> None:
    contrast, args = CASES[0]
    lm = load(folders["idefics3"], contrast=contrast, **args)
    p, other = (next_log_p(lm, one, []) for one in branches(lm, contrast, args, QUESTIONS[0], picture(0)))
    expected = (reference(contrast, args, p, other, 0) / 2).softmax(-1)
    torch.manual_seed(0)
    assert lm.contrasted is not None
    inputs = lm.contrasted.inputs([QUESTIONS[0]] * 300, [[picture(0)]] * 300)
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 1, "top_k": 0}
    chosen, criteria = lm.contrasted.generation_options(300, length)
    output = lm.model.generate(**inputs, logits_processor=chosen, stopping_criteria=criteria, **options)
    drawn = output[:300, -1].tolist()
    assert expected[drawn].min() > 0 and len(set(drawn)) > 3
    for token in expected.topk(3).indices.tolist():
        share, error = float(expected[token]), math.sqrt(float(expected[token]) / 300)
        assert drawn.count(token) / 300 == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("args", [{"contrast": name} for name in ("vcd", "icd", "m3id", "sla", "yes_bias")])
def test_alpha_0_is_the_plain_model_to_the_bit(folders: dict[str, Path], args: dict[str, Any]) -> None:
    plain, neutral = load(folders["idefics3"]), load(folders["idefics3"], **args, contrast_alpha=0)
    batch = [(question, [picture(number)]) for number, question in enumerate(QUESTIONS)]
    texts, scores = (
        [[result.text for result in run] for run in runs]
        for runs in (
            [lm._generate(batch, {"max_new_tokens": 4}) for lm in (plain, neutral)],
            [lm._score([(*question, "three") for question in batch]) for lm in (plain, neutral)],
        )
    )
    assert texts[0] == texts[1] and scores[0] == scores[1]
    assert neutral.steering_record["contrast"]["alpha"] == 0


@pytest.mark.parametrize("architecture", NAMES)
def test_noise_is_the_diffusion_of_step_500_and_depends_on_the_image_alone(
    folders: dict[str, Path], architecture: str
) -> None:
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.005 - 0.00001) + 0.00001
    kept = float(np.prod(1 - betas[:501]))
    assert kept_signal(500) == pytest.approx(kept)
    lm = load(folders[architecture])
    # the second image has more tiles or patches than the first
    images = [picture(0), Image.fromarray(np.asarray(picture(1)).repeat(2, 1)), picture(2)]
    together = lm.model_inputs(["a"] * 3, [[image] for image in images])
    alone = lm.model_inputs(["a"], [[images[2]]])
    noisy, noisy_alone = (with_noise(one, seed=3)["pixel_values"] for one in (together, alone))
    drawn = (noisy - kept**0.5 * together["pixel_values"]) / (1 - kept) ** 0.5
    real = together["pixel_values"] != 0
    assert drawn[real].mean().abs() < 0.05 and drawn[real].std() == pytest.approx(1, abs=0.05)
    last = noisy[-len(noisy_alone) :] if noisy.dim() < 5 else noisy[-1:, : noisy_alone.shape[1]]
    assert torch.equal(last, noisy_alone)
    assert not torch.equal(with_noise(alone, seed=4)["pixel_values"], noisy_alone)
    contrasted = load(folders[architecture], contrast="vcd", contrast_seed=3)
    assert contrasted.contrasted is not None
    both = contrasted.contrasted.inputs(["a"] * 3, [[image] for image in images])["pixel_values"]
    assert torch.equal(both, torch.cat([together["pixel_values"], noisy]))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"contrast": "vdc"}, "unknown contrast 'vdc': did you mean 'vcd'"),
        ({"contrast_alpha": 1}, "contrast_alpha=1 without contrast=NAME: one of vcd, icd, m3id, sla, yes_prompt"),
        ({"contrast": "icd", "contrast_image": "noise"}, "icd has no such setting; it has contrast_alpha, contrast_"),
        ({"contrast": "vcd", "contrast_image": "gray"}, "unknown contrast_image 'gray'"),
        ({"contrast": "vcd", "contrast_alpha": -1}, "contrast_alpha=-1: vcd expects a number from 0 to 10"),
        ({"contrast": "m3id", "contrast_alpha": 1.5}, "contrast_alpha=1.5: m3id expects a number from 0 to 1"),
        ({"contrast": "vcd", "contrast_beta": "many"}, "contrast_beta=many: vcd expects a number from 0 to 1"),
        ({"contrast": "vcd", "contrast_seed": 0.5}, "contrast_seed=0.5: vcd expects a whole number from 0 up"),
        ({"contrast": "vcd", "contrast_beta": float("nan")}, "contrast_beta=nan: vcd expects"),
    ],
)
def test_wrong_settings_are_one_line(args: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        read_contrast(args)
    assert "\n" not in str(caught.value)


def test_what_a_contrast_cannot_do_is_refused(folders: dict[str, Path]) -> None:
    lm = load(folders["idefics3"], contrast="vcd")
    for settings in ({"num_beams": 2}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}):
        with pytest.raises(UserError, match="is not supported with contrast=vcd: leave it out"):
            lm._generate([(QUESTIONS[0], [picture(0)])], {"max_new_tokens": 2, **settings})
    with pytest.raises(UserError, match="contrast=vcd compares with another image, and 'where is the red cat"):
        lm._generate([(QUESTIONS[0], [])], {"max_new_tokens": 2})
    sound = Audio(np.zeros(10, np.float32), 16000)
    with pytest.raises(UserError, match="noise is for images and videos, and 'where is the red cat"):
        lm._generate([(QUESTIONS[0], [sound])], {"max_new_tokens": 2})
    with pytest.raises(UserError, match="contrast_layers=1-9: expected FIRST-LAST or one layer, .* 0-3"):
        load(folders["idefics3"], contrast="sla", contrast_layers="1-9")
    with pytest.raises(UserError, match="contrast=vcd: a contrast is for evaluations with lmms-eval"):
        check_model_args("steered_hf", "pretrained=tiny-paligemma2,contrast=vcd")


def test_near_ties_become_yes_and_other_answers_stay() -> None:
    settings = read_contrast({"contrast": "yes_bias", "contrast_alpha": 0.3, "contrast_beta": 0.5})
    assert settings is not None
    # tokens: yes, Yes, no, other
    rows = [
        [0.10, 0.30, 0.45, 0.15],  # near tie: the likelier yes changes places with no
        [0.10, 0.10, 0.70, 0.10],  # no is far ahead
        [0.15, 0.05, 0.25, 0.55],  # yes and no have less than half
        [0.10, 0.30, 0.45, 0.15],  # not the first token
        [0.10, 0.50, 0.30, 0.10],  # yes already
    ]
    place = torch.tensor([0, 0, 0, 1, 0])
    step = ContrastStep(torch.tensor(rows).log(), None, place, {"yes": (0, 1), "no": (2,)})
    changed = contrasts.get("yes_bias").function(step, settings).exp()
    expected = torch.tensor([[0.10, 0.45, 0.30, 0.15], *rows[1:]])
    assert torch.allclose(changed, expected)


def test_the_mask_alone_rules_out_what_is_far_below_the_best() -> None:
    settings = read_contrast({"contrast": "plausibility", "contrast_beta": 0.5})
    assert settings is not None
    step = ContrastStep(torch.tensor([[0.5, 0.26, 0.24]]).log(), None, torch.tensor([0]))
    assert contrasts.get("plausibility").function(step, settings).softmax(-1)[0].tolist() == pytest.approx(
        [0.5 / 0.76, 0.26 / 0.76, 0]
    )


def test_the_yes_prompt_is_the_question_with_its_text(folders: dict[str, Path]) -> None:
    batch = [(question, [picture(number)]) for number, question in enumerate(QUESTIONS)]
    asked = [(f"{question} three dogs", visuals) for question, visuals in batch]
    plain = load(folders["idefics3"])
    prompted = load(folders["idefics3"], contrast="yes_prompt", contrast_text="three dogs")
    expected, found = (
        [result.text for result in (*lm._generate(one, {"max_new_tokens": 4}), *lm._score([(*q, "cat") for q in one]))]
        for lm, one in ((plain, asked), (prompted, batch))
    )
    assert found == expected
    assert prompted.steering_record["contrast"] == {"name": "yes_prompt", "text": "three dogs", "control": True}


def test_layers_are_read_at_vistas_depth() -> None:
    assert (
        read_layers("", 32) == range(25, 31)
        and read_layers("", 5) == range(3, 4)
        and read_layers("2", 5) == range(2, 3)
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda step, _: (step.logits - 1e9).exp().log() * 0, "nan or infinity: rule tokens out with minus infinity"),
        (lambda step, _: step.logits / 0, "nan or infinity"),
        (lambda step, _: step.logits[..., 0], r"shape \[\d+\] for logits of shape \[\d+, \d+\]"),
        (lambda step, _: step.logits.detach().numpy(), "a ndarray for logits of shape"),
        (lambda _, __: None, "a NoneType for logits of shape"),
    ],
)
def test_what_a_contrast_of_ones_own_returns_is_checked(
    folders: dict[str, Path], function: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrasts, "_entries", dict(contrasts.entries()))
    register_contrast("mine", description="d", defaults={}, neutral="")(function)
    lm = load(folders["paligemma2"], contrast="mine")
    with pytest.raises(UserError, match=f"^contrast=mine returned {message}"):
        lm._generate([(QUESTIONS[0], [picture(0)])], {"max_new_tokens": 2})
    with pytest.raises(UserError, match=f"^contrast=mine returned {message}"):
        lm._score([(QUESTIONS[0], [picture(0)], "three")])


def test_a_contrast_of_ones_own_may_rule_tokens_out(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "_entries", dict(contrasts.entries()))

    def even(step: ContrastStep, _: Any) -> torch.Tensor:
        odd = torch.arange(step.logits.shape[-1]) % 2 == 1
        return step.logits.masked_fill(odd, -math.inf)

    register_contrast("mine", description="d", defaults={}, neutral="")(even)
    lm = load(folders["paligemma2"], contrast="mine")
    (result,) = lm._generate([(QUESTIONS[0], [picture(0)])], {"max_new_tokens": 4})
    assert all(token % 2 == 0 for token in lm.tokenizer(result.text, add_special_tokens=False)["input_ids"])


def test_a_contrast_of_ones_own_must_name_known_settings() -> None:
    cases: list[dict[str, Any]] = [
        {"defaults": {"gamma": 1.0}, "neutral": ""},
        {"defaults": {"beta": 1.0}},
        {"branch": "sound"},
    ]
    for wrong in cases:
        arguments: dict[str, Any] = {"defaults": {"alpha": 1.0}, **wrong}
        with pytest.raises(ValueError, match="contrast 'mine': unknown setting or branch"):
            register_contrast("mine", description="d", **arguments)
    with pytest.raises(ValueError, match="contrast 'vcd' is already registered"):
        register_contrast("vcd", description="d", defaults={"alpha": 1.0})(lambda step, settings: step.logits)
