"""Draw the README's figure from what `smol-idefics3` does: `python docs/images/draw.py` after `make smol-model`."""

import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import TextPath
from PIL import Image

from lmms_steer import concepts, extract, steer
from lmms_steer.harness.steered import SteeredIdefics3
from lmms_steer.tiny_world.scenes import STYLES, Thing, render

HERE = Path(__file__).parent
LAYER, ALPHA = 8, 2
QUESTION = "What colour is the square?"
COLOURS = ("yellow", "orange", "red", "pink")
LAYERS = ("…", f"layer {LAYER}", f"layer {LAYER + 1}", "…", "layer 29")
POINTS = 7.2
"""Points per unit of the drawing."""
THEMES: dict[str, dict[str, str]] = {
    "light": {
        "ink": "#1c1f24",
        "soft": "#5d6673",
        "line": "#c3c9d1",
        "card": "#f4f6f8",
        "mark": "#c8321f",
        "blue": "#1f6fb4",
    },
    "dark": {
        "ink": "#e8eaed",
        "soft": "#a3acb8",
        "line": "#4a525c",
        "card": "#22272e",
        "mark": "#ff7a66",
        "blue": "#7ab8ec",
    },
}


def measure(image: Image.Image) -> tuple[list[float], list[float]]:
    """The probability of each colour word, without and with steering."""
    lm = SteeredIdefics3(pretrained="smol-idefics3")
    inputs = lm.model_inputs([QUESTION], [[image]])
    ids = [lm.first_token(word) for word in COLOURS]

    def probabilities() -> list[float]:
        with torch.inference_mode():
            return lm.model(**inputs).logits[0, -1].softmax(-1)[ids].tolist()

    before = probabilities()
    vectors = extract("smollm2-135m", "colour-red", store=tempfile.mkdtemp())
    with steer(lm.model, vectors, layer=LAYER, alpha=ALPHA, tokens="image"):
        return before, probabilities()


def draw(theme: dict[str, str], image: Image.Image, before: list[float], after: list[float]) -> Figure:
    figure = Figure(figsize=(10.4, 3.3))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 104), ylim=(0, 33))
    axes.axis("off")
    ink, soft = theme["ink"], theme["soft"]

    def text(x: float, y: float, words: str, **more: Any) -> None:
        axes.text(x, y, words, **{"color": ink, "fontsize": 10, "va": "center", **more})

    def box(x: float, y: float, width: float, height: float, **more: Any) -> None:
        style = {"facecolor": theme["card"], "edgecolor": theme["line"], "linewidth": 1.2, **more}
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.8", **style))

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=colour, linewidth=1.6))

    text(1.5, 31, "sentences, no images", color=soft)
    shown = [pair for pair in concepts.load("colour-red").pairs if "red" in pair.sentence.split()[:5]][:3]
    for row, pair in enumerate(shown):
        x, y = 1.5, 27.6 - 2.5 * row
        for word in pair.sentence.split(" ")[:6]:
            marked = word.strip(".") == "red"
            text(
                x, y, word, color=theme["mark"] if marked else ink, weight="bold" if marked else "normal", fontsize=9.5
            )
            width = TextPath((0, 0), word, size=9.5, prop=FontProperties(weight="bold" if marked else "normal"))
            x += width.get_extents().width / POINTS + 0.75
        text(x, y, "…", color=soft)
    arrow((14, 20.6), (14, 17.6), theme["line"])
    box(4, 11.4, 20, 5.6)
    text(14, 14.2, "text-only backbone", ha="center")
    arrow((14, 11), (14, 7.9), theme["mark"])
    text(14, 5.8, "a vector: “red” minus the rest", color=theme["mark"], ha="center", weight="bold")
    text(14, 3.1, "one direction per layer", color=soft, ha="center", fontsize=9)

    text(37, 31, "a multimodal model, evaluated by lmms-eval", color=soft)
    inset = figure.add_axes((37 / 104, 12 / 33, 13 / 104, 13 / 33))
    inset.imshow(image, interpolation="nearest")
    inset.axis("off")
    text(42.6, 9.6, f"“{QUESTION}”", ha="center", fontsize=9.5)
    arrow((51, 18.5), (54, 18.5), theme["line"])
    box(55, 7.6, 15, 20.4)
    for row, layer in enumerate(LAYERS):
        steered = layer == f"layer {LAYER}"
        if layer != "…":
            edge = theme["mark"] if steered else theme["line"]
            box(57, 9 + 3.7 * row, 11, 2.6, edgecolor=edge, linewidth=2 if steered else 1)
        text(62.5, 10.3 + 3.7 * row, layer, ha="center", fontsize=8.5, color=theme["mark"] if steered else soft)
    axes.add_patch(
        FancyArrowPatch(
            (27, 5.2),
            (57, 10.2 + 3.7 * LAYERS.index(f"layer {LAYER}")),
            arrowstyle="-|>",
            mutation_scale=13,
            color=theme["mark"],
            linewidth=1.6,
            connectionstyle="arc3,rad=0.3",
        )
    )
    text(46, 2.6, "h' = h + α·v  at the image tokens", color=theme["mark"], ha="center", fontsize=9.5)
    arrow((71, 18.5), (74, 18.5), theme["line"])

    text(77, 31, "its answer", color=soft)
    for title, values, top, colour in (
        ("unsteered", before, 27.6, theme["blue"]),
        ("steered", after, 14.4, theme["mark"]),
    ):
        text(77, top, title, weight="bold", fontsize=9.5, color=colour)
        for row, (word, value) in enumerate(zip(COLOURS, values, strict=True)):
            y = top - 2.5 - 2.3 * row
            text(82.6, y, word, ha="right", fontsize=9)
            axes.barh(y, 14 * value, height=1.5, left=83.6, color=colour)
            text(84.2 + 14 * value, y, f"{value:.2f}", fontsize=8.5, color=soft)
    return figure


def main() -> None:
    image = Image.fromarray(render((Thing(4, "yellow", "square"),), STYLES["plain"], 1))
    before, after = measure(image)
    for name, theme in THEMES.items():
        with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": name, "font.family": "sans-serif"}):
            figure = draw(theme, image, before, after)
            figure.savefig(HERE / f"line-{name}.svg", transparent=True, metadata={"Date": None})


main()
