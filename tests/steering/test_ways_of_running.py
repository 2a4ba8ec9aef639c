"""However a model is run, the steered positions are those that the prompt's length gives, or the run is refused."""

import os
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import QuantizedLayer

from lmms_steer import steer
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of
from tests.steering.reference import V, line, logits

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
SPECIAL = (0, 1, 2)
NEW = 4
EXAMPLES = int(os.environ.get("LMMS_STEER_EXAMPLES", "80"))
GENERATE = {"max_new_tokens": NEW, "min_new_tokens": NEW, "return_dict_in_generate": True, "output_logits": True}


class LosslessLayer(QuantizedLayer):  # type: ignore[misc]
    """transformers' quantised cache without its loss of precision, which no reference could repeat."""

    def _quantize(self, tensor: Any, axis: int) -> Any:
        return tensor

    def _dequantize(self, q_tensor: Any) -> Any:
        return q_tensor


def lossless_cache(model: Any) -> Any:
    cache = DynamicCache()
    cache.layers = [LosslessLayer(residual_length=4) for _ in range(model.config.num_hidden_layers)]
    return cache


def llama(layers: int = 4) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": layers})).eval()


def gemma2() -> Any:
    """Every other layer sees four positions only."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=12, query_pre_attn_scalar=12, sliding_window=4)).eval()


@lru_cache
def made(name: str) -> tuple[Any, Any]:
    """(model, processor); no fixture, because hypothesis would print the models of a failed example."""
    return build("llava") if name == "llava" else ({"llama": llama, "gemma2": gemma2}[name](), None)


def text_prompts(rows: int, width: int, seed: int) -> dict[str, Any]:
    """Left-padded prompts of different lengths; ids repeat, so that prompt lookup finds candidates."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 9, (rows, width), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        padded = int(torch.randint(0, width - 1, (1,), generator=draw))
        ids[row, :padded], mask[row, :padded] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


TOKENS = ("image", "text", "both", "last", "text_paper", "both_paper")
ASSISTED = ("lookup", "assistant")


def possible(name: str, cache: str, decoding: str, chunk: int | None) -> bool:
    """Whether transformers can generate in this way."""
    if decoding in ASSISTED and (cache != "dynamic" or chunk):
        return False
    if cache == "quantised":
        # it is not reordered for beams
        return name == "llama" and decoding != "beams"
    return not (chunk and (cache == "none" or name == "llava"))


WAYS = [
    way
    for way in product(
        ("llama", "gemma2", "llava"),
        ("dynamic", "static", "quantised", "none"),
        ("greedy", "sampling", "beams", "several", *ASSISTED),
        (None, 1, 3, 5),
    )
    if possible(*way)
]


@settings(deadline=None, derandomize=True, max_examples=EXAMPLES)
@given(
    way=st.sampled_from(WAYS),
    tokens=st.sampled_from(TOKENS),
    phase=st.sampled_from(["prefill", "decode", "all"]),
    rows=st.integers(1, 3),
    width=st.integers(2, 12),
    seed=st.integers(0, 1000),
)
def test_generate_steers_what_an_uncached_reference_steers(
    way: tuple[str, str, str, int | None], tokens: str, phase: str, rows: int, width: int, seed: int
) -> None:
    name, cache, decoding, chunk = way
    assume(not (tokens == "image" and (phase == "decode" or name != "llava")))
    model, processor = made(name)
    rows = 1 if decoding in ASSISTED else rows
    if name == "llava":
        batch = batch_of(name, processor, *("where is it ?", "how many red cats are there ?")[: min(rows, 2)])
    else:
        batch = text_prompts(rows, width, seed)
    options: dict[str, Any] = dict(GENERATE)
    copies = 3 if decoding in ("beams", "several") else 1
    match cache:
        case "static":
            options["cache_implementation"] = "static"
        case "quantised":
            options["past_key_values"] = lossless_cache(model)
        case "none":
            options["use_cache"] = False
    match decoding:
        case "sampling":
            options |= {"do_sample": True, "top_k": 20}
        case "beams":
            options |= {"num_beams": 3, "num_return_sequences": 3, "output_scores": True, "length_penalty": 0.0}
        case "several":
            options |= {"do_sample": True, "num_return_sequences": 3, "top_k": 0}
        case "lookup":
            options |= {"prompt_lookup_num_tokens": 2}
        case "assistant":
            options |= {"assistant_model": llama(), "do_sample": False}
    if chunk:
        options["prefill_chunk_size"] = chunk
    special = SPECIAL if name != "llava" else processor.tokenizer.all_special_ids
    if name == "llava":
        # a sampled image token would stand for features that there are none of
        options["bad_words_ids"] = [[model.config.image_token_id]]
    torch.manual_seed(seed)
    with steer(model, line(tokens, phase), {"v": V}, special_ids=special):
        output = model.generate(**batch, **options)
    expected = logits(model, batch, output.sequences, tokens, phase, special, copies)
    if decoding == "beams":
        chosen = _without(expected, 1, *([model.config.image_token_id] if name == "llava" else []))
        scores = chosen.gather(-1, output.sequences[:, -NEW:, None]).sum((1, 2))
        assert (scores - output.sequences_scores).abs().max() < 2e-3
        return
    found = torch.stack(output.logits, 1).float()
    assert (found - expected).abs().max() < 1e-3 * max(1.0, float(expected.abs().max()))


def _without(logits: torch.Tensor, *ids: int) -> torch.Tensor:
    """Log-probabilities; transformers rules ids out after it has normalised them."""
    return logits.log_softmax(-1).index_fill(-1, torch.tensor(ids), float("-inf"))
