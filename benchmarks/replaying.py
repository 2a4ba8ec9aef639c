"""The cost of a search by replaying, compared with a full hooked forward for each cell, and how it grows.

python benchmarks/replaying.py [--device cuda --dtype bfloat16 --full-size] [--examples 2] [--growth growth.png]

The models have random weights: one with PaliGemma 2's shape (27 vision and 26 text layers, full attention within the
prompt) and one with LLaVA's (causal, text after the image). The grid of 16 layers x 6 alphas x 3 targets is replayed as
a whole. Of the alternatives, whose cells all cost the same, three cells a layer are run.
Imports torch, transformers and lmms_steer only.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from lmms_steer.plots.style import BLUE, VERMILLION, figure_maker, figure_style, save_figure
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions

VISION_LAYERS, TEXT_LAYERS, PATCHES, TEXT_TOKENS, IMAGE_ID, PATCH = 27, 26, 256, 30, 7, 14
LAYERS, ALPHAS, TARGETS = tuple(range(5, 21)), (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), ("image", "text", "both")


@dataclass(frozen=True)
class Machine:
    """The device and dtype of the models, and their size."""

    device: str
    dtype: torch.dtype
    full_size: bool


def model(kind: str, machine: Machine, patches: int = PATCHES) -> Any:
    """Make a model with random weights: PaliGemma2-3B's shape if `full_size`, else a ninth of its width."""
    width, heads, deep = (2304, 8, 9216) if machine.full_size else (256, 4, 1024)
    seen, seen_heads, seen_deep = (1152, 16, 4304) if machine.full_size else (128, 4, 512)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": seen, "intermediate_size": seen_deep,
        "num_hidden_layers": VISION_LAYERS, "num_attention_heads": seen_heads, "image_size": _side(patches),
        "patch_size": PATCH, "vision_use_head": False, "projection_dim": width,
    }  # fmt: skip
    text = {
        "hidden_size": width, "intermediate_size": deep, "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": 256 if machine.full_size else 64,
        "vocab_size": 257216 if machine.full_size else 8000, "max_position_embeddings": 1024,
    }  # fmt: skip
    torch.manual_seed(0)
    with torch.device(machine.device):
        if kind == "paligemma2":
            shape = {"vision_config": vision, "text_config": {"model_type": "gemma2", **text}, "projection_dim": width}
            made: Any = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**shape, image_token_index=IMAGE_ID))
        else:
            shape = {
                "vision_config": vision,
                "text_config": {"model_type": "llama", **text},
                "vision_feature_layer": -1,
            }
            full = {"vision_feature_select_strategy": "full", "image_token_index": IMAGE_ID}
            made = LlavaForConditionalGeneration(LlavaConfig(**shape, **full))
    return made.to(machine.dtype).eval()


def prompts(kind: str, count: int, machine: Machine, patches: int = PATCHES) -> dict[str, Tensor]:
    """Make prompts of an image, then text: so a causal model's image tokens do not depend on the question."""
    drawn = torch.Generator().manual_seed(1)
    text = torch.randint(10, 8000, (count, TEXT_TOKENS), generator=drawn)
    ids = torch.cat((torch.full((count, patches), IMAGE_ID), text), 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "paligemma2":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    pixels = torch.randn((count, 3, _side(patches), _side(patches)), generator=drawn).to(machine.dtype)
    return {name: tensor.to(machine.device) for name, tensor in {**inputs, "pixel_values": pixels}.items()}


def _side(patches: int) -> int:
    return PATCH * round(math.sqrt(patches))


class Race:
    """One grid on one batch, replayed and by the alternatives.

    Args:
        made: the model.
        inputs: its prompts.
        layers: of the grid.
        alphas: of the grid.
        targets: the token targets of the grid.
    """

    def __init__(self, made: Any, inputs: dict[str, Tensor], layers: Sequence[int], alphas: Sequence[float],
                 targets: tuple[str, ...]) -> None:  # fmt: skip
        self.made, self.inputs, self.layers, self.targets = made, inputs, layers, targets
        self.cells = list(product(alphas, targets))
        self.delta = torch.randn(made.get_decoder().config.hidden_size, generator=torch.Generator().manual_seed(2))
        self.first = {name: tensor[:1] for name, tensor in inputs.items()}

    def run(
        self, alternatives: dict[str, Callable[[int, str], object]], cells: int = 3
    ) -> tuple[float, dict[str, list[float]]]:
        """Return the seconds of the replayed grid, and of single cells of each alternative, measured layer by layer."""
        started = self._now()
        replay = Replay(self.made, self.inputs, ReplayOptions(self.targets))
        spent = self._now() - started
        deltas = torch.stack([self.delta.to(self.inputs["input_ids"].device) * alpha for alpha, _ in self.cells])
        seconds: dict[str, list[float]] = {name: [] for name in alternatives}
        for layer in self.layers:
            started = self._now()
            replay.steer_all(layer, deltas, [tokens for _, tokens in self.cells])
            spent += self._now() - started
            for name, alternative in alternatives.items():
                for tokens in (self.targets * cells)[:cells]:
                    started = self._now()
                    alternative(layer, tokens)
                    seconds[name].append(self._now() - started)
        return spent, seconds

    def hooked(self, layer: int, tokens: str) -> None:
        """Run a full forward of the batch with a hook."""
        HookedBatch(self.made, self.inputs).steer(layer, self.delta, tokens)

    def as_the_paper(self, new_tokens: int) -> Callable[[int, str], object]:
        """Return the paper's way: one prompt at a time, everything computed again, text generated."""

        def generate(layer: int, tokens: str) -> None:
            length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
            with HookedBatch(self.made, self.first).steered(layer, self.delta, tokens):
                self.made.generate(**self.first, **length)

        return generate

    def _now(self) -> float:
        if self.inputs["input_ids"].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def table(machine: Machine, examples: int) -> None:
    """Print the ratios: the median over cells, with quartiles."""
    for kind, targets in (("paligemma2", TARGETS), ("llava", TARGETS), ("llava", ("text",))):
        made, inputs = model(kind, machine), prompts(kind, examples, machine)
        race = Race(made, inputs, LAYERS, ALPHAS, targets)
        HookedBatch(made, inputs).steer(5, race.delta, targets[0])
        alternatives = {"hooks": race.hooked, "paper20": race.as_the_paper(20), "paper2": race.as_the_paper(2)}
        spent, seconds = race.run(alternatives)
        cells = len(LAYERS) * len(race.cells)
        each = spent / cells / examples
        print(f"\n{kind}, targets {', '.join(targets)}: {cells} cells x {examples} examples")
        print(f"  replayed: {spent:.1f} s, {1 / each:.1f} cells x examples a second")
        _print_ratios("one hooked forward a cell, same batch", [s / examples / each for s in seconds["hooks"]])
        _print_ratios("batch 1, generate 20 tokens (the paper's way)", [s / each for s in seconds["paper20"]])
        _print_ratios("batch 1, generate 2 tokens (a letter and an end)", [s / each for s in seconds["paper2"]])


def _print_ratios(title: str, ratios: list[float]) -> None:
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"  {title + ' / replayed:':60} {middle:5.2f}  (quartiles {low:.2f}-{high:.2f}, {len(ratios)} cells)")


@figure_style()
def growth(machine: Machine, path: Path) -> None:
    """Draw the seconds of a grid, replayed and hooked, as one of its sizes grows."""
    maker = figure_maker()
    default = {"layers": 4, "alphas": 4, "examples": 2, "image tokens": 256}
    sizes = {
        "layers": (2, 4, 8, 13),
        "alphas": (1, 2, 4, 8),
        "examples": (1, 2, 4),
        "image tokens": (64, 144, 256, 400),
    }
    figure, axes = maker.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
    for ax, (name, values) in zip(axes, sizes.items(), strict=True):
        for kind, style in (("paligemma2", "-"), ("llava", "--")):
            both = [_cost(kind, machine, {**default, name: value}) for value in values]
            ways = (("replayed", BLUE), ("hooks", VERMILLION))
            for (way, colour), seconds in zip(ways, zip(*both, strict=True), strict=True):
                ax.plot(values, seconds, style, marker="o", markersize=4, color=colour, label=f"{kind}, {way}")
        ax.set(xlabel=name, ylim=(0, None))
    axes[0].set_ylabel("seconds of a grid")
    axes[0].legend(fontsize=7)
    save_figure(figure, path)
    print(f"\n{path}: in each panel the other sizes are {default}")


def _cost(kind: str, machine: Machine, size: dict[str, int]) -> tuple[float, float]:
    patches = size["image tokens"]
    made, inputs = model(kind, machine, patches), prompts(kind, size["examples"], machine, patches)
    layers = [round(i * 25 / (size["layers"] - 1)) for i in range(size["layers"])]
    race = Race(made, inputs, layers, [0.1 * (i + 1) for i in range(size["alphas"])], TARGETS)
    race.hooked(5, "text")
    spent, seconds = race.run({"hooks": race.hooked}, cells=1)
    return spent, statistics.median(seconds["hooks"]) * len(layers) * len(race.cells)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--examples", type=int, default=2)
    parser.add_argument("--growth", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine = Machine(options.device, getattr(torch, options.dtype), options.full_size)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{platform.machine()}, 1 thread"
    shape = "PaliGemma2-3B's width" if options.full_size else "a ninth of PaliGemma2-3B's width"
    print(f"{where}, {options.dtype}, {shape}; {VISION_LAYERS} vision and {TEXT_LAYERS} text layers,")
    print(f"{PATCHES} image and {TEXT_TOKENS} text tokens, layers {LAYERS[0]}-{LAYERS[-1]} steered")
    table(machine, options.examples)
    if options.growth is not None:
        growth(machine, options.growth)


if __name__ == "__main__":
    main()
