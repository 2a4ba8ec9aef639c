"""Which vector makes which word likely: the curves of several words, each measured with the vectors of all of them.

A vector that stands for its word makes that word likely and no other; one that only disturbs the model, or pushes
towards answers in general, fills its row. The paper's Section 3 shows the vector of one word; this asks it of each.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer.plots.style import figure_maker, figure_style, literal_text, save_figure
from lmms_steer.word_curves.measure import WordCurve

COLUMNS = 4
_UNSTEERED = "unsteered"


@dataclass(frozen=True, slots=True)
class WordMatrix:
    """The curves of the words of all vectors.

    Attributes:
        curves: one for each word, with the vectors in the same order; curve i is that of the word of vector i.
    """

    curves: tuple[WordCurve, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The words, each in the place of its vector."""
        return tuple(curve.word for curve in self.curves)

    @property
    def random_name(self) -> str:
        """What the row of the random vectors is called; empty without random vectors."""
        count = len(self.curves[0].random_names)
        return f"{count} random, largest" if count else ""

    def at(self, layer: int, alpha: int) -> npt.NDArray[np.float64]:
        """The mean probabilities in one cell.

        Args:
            layer: the steered layer.
            alpha: its place among the curves' alphas.

        Returns:
            float [vectors, words].
        """
        first = self.curves[0]
        return np.array([[curve.curves[name][layer].mean[alpha] for curve in self.curves] for name in first.vectors])

    def unsteered(self, layer: int) -> npt.NDArray[np.float64]:
        """The mean probabilities without a vector, float [words]."""
        cell = self.at(layer, self.curves[0].alphas.index(0.0))
        return cell[0, :]

    def largest_random(self, layer: int, alpha: int) -> npt.NDArray[np.float64]:
        """The largest mean of any random vector in one cell, float [words]; empty without random vectors."""
        return np.array([large[alpha] for curve in self.curves if (large := curve.random_range(layer)[1])])

    def own(self, layer: int) -> list[float]:
        """The probability of a vector's own word at each alpha, mean over the vectors."""
        return [float(np.diagonal(self.at(layer, i)).mean()) for i in range(len(self.curves[0].alphas))]

    def best_alpha(self, layer: int) -> int:
        """The place of the alpha at which the vectors' own words are the most probable."""
        return int(np.argmax(self.own(layer)))

    def rows(self, layer: int, alpha: int) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """What a table or a figure of one cell shows: the unsteered model, each vector, the random ones."""
        yield _UNSTEERED, self.unsteered(layer)
        yield from zip((f"vector of {word}" for word in self.words), self.at(layer, alpha), strict=True)
        if self.random_name:
            yield self.random_name, self.largest_random(layer, alpha)


def matrix_lines(matrix: WordMatrix) -> Iterator[str]:
    """The cell where the vectors' own words are the most probable, and that probability in all cells."""
    first = matrix.curves[0]
    layer = max(first.layers, key=lambda layer: max(matrix.own(layer)))
    alpha = matrix.best_alpha(layer)
    yield (
        f"P(word) on {first.questions} {first.asked}, {first.tokens} tokens steered, layer {layer},"
        f" alpha {first.alphas[alpha]:g}: where the vectors' own words are the most probable"
    )
    yield ""
    rows, own = list(matrix.rows(layer, alpha)), "own word, mean: alpha"
    width, column = max(len(own), *(len(name) for name, _ in rows)), max(6, *map(len, matrix.words))
    yield _row("answer:", matrix.words, width, column)
    for name, values in rows:
        yield _row(name, (f"{value:.3f}" for value in values), width, column)
    yield ""
    yield _row(own, (f"{alpha:g}" for alpha in first.alphas), width, 6)
    for each in first.layers:
        yield _row(f"layer {each}", (f"{value:.3f}" for value in matrix.own(each)), width, 6)
    yield ""
    yield from _summary(matrix, layer, alpha)


def _row(name: str, cells: Iterable[str], width: int, column: int) -> str:
    return "  ".join([name.ljust(width), *(cell.rjust(column) for cell in cells)])


def _summary(matrix: WordMatrix, layer: int, alpha: int) -> Iterator[str]:
    cell, random = matrix.at(layer, alpha), matrix.largest_random(layer, alpha)
    others = cell[~np.eye(len(cell), dtype=bool)]
    parts = [f"{matrix.unsteered(layer).mean():.3f} unsteered", f"{np.diagonal(cell).mean():.3f} with its vector"]
    parts += [f"{others.mean():.3f} with another word's (at most {others.max():.3f})"]
    parts += [f"at most {random.max():.3f} with a random one"] if len(random) else []
    yield f"P(word), mean: {', '.join(parts)}"
    likeliest = int((cell.argmax(1) == np.arange(len(cell))).sum())
    yield f"with {likeliest} of {len(cell)} vectors their own word is the likeliest of these"


@figure_style()
def draw_word_matrix(matrix: WordMatrix, *paths: Path) -> Path:
    """Draw a panel for each layer, at the alpha where the vectors' own words are the most probable.

    Returns:
        the last of the paths.
    """
    maker, layers = figure_maker(), matrix.curves[0].layers
    columns, count = min(COLUMNS, len(layers)), len(matrix.words)
    rows = math.ceil(len(layers) / columns)
    side = 0.9 + 0.26 * count
    size = (max(side * columns + 1.9, 4.2), (side + 0.6) * rows + 0.6)
    figure, axes = maker.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, layer in zip(axes.flat, layers, strict=False):
        image = _draw_layer(axis, matrix, layer)
    for axis in axes.flat[len(layers) :]:
        axis.set_axis_off()
    # a panel below which there is none has the words' names
    for place in range(max(0, len(layers) - columns), len(layers)):
        axes.flat[place].set_xlabel("answer")
        axes.flat[place].tick_params(labelbottom=True)
    figure.set_layout_engine("constrained")
    figure.colorbar(image, ax=axes, label="probability", shrink=0.8, aspect=25)
    return save_figure(figure, *paths)


def _draw_layer(axis: Any, matrix: WordMatrix, layer: int) -> Any:
    alpha = matrix.best_alpha(layer)
    names, values = zip(*matrix.rows(layer, alpha), strict=True)
    image = axis.imshow(np.array(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_title(f"layer {layer}, alpha {matrix.curves[0].alphas[alpha]:g}")
    axis.set_xticks(range(len(matrix.words)), list(map(literal_text, matrix.words)), rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), list(map(literal_text, names)), fontsize=8)
    axis.hlines([0.5, len(matrix.words) + 0.5], -0.5, len(matrix.words) - 0.5, color="white", linewidth=4)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image
