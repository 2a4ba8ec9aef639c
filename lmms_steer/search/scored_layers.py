"""What `lmms_steer.layers` returns: a vector's layer scores, as a table, a figure and text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.html import html_table
from lmms_steer.search.layer_scores import layer_scores

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class ScoredLayers:
    """The layer scores of a vector. `print` shows what the command prints, a notebook a table.

    Attributes:
        vector, model: their names.
        tokens: the token target.
        task: the task whose questions were read; empty for none.
        questions: how many questions were read.
        layers: the scored layers, ascending.
        scores: score ▸ layer ▸ its value, larger where steering promises more.
        missing: score ▸ why it was not computed.
    """

    vector: str
    model: str
    tokens: str
    task: str
    questions: int
    layers: tuple[int, ...]
    scores: Mapping[str, Mapping[int, float]]
    missing: Mapping[str, str]

    @property
    def best(self) -> dict[str, int | None]:
        """Score ▸ its best layer, of equal ones the first; None where all of several layers are equal."""
        return {name: best_layer(values) for name, values in self.scores.items()}

    def to_pandas(self) -> "pandas.DataFrame":
        """A row for each layer: `layer`, and a column for each score."""
        import pandas

        return pandas.DataFrame(
            {"layer": self.layers, **{name: [of[n] for n in self.layers] for name, of in self.scores.items()}}
        )

    def plot(self) -> Any:
        """Draw a panel for each score as a `matplotlib.figure.Figure`."""
        from lmms_steer.search.layers_figure import layers_figure

        return layers_figure(self.scores, self.best)

    def draw(self, path: Path) -> Path:
        """Draw the figure into a file, whose suffix selects PNG, SVG or PDF; returns the file.

        Raises:
            UserError: for another suffix, or a file that cannot be written.
        """
        from lmms_steer.search.layers_figure import draw_layers

        return draw_layers(self.scores, self.best, path)

    def lines(self) -> Iterator[str]:
        """The text: a heading, the table, the best layer of each score, and the scores that are missing."""
        yield self._heading
        width = max(8, *map(len, self.scores))
        best = self.best
        yield "layer  " + "   ".join(f"{name:>{width}}" for name in self.scores)
        for layer in self.layers:
            cells = (f"{of[layer]:{width}.3f}{'*' if best[name] == layer else ' '}" for name, of in self.scores.items())
            yield f"{layer:5}  {'  '.join(cells)}".rstrip()
        for name, first in best.items():
            where = "the same at all layers" if first is None else f"best at layer {first}"
            yield f"{name}: {where} ({layer_scores.get(name).description})"
        yield from self._notes

    @property
    def _heading(self) -> str:
        read = f"; {count_noun(self.questions, 'question')} of {self.task}" if self.questions else ""
        return f"{self.vector} in {self.model}, {self.tokens} tokens{read}"

    @property
    def _notes(self) -> list[str]:
        return [f"{name}: not computed: {why}" for name, why in self.missing.items()]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {'–' if layer is None else layer}" for name, layer in self.best.items())
        return f"ScoredLayers {self._heading}; best layers: {best}"

    def _repr_html_(self) -> str:
        best = self.best
        rows = [
            (layer, *(f"{of[layer]:.3f}{'*' if best[name] == layer else ''}" for name, of in self.scores.items()))
            for layer in self.layers
        ]
        return html_table(("layer", *self.scores), rows, self._heading, self._notes)


def best_layer(scores: Mapping[int, float]) -> int | None:
    """The layer with the largest score, of equal ones the first; None where all of several layers are equal."""
    if len(scores) > 1 and len(set(scores.values())) == 1:
        return None
    return max(scores, key=lambda layer: (scores[layer], -layer))
