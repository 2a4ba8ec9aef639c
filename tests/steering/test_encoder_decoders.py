"""Encoder-decoders are steered in their decoder: at the positions of its prompt, or of what it writes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, BartConfig, DonutSwinConfig, GPT2Config, T5Config, TrOCRConfig

from lmms_steer import SteeringError, UserError, continuation, steer
from lmms_steer.replay.engine import try_replay
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.steering.anatomy import decoder_layers, kept_logits, model_facts
from lmms_steer.steering.recording import record_layers
from lmms_steer.steering.sites import find_module, sites
from lmms_steer.steering.support import ENCODER_DECODERS, check_config
from tests.helpers.architectures import LAYERS, START, VOCABULARY, WIDTH, encoder_inputs, model, small_config
from tests.helpers.models import vectors
from tests.support_matrix import layers_of, row

LAYER, ALPHA, BOS = 1, 2.0, 9
V = vectors(LAYERS, WIDTH, scale=0.5)
SPEC = f"vector=v,layer={LAYER},alpha={ALPHA},tokens=text"
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def florence() -> Any:
    return model("florence2")


@contextmanager
def added(layer: Any, start: int, end: int | None, row: int | None = None) -> Iterator[None]:
    """Add the vector at some positions of a model that runs without a cache, in every call, in one row or in all."""
    rows = slice(None) if row is None else slice(row, row + 1)
    v = torch.from_numpy(V[LAYER]).float()

    def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[rows, start:end] += ALPHA * v
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def generated(made: Any, steered: str | None, **options: Any) -> tuple[Tensor, Tensor]:
    """Sequences, and the logits of every step."""
    settings = {**GREEDY, "return_dict_in_generate": True, "output_logits": True, **options}
    if steered is None:
        output = made.generate(**settings, use_cache=False)
    else:
        with steer(made, steered, {"v": V}):
            output = made.generate(**settings)
    return output.sequences, torch.stack(output.logits)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_an_encoder_decoder_is_steered_as_a_reference_steers_it(architecture: str) -> None:
    cells = row(architecture)
    assert {name for name, cell in cells.items() if cell != "exact"} == {"image", "replay"}, cells
    assert cells["image"].startswith("refused: ") and cells["replay"].startswith("hooks: ")


@pytest.mark.parametrize("architecture", ["florence2", "t5gemma2"])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=["greedy", "beams", "returned"]
)
@pytest.mark.parametrize("phase", ["prefill", "decode", "all"])
def test_generate_steers_the_start_token_and_what_follows(
    architecture: str, options: dict[str, Any], phase: str
) -> None:
    made = model(architecture)
    inputs: dict[str, Any] = encoder_inputs(made, (1, 2))
    start, end = {"prefill": (0, 1), "decode": (1, None), "all": (0, None)}[phase]
    with added(layers_of(made)[LAYER], start, end):
        expected = generated(made, None, **inputs, **options)
    found = generated(made, f"{SPEC},phase={phase}", **inputs, **options)
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], atol=1e-4)
    assert not torch.allclose(found[1], generated(made, None, **inputs, **options)[1], atol=1e-2)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("tokens", "start"), [("text", 0), ("last", 1)])
def test_a_token_that_the_model_must_begin_with_is_a_part_of_the_prompt(
    florence: Any, beams: int, tokens: str, start: int
) -> None:
    options: dict[str, Any] = {"forced_bos_token_id": BOS, "num_beams": beams, **encoder_inputs(florence, (1, 2))}
    with added(layers_of(florence)[LAYER], start, 2):
        expected = generated(florence, None, **options)
    found = generated(florence, SPEC.replace("text", tokens), **options)
    assert torch.equal(found[0], expected[0]) and bool((found[0][:, 1] == BOS).all())
    assert torch.allclose(found[1], expected[1], atol=1e-4)


@pytest.mark.parametrize("given", [[[START, 60, 61]] * 2, [[60, 61]] * 2, [[START, 60], [61, 62]]])
def test_the_prompt_is_what_generate_makes_of_the_given_decoder_ids(florence: Any, given: list[list[int]]) -> None:
    options: dict[str, Any] = {"decoder_input_ids": torch.tensor(given), **encoder_inputs(florence, (1, 2))}
    ends = 3 if given[0] != [START, 60] else 2
    with added(layers_of(florence)[LAYER], 0, ends):
        expected = generated(florence, None, forced_bos_token_id=BOS, **options)
    found = generated(florence, SPEC, forced_bos_token_id=BOS, **options)
    assert found[0].shape[1] == ends + GREEDY["max_new_tokens"]
    assert torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], atol=1e-4)


@pytest.mark.parametrize("phase", ["prefill", "decode", "all"])
@pytest.mark.parametrize(
    "way",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prefill_chunk_size": 2},
        {"prompt_lookup_num_tokens": 2},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=["static", "no-cache", "chunks", "lookup", "sampled"],
)
def test_it_does_not_matter_how_the_decoder_is_called_on_the_way(
    florence: Any, way: dict[str, Any], phase: str
) -> None:
    inputs: dict[str, Any] = {
        **encoder_inputs(florence, (1,)),
        "decoder_input_ids": torch.tensor([[START, 6, 8, 6, 8]]),
    }
    start, end = {"prefill": (0, 5), "decode": (5, None), "all": (0, None)}[phase]
    plainly = way if "do_sample" in way else {}
    torch.manual_seed(0)
    with added(layers_of(florence)[LAYER], start, end):
        expected = generated(florence, None, **inputs, **plainly)
    torch.manual_seed(0)
    found = generated(florence, f"{SPEC},phase={phase}", **inputs, **way)
    steps = min(len(found[1]), len(expected[1]))
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1][:steps], expected[1][:steps], atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_gate_decides_for_each_prompt_by_what_its_decoder_read_of_the_encoder(florence: Any, beams: int) -> None:
    inputs, v = encoder_inputs(florence, (1, 2)), torch.from_numpy(V[LAYER]).float()
    with torch.no_grad(), record_layers(florence) as outputs:
        florence(**inputs, decoder_input_ids=torch.tensor([[START]] * 2))
    cosines = torch.nn.functional.cosine_similarity(outputs[LAYER][:, -1], v, dim=-1)
    fires, threshold = int(cosines.argmax()), float(cosines.mean())
    rows = [fires * beams + beam for beam in range(beams)]
    with ExitStack() as stack:
        for number in rows:
            stack.enter_context(added(layers_of(florence)[LAYER], 0, None, number))
        expected = generated(florence, None, **inputs, num_beams=beams)
    gate = f"gate=cosine,read=last,threshold={threshold}"
    found = generated(florence, f"{SPEC},phase=all,{gate}", **inputs, num_beams=beams)
    assert torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], atol=1e-4)


@pytest.mark.parametrize(("tokens", "rows"), [("text", [[0, 1, 2, 3], [2, 3]]), ("last", [[3], [3]])])
def test_padding_of_the_decoder_is_not_steered(tokens: str, rows: list[list[int]]) -> None:
    made = model("t5gemma2")
    batch: dict[str, Any] = {
        **encoder_inputs(made, (1, 2)),
        "decoder_input_ids": torch.tensor([[START, 61, 62, 63], [0, 0, START, 60]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
    }
    with ExitStack() as stack:
        for row_number, columns in enumerate(rows):
            for column in columns:
                stack.enter_context(added(layers_of(made)[LAYER], column, column + 1, row_number))
        expected = generated(made, None, **batch)
    spec = SPEC.replace("text", tokens)
    found = generated(made, spec, **batch)
    assert torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], atol=1e-4)
    with record_layers(made) as before:
        made.generate(**batch, **GREEDY)
    with steer(made, spec, {"v": V}), record_layers(made) as after:
        made.generate(**batch, **GREEDY)
    changed = (before[LAYER] != after[LAYER]).any(-1)
    assert [row.nonzero().flatten().tolist() for row in changed] == rows


@pytest.mark.parametrize(
    ("decoder", "path"),
    [
        (GPT2Config(n_embd=64, n_layer=4, n_head=4, vocab_size=512), "transformer.h"),
        (BartConfig(d_model=64, decoder_layers=4, encoder_layers=9, vocab_size=512), "model.decoder.layers"),
        (TrOCRConfig(d_model=64, decoder_layers=4, vocab_size=512), "model.decoder.layers"),
    ],
    ids=["gpt2", "bart", "trocr"],
)
def test_the_decoder_of_a_vision_encoder_decoder_may_be_of_any_kind(decoder: Any, path: str) -> None:
    decoder.is_decoder = decoder.add_cross_attention = True
    decoder.is_encoder_decoder = False
    for name in ("decoder_ffn_dim", "max_position_embeddings"):
        if hasattr(decoder, name):
            setattr(decoder, name, 96)
    config = small_config("vision-encoder-decoder")
    config.decoder = decoder
    torch.manual_seed(0)
    made = AutoModelForImageTextToText.from_config(config).eval()
    assert decoder_layers(made) is made.decoder.get_submodule(path)
    assert (model_facts(made).n_layers, model_facts(made).hidden_size) == (4, 64)
    pixels, ids = encoder_inputs(made, (1, 2))["pixel_values"], torch.tensor([[START, 60, 61]] * 2)
    with torch.no_grad():
        with added(made.decoder.get_submodule(path)[LAYER], 0, 2):
            expected = made(pixels, ids, use_cache=False).logits
        with steer(made, SPEC, {"v": V}), continuation(1):
            found = made(pixels, ids, use_cache=False).logits
        unsteered = made(pixels, ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, unsteered, atol=1e-2)


def test_donut_is_given_the_prompt_of_its_decoder_as_it_is() -> None:
    swin = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    config = small_config("vision-encoder-decoder")
    config.encoder = DonutSwinConfig(**swin)
    torch.manual_seed(0)
    made = AutoModelForImageTextToText.from_config(config).eval()
    made.generation_config.decoder_start_token_id = START
    inputs: dict[str, Any] = {
        "pixel_values": torch.randn(2, 3, 32, 32),
        "decoder_input_ids": torch.tensor([[60, 61]] * 2),
    }
    with added(layers_of(made)[LAYER], 0, 2):
        expected = generated(made, None, **inputs)
    found = generated(made, SPEC, **inputs)
    assert found[0].shape == (2, 6) and torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], atol=1e-4)
    # its encoder takes no argument that it does not know
    assert not kept_logits(made, 1) and kept_logits(model("florence2"), 1) == {"logits_to_keep": 1}


@pytest.mark.parametrize("architecture", ["florence2", "udop"])
def test_the_encoder_is_never_steered(architecture: str) -> None:
    made = model(architecture)
    inputs = {**encoder_inputs(made, (1, 2)), "decoder_input_ids": torch.tensor([[START, 60]] * 2)}
    seen: list[Tensor] = []
    handle = made.get_encoder().register_forward_hook(lambda module, args, output: seen.append(output[0]))  # noqa: ARG005
    with torch.no_grad():
        made(**inputs)
        with steer(made, f"{SPEC},phase=all,alpha=50".replace(f"alpha={ALPHA},", ""), {"v": V}):
            made(**inputs)
            made.generate(**inputs, **GREEDY)
    handle.remove()
    assert len(seen) == 3 and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_layers_are_counted_in_the_decoder() -> None:
    made = model("florence2", encoder_layers=2, decoder_layers=3)
    assert len(decoder_layers(made)) == model_facts(made).n_layers == 3
    with (
        pytest.raises(UserError, match=r"^layer=3: .* has the layers 0-2$"),
        steer(made, SPEC.replace(f"layer={LAYER}", "layer=3"), {"v": V}),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"labels": torch.ones(2, 3, dtype=torch.long)}, "made from labels inside the model"),
        ({"decoder_inputs_embeds": torch.zeros(2, 3, WIDTH)}, "not known"),
        ({}, "not known"),
    ],
    ids=["labels", "embeddings", "none"],
)
def test_a_call_without_the_ids_of_the_decoder_is_refused(florence: Any, given: dict[str, Tensor], why: str) -> None:
    name = "Florence2ForConditionalGeneration"
    with pytest.raises(SteeringError) as refused, steer(florence, SPEC, {"v": V}):
        florence(**encoder_inputs(florence, (1, 2)), **given)
    assert str(refused.value) == f"a {name} is steered in its decoder, whose ids are {why}: pass decoder_input_ids"


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_tokens_of_media_are_refused(florence: Any, kind: str) -> None:
    with (
        pytest.raises(UserError, match=r"are in its encoder, and its decoder is steered, choose tokens=text$"),
        steer(florence, SPEC.replace("text", kind), {"v": V}),
    ):
        pass


@pytest.mark.parametrize(
    ("architecture", "site"), [("pix2struct", "attention"), ("udop", "mlp"), ("florence2", "mlp"), ("udop", "vision")]
)
def test_sites_that_are_not_known_are_refused(architecture: str, site: str) -> None:
    spec = SPEC.replace(",tokens=text", "") if site == "vision" else SPEC
    with pytest.raises(UserError, match=f"^site={site}: "), steer(model(architecture), f"{spec},site={site}", {"v": V}):
        pass


def test_the_mlp_of_pix2struct_is_what_is_added() -> None:
    layers = decoder_layers(model("pix2struct"))
    assert find_module(sites.get("mlp"), layers, LAYER) is layers[LAYER].get_submodule("mlp.DenseReluDense")


def test_generate_without_what_the_encoder_reads_is_refused(florence: Any) -> None:
    with (
        pytest.raises(SteeringError, match="without input_ids, so that the decoder's prompt is not known"),
        steer(florence, SPEC, {"v": V}),
    ):
        florence.generate(decoder_input_ids=torch.tensor([[START]]), **GREEDY)


def test_a_replay_and_a_text_model_are_refused_in_words(florence: Any) -> None:
    found, why = try_replay(florence, {}, ReplayOptions(targets=("text",)))
    assert found is None and why == "its decoder also reads an encoder, which a replay does not run"
    with pytest.raises(UserError, match=r"^cannot steer it \(t5\): it is an encoder-decoder, and of those only"):
        check_config(T5Config(vocab_size=VOCABULARY), "it")
