"""A tiny random model of every multimodal architecture, made by shrinking its default config."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

LAYERS, WIDTH, VOCABULARY, IMAGE = 4, 64, 512, 7
"""Of every model; `IMAGE` is the id of its image placeholder."""
QUERIES = 3
"""Image tokens of a prompt, in the models whose config fixes their number."""
VIDEO, AUDIO, START, END = 5, 6, 3, 4
"""The ids of its video and audio placeholders, and of the tokens around a video; `START` begins a decoder's text."""
ARCHITECTURES = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
AUDIO_ONLY = ("audioflamingo3", "musicflamingo")
"""Architectures of `AutoModelForSeq2SeqLM` that are decoder-only."""
MULTIMODAL = tuple(name for name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES if name not in ARCHITECTURES) + AUDIO_ONLY
"""Architectures that `AutoModelForImageTextToText` does not load."""

_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "n_embd", "dim", "out_hidden_size", "hidden_dim"), WIDTH),
    **dict.fromkeys(
        ("word_embed_proj_dim", "text_hidden_size", "projection_dim", "projector_hidden_size", "proj_hidden_size"),
        WIDTH,
    ),
    **dict.fromkeys(("encoder_hidden_size", "embedding_dim", "text_embed_dim", "vision_hidden_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "decoder_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("num_query_tokens", "latent_query_num"), QUERIES),
    **dict.fromkeys(("depth", "n_layers"), 2),
    "num_decoder_layers": LAYERS,
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "attention_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "global_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "mlp_dim", "n_inner"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("hidden_size_per_layer_input", "qk_head_dim"), 16),
    "sliding_window": 64,
    "max_position_embeddings": 512,
}
_IDS = {
    **dict.fromkeys(("image_token_id", "image_token_index", "image_patch_id"), IMAGE),
    **dict.fromkeys(("video_token_id", "video_token_index"), VIDEO),
    **dict.fromkeys(("audio_token_id", "audio_token_index"), AUDIO),
    "video_start_token_id": START,
    "video_end_token_id": END,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GLM: dict[str, Any] = {"rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}
_MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl"), _GLM),
    "glm4v_moe": {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}},
    "cohere_compass": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "deepseek_ocr2": {"mlp_layer_types": ["dense"] + ["sparse"] * (LAYERS - 1), "num_experts_per_tok": 2},
    "ernie4_5_vl_moe": {"rope_parameters": {**_ROPE, "mrope_section": [3, 3, 2]}},
    "granite4_vision": {"deepstack_layer_map": [], "downsample_rate": "1/2"},
    "hunyuan_vl": {"head_dim": 16, "rope_parameters": {**_ROPE, "mrope_section": [2, 2, 2, 2]}},
    "step3p7": {"sliding_window": 64},
    **dict.fromkeys(("kosmos-2", "kosmos-2.5"), {"layers": LAYERS, "pad_token_id": 0, "bos_token_id": 2}),
    "qwen2_5_omni_thinker": {**_GLM, "vision_start_token_id": 20},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 20},
    "mistral4": {"qk_rope_head_dim": 8},
    "pix2struct": {"is_decoder": True, "d_kv": 16},
    "pp_formulanet": {"decoder_hidden_size": WIDTH},
    "t5gemma2": {"mm_tokens_per_image": 49},
    "vision-encoder-decoder": {"is_decoder": True, "add_cross_attention": True},
}
"""Fields that an architecture's default config leaves open, or that depend on other sizes."""
_SWA = {"head_dim": 32, "qk_nope_head_dim": 16, "v_head_dim": 16, "q_lora_rank": 32, "kv_lora_rank": 32}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
_MADE_WITH: dict[str, dict[str, Any]] = {
    "dots3_note": {
        "text_config": {
            **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
            **{f"swa_{name}": size for name, size in (_SWA | _HEADS).items()},
        }
    },
    "florence2": {
        "vision_config": {
            "embed_dim": [16, 32, 48, WIDTH],
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 3, 4],
            "num_groups": [1, 2, 3, 4],
            "window_size": 4,
        }
    },
    "idefics": {"alpha_initializer": "ones", "vision_config": {"image_size": 28}},
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"embed_dim": WIDTH, "depth": 1, "num_heads": 4},
        }
    },
    "pp_formulanet": {
        "vision_config": {"image_size": 128, "post_conv_mid_channels": WIDTH, "post_conv_out_channels": 96}
    },
}
"""Sizes from which a config works out others when it is made."""


def model(architecture: str, **changes: Any) -> Any:
    """A random model in float32 and eval mode; the same weights every time.

    Args:
        architecture: a `model_type`.
        **changes: fields of the text config.
    """
    config = small_config(architecture)
    for name, value in changes.items():
        setattr(config.get_text_config(decoder=True), name, value)
    torch.manual_seed(0)
    loader = AutoModelForImageTextToText if architecture in ARCHITECTURES else AutoModelForMultimodalLM
    loader = AutoModelForSeq2SeqLM if architecture in AUDIO_ONLY else loader
    made = loader.from_config(config).float().eval()
    if config.is_encoder_decoder:
        made.generation_config.decoder_start_token_id = START
    return made


def encoder_inputs(made: Any, seeds: Sequence[int]) -> dict[str, Tensor]:
    """What the encoder of an encoder-decoder takes: a question with a picture, or a picture.

    Args:
        made: the model.
        seeds: of each row, which is the same in every batch.
    """
    rows = [_ENCODED[made.config.model_type](torch.Generator().manual_seed(seed)) for seed in seeds]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _pixels(random: torch.Generator, side: int = 224) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, side, side, generator=random)}


def _question(random: torch.Generator, images: int = 0) -> dict[str, Tensor]:
    ids = torch.cat([torch.full((images,), IMAGE), torch.randint(50, VOCABULARY, (6,), generator=random)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _patches(random: torch.Generator) -> dict[str, Tensor]:
    places = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 5)).float()
    return {
        "flattened_patches": torch.cat([places, torch.randn(16, 768, generator=random)], 1),
        "attention_mask": torch.ones(16),
    }


def _page(random: torch.Generator) -> dict[str, Tensor]:
    corners = torch.rand(6, 4, generator=random) / 2
    corners[:, 2:] += corners[:, :2]
    return {**_question(random), "bbox": corners, **_pixels(random)}


_ENCODED: dict[str, Callable[[torch.Generator], dict[str, Tensor]]] = {
    "florence2": lambda random: {**_question(random, 5), **_pixels(random, 64)},
    "pix2struct": _patches,
    "pp_formulanet": partial(_pixels, side=128),
    "t5gemma2": lambda random: {**_question(random, 49), **_pixels(random)},
    "udop": _page,
    "vision-encoder-decoder": _pixels,
}
"""`model_type` of an encoder-decoder ▸ one row of its encoder's input."""


def inputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """The arguments of a model's forward: ids, their mask (0 is padding), and what else its architecture needs.

    Args:
        model: of any architecture.
        ids: [batch, positions]; `IMAGE` is an image token, of which each row has `QUERIES` where the model counts them.
            Of an encoder-decoder they are the decoder's, and a row's second one determines what its encoder takes.
    """
    if model.config.is_encoder_decoder:
        mask = (ids != 0).long()
        return {**encoder_inputs(model, ids[:, 1].tolist()), "decoder_input_ids": ids, "decoder_attention_mask": mask}
    config, kind = model.config, model.config.model_type
    vision: Any = getattr(config, "vision_config", None)
    drawn = torch.Generator().manual_seed(0)
    found = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    # every row has the same picture
    of_picture: dict[str, Tensor] = {}
    if kind in ("blip-2", "idefics", "instructblip", "instructblipvideo", "kosmos-2"):
        images = [1] if kind in ("idefics", "instructblipvideo") else []
        of_picture["pixel_values"] = torch.rand(1, *images, 3, vision.image_size, vision.image_size, generator=drawn)
    if kind == "kosmos-2.5":
        places = torch.arange(1.0, 9).view(1, 4, 2)
        patches = torch.rand(1, 4, vision.patch_embed_hidden_size, generator=drawn)
        of_picture["flattened_patches"] = torch.cat([places, patches], -1)
    if kind.startswith("instructblip"):
        of_picture["qformer_input_ids"] = torch.tensor([[9, 10]])
    if kind == "idefics":
        found["image_attention_mask"] = torch.ones(*ids.shape, 1, dtype=torch.long)
    if kind.startswith("kosmos"):
        # ids under the mask say nothing: these are its processor's
        found["input_ids"] = torch.where(ids == IMAGE, 20 + torch.arange(ids.shape[1]), ids)
        found["image_embeds_position_mask"] = (ids == IMAGE).long()
    return found | {name: value.expand(len(ids), *value.shape[1:]) for name, value in of_picture.items()}


def small_config(architecture: str) -> Any:
    """The architecture's default config with every size in it made small."""
    config = CONFIG_MAPPING[architecture](**_MADE_WITH.get(architecture, {}))
    for part in parts(config):
        _shrink(part)
    if hasattr(config, "thinker_config"):
        config.thinker_config = small_config(f"{architecture}_thinker")
        config.enable_audio_output = False
    for name, value in _MORE.get(architecture, {}).items():
        own = name in vars(config) or name == "vision_start_token_id"
        text = config.get_text_config(decoder=True)
        owners = [part for part in (text, *parts(config)) if name in vars(part)] or [text]
        setattr(config if own and name != "head_dim" else owners[0], name, value)
    return config


def parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """A config and the configs inside of it."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from parts(value)


def _shrink(config: Any) -> None:
    fields = {name: value for name, value in vars(config).items() if not isinstance(value, PretrainedConfig)}
    for name, value in fields.items():
        if isinstance(value, int) and not isinstance(value, bool):
            if name in _SIZES and value > _SIZES[name]:
                setattr(config, name, _SIZES[name])
            elif "vocab" in name and value > VOCABULARY:
                setattr(config, name, VOCABULARY)
            elif name in _IDS:
                setattr(config, name, _IDS[name])
            elif name.endswith(("_token_id", "_token_index", "_id")) and value >= VOCABULARY:
                setattr(config, name, 8 + sum(map(ord, name)) % 40)
        elif value is None and name in _IDS:
            # checkpoints name it
            setattr(config, name, _IDS[name])
        elif isinstance(value, list) and len(value) > LAYERS and name.endswith(("layer_types", "_layers", "_types")):
            setattr(config, name, _first_of_each(value) if isinstance(value[0], str) else value[:LAYERS])
        elif isinstance(value, dict):
            _shrink_sections(config, value)
    if {"kv_lora_rank", "num_key_value_heads"} <= fields.keys():
        # one key for each head
        config.num_key_value_heads = 4
    if "vocabulary_map" in fields:
        config.vocabulary_map = {"<image>": IMAGE}


def _first_of_each(types: list[str]) -> list[str]:
    """The first types, with one of each that occurs later at the end."""
    later = [kind for kind in dict.fromkeys(types) if kind not in types[:LAYERS]][: LAYERS - 1]
    return types[: LAYERS - len(later)] + later


def _shrink_sections(config: Any, rope: dict[str, Any]) -> None:
    """Make the sections of multimodal rotary embeddings add up to half of the rotated part of a head."""
    if isinstance(rope.get("mrope_section"), list):
        half = int(16 * rope.get("partial_rotary_factor", 1.0)) // 2
        parts = len(rope["mrope_section"])
        rope["mrope_section"] = [half - half // parts * (parts - 1), *[half // parts] * (parts - 1)]
    for inner in rope.values():
        if isinstance(inner, dict):
            _shrink_sections(config, inner)
