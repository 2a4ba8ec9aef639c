"""Shapes of models: their parameters, and the operations and the memory of a forward pass. No model is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import unknown_name
from lmms_steer.vectors.backbones import checkpoint, short_name

_PATCH_VALUES = 3 * 14 * 14
"""Values of a patch."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        name: as in `costs.yaml`.
        flops: peak of dense bfloat16 products, in operations a second.
        bandwidth: of its memory, in bytes a second.
        memory: bytes.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's shape; widths are numbers of values.

    Attributes:
        layers, width, mlp, heads, kv_heads, head, vocabulary: of the text model; `head` is the width of one head.
        norms: normalisations in a layer.
        tied: whether the output embedding is the input embedding.
        stored: bytes of a weight on the Hub.
        sae: features of one layer's SAE, and bytes of a weight there; None without SAEs.
        crops, patches: an image's crops, and the positions of each in the vision tower; 0 for a text model.
        image_tokens: of an image in the prompt.
        connector: inputs of the projection into the text model.
        vision_layers, vision_width, vision_mlp: of the vision tower; by default SigLIP So400m, that of the whole table.
    """

    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    norms: int = 2
    tied: bool = True
    stored: int = 2
    sae: Mapping[str, int] | None = None
    crops: int = 1
    patches: int = 0
    image_tokens: int = 0
    connector: int = 1152
    vision_layers: int = 27
    vision_width: int = 1152
    vision_mlp: int = 4304

    @property
    def layer_weights(self) -> int:
        """Parameters of one decoder layer's matrices."""
        attention = 2 * self.width * self.head * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.mlp

    @property
    def _vision_weights(self) -> int:
        return 4 * self.vision_width**2 + 2 * self.vision_width * self.vision_mlp

    @property
    def matrices(self) -> int:
        """Parameters that quantising stores in fewer bits: those of all matrices but the embeddings."""
        vision = self.vision_layers * self._vision_weights + self.connector * self.width if self.patches else 0
        return self.layers * self.layer_weights + vision

    @property
    def parameters(self) -> int:
        """All parameters."""
        norms = (self.layers * self.norms + 1) * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        vision = 0
        if self.patches:
            biases = self.vision_layers * (9 * self.vision_width + self.vision_mlp)
            vision = biases + (_PATCH_VALUES + self.patches + 3) * self.vision_width
        return self.matrices + norms + embeddings + vision

    @property
    def download(self) -> int:
        """Bytes of the weights on the Hub."""
        return self.parameters * self.stored

    @property
    def sae_download(self) -> int:
        """Bytes of the SAEs of all layers: an encoder and a decoder each."""
        return self.layers * 2 * self.width * self.sae["features"] * self.sae["stored"] if self.sae else 0

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers, in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head

    def layer_flops(self, tokens: int) -> float:
        """Operations of one layer on one prompt: two for each weight and token, and the products of attention."""
        return 2 * self.layer_weights * tokens + 4 * tokens**2 * self.heads * self.head

    def vision_flops(self) -> float:
        """Operations of the vision tower on one image."""
        each = 2 * self._vision_weights * self.patches + 4 * self.patches**2 * self.vision_width
        return self.crops * self.vision_layers * each

    def weight_bytes(self, args: Mapping[str, str]) -> int:
        """Bytes of the loaded weights, by `--model_args`: 16 bits, 32 for float32, or quantised."""
        if _is_set(args, "load_in_4bit"):
            # a float32 scale for every 64 values
            return round(self.matrices * (1 / 2 + 4 / 64)) + 2 * (self.parameters - self.matrices)
        if _is_set(args, "load_in_8bit"):
            return self.matrices + 2 * (self.parameters - self.matrices)
        return self.parameters * (4 if args.get("dtype") == "float32" else 2)

    def stack_bytes(self, tokens: int, generates: bool) -> int:
        """Bytes of one token in a stack of replayed cells, apart from the weights.

        Args:
            tokens: of one prompt, whose attention mask has a row for each.
            generates: whether keys and values of all layers are kept, to go on from.
        """
        half = 6 * self.width + 3 * self.mlp + 2 * self.head * (self.heads + 2 * self.kv_heads) + tokens
        return 2 * half + 4 * 2 * self.width + (self.cache_bytes if generates else 0)

    def base_pass_bytes(self, tokens: int, generates: bool) -> int:
        """Bytes of one prompt's recorded layers."""
        return tokens * (2 * self.layers * self.width + (self.cache_bytes if generates else 0))


def cards() -> dict[str, Card]:
    """All cards by name."""
    return {
        name: Card(name, entry["tflops"] * 1e12, entry["bandwidth"] * 1e9, entry["memory"] * 1e9)
        for name, entry in _tables()["cards"].items()
    }


def find_card(name: str) -> Card:
    """A card by its name.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    known = cards()
    key = name.lower().replace("_", "-").removeprefix("rtx-").removeprefix("rtx") if name not in known else name
    if key not in known:
        raise unknown_name("card", name, known, "in --gpu")
    return known[key]


def find_shape(model: str) -> Shape | None:
    """The shape of a multimodal or text model; None for an unknown one.

    Args:
        model: its Hub id or short name, for a model of the table; else the folder of a checkpoint.
    """
    tables = _tables()
    for kind in ("models", "texts"):
        for pattern, entry in tables[kind].items():
            if fnmatchcase(model, pattern) or fnmatchcase(short_name(model), short_name(pattern)):
                return Shape(**entry)
    folder = checkpoint(model, make=False)
    return _shape_of_files(folder) if Path(folder, "config.json").is_file() else None


def _shape_of_files(folder: str) -> Shape | None:
    """The shape in a checkpoint's config.json; None where that does not say all of it."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder)
        text, vision = config.get_text_config(decoder=True), getattr(config, "vision_config", None)
        shape: dict[str, Any] = {
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "mlp": text.intermediate_size,
            "heads": text.num_attention_heads,
            "kv_heads": text.num_key_value_heads,
            "head": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            "vocabulary": text.vocab_size,
            "tied": config.tie_word_embeddings,
        }
        if vision is not None:
            patches, scale = (vision.image_size // vision.patch_size) ** 2, getattr(config, "scale_factor", 1)
            shape |= {
                "patches": patches,
                "image_tokens": getattr(config, "mm_tokens_per_image", patches // scale**2),
                "connector": vision.hidden_size * scale**2,
                "vision_layers": vision.num_hidden_layers,
                "vision_width": vision.hidden_size,
                "vision_mlp": vision.intermediate_size,
            }
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ZeroDivisionError):
        return None
    return Shape(**shape)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = yaml.safe_load(
        files("lmms_steer.recipes").joinpath("costs.yaml").read_text(encoding="utf-8")
    )
    return tables


def _is_set(args: Mapping[str, str], name: str) -> bool:
    return args.get(name, "").lower() not in ("", "false")
