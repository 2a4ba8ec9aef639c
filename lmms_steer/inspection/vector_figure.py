"""The figure of `lmms-steer vectors show --plot FILE`: norms, probe accuracy, cosines and words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.inspection.vectors import Description
from lmms_steer.plots.style import BLUE, GREY, VERMILLION, figure_maker, figure_style, literal_text, save_figure
from lmms_steer.plots.ticks import label_numbers

_MAX_OTHERS = 24
_SHOWN_WORDS = 6
_TICK_SIZE = 9
_WORD_COLUMNS = ((0.07, "like", "whose states it is like"), (0.55, "promoted", "promoted as next (logit lens)"))
"""Horizontal place, attribute of `Words` and title of each kind of words."""
_MAX_WIDTH = 34
"""Letters in a row of words."""


@figure_style()
def draw_vector(shown: Description, path: Path) -> Path:
    """Draw the figure; the file's suffix selects PNG, SVG or PDF.

    Raises:
        UserError: for another suffix, or a file that cannot be written.
    """
    maker = figure_maker()
    layers = list(shown.vectors)
    strongest = sorted(shown.cosines, key=lambda n: -max(map(abs, shown.cosines[n].values())))[:_MAX_OTHERS]
    height = 3.4 + max(0.22 * len(strongest), 0.26 * len(layers) + 0.6, 1.5)
    figure, axes = maker.subplot_mosaic(
        [["norm", "probe"], ["cosine", "words"]],
        figsize=(14, height),
        height_ratios=[2.4, height - 3.4],
        layout="constrained",
    )
    figure.suptitle(literal_text(shown.vectors.name), fontsize=13)
    axes["norm"].bar(range(len(layers)), [shown.norms[layer] for layer in layers], color=BLUE)
    axes["norm"].set(title="norm of the direction", xlabel="layer")
    _label_layers(axes["norm"], layers)
    _probe(axes["probe"], shown, layers)
    _cosines(axes["cosine"], shown, layers, strongest, figure)
    _words(axes["words"], shown, layers)
    return save_figure(figure, path)


def _probe(axes: Any, shown: Description, layers: list[int]) -> None:
    axes.set(title="linear probe, held-out balanced accuracy", xlabel="layer", ylim=(0.4, 1.02))
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    if shown.probe:
        known = sorted(shown.probe)
        axes.plot(range(len(known)), [shown.probe[layer] for layer in known], "o-", color=VERMILLION)
        _label_layers(axes, known)
    else:
        axes.text(0.5, 0.5, "no linear_probe vector of this concept is stored", ha="center", transform=axes.transAxes)
        _label_layers(axes, layers)


def _cosines(axes: Any, shown: Description, layers: list[int], names: list[str], figure: Any) -> None:
    some = f": the {len(names)} largest of {len(shown.cosines)}" if len(names) < len(shown.cosines) else ""
    axes.set_title(f"cosine with the other vectors of this model{some}")
    if not names:
        axes.axis("off")
        axes.text(0.5, 0.5, "the store has no others", ha="center", transform=axes.transAxes)
        return
    grid = [[shown.cosines[name].get(layer, float("nan")) for layer in layers] for name in names]
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    _label_layers(axes, layers)
    axes.set_yticks(range(len(names)), list(map(literal_text, names)), fontsize=8)
    # the colour of a cosine of 0 is nearly white
    axes.set_facecolor(GREY)
    axes.set_xlabel("layer (grey: no direction)" if np.isnan(grid).any() else "layer")
    figure.colorbar(image, ax=axes, shrink=0.8)


def _label_layers(axes: Any, layers: list[int]) -> None:
    label_numbers(axes, "x", list(map(str, layers)), _TICK_SIZE)


def _words(axes: Any, shown: Description, layers: list[int]) -> None:
    axes.axis("off")
    axes.set_title("words, by layer")
    if not shown.words:
        axes.text(0.5, 0.5, "the model was not read", ha="center", transform=axes.transAxes)
        return
    rows = max(len(layers), 12) + 1
    for row, layer in enumerate(layers, start=1):
        axes.text(0.0, 1 - (row + 0.5) / rows, str(layer), fontsize=8, va="center", transform=axes.transAxes)
    for place, kind, title in _WORD_COLUMNS:
        axes.text(place, 1 - 0.5 / rows, title, fontsize=8, va="center", style="italic", transform=axes.transAxes)
        for row, layer in enumerate(layers, start=1):
            words = _fitting(getattr(shown.words[layer], kind)[:_SHOWN_WORDS])
            height = 1 - (row + 0.5) / rows
            axes.text(place, height, literal_text(words), fontsize=8, va="center", transform=axes.transAxes)


def _fitting(words: Sequence[str]) -> str:
    """As many of the words as fit into a column."""
    text = ""
    for word in words:
        longer = f"{text}  {word}" if text else word
        if len(longer) > _MAX_WIDTH:
            break
        text = longer
    return text or words[0][:_MAX_WIDTH]
