"""A finished search: its result, its table of cells, its maps, and its choices as specs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmms_steer._util.formatting import count_noun, format_p, format_points
from lmms_steer._util.html import html_table
from lmms_steer.comparison.figures import maps_figure
from lmms_steer.comparison.studies import read_cells
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.search.plan import plan_hashes, vector_folder
from lmms_steer.search.report import format_cell
from lmms_steer.search.results import SearchResult, VectorResult
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

if TYPE_CHECKING:
    import pandas


_TITLES = ("vector", "best cell", "gain [95%]", "p (max-T)", "winner", "random vectors")


@dataclass(frozen=True, repr=False)
class Study:
    """What a search left in its folder. It is shown and printed as a table of its choices.

    Attributes:
        folder: the study's folder.
        result: everything that the search found, of each vector by its name: `result.vectors["spatial"].best.gain`.
    """

    folder: Path
    result: SearchResult

    @classmethod
    def read(cls, folder: str | Path) -> "Study":
        """Read the folder of a finished search.

        Raises:
            UserError: for a search that is not finished, or a damaged file.
        """
        return cls(Path(folder), SearchResult.read(Path(folder)))

    def found(self, vector: str | Path | SteeringVectors | None = None) -> VectorResult:
        """What the search found for a vector: `study.found().best.gain`.

        Args:
            vector: as for `choice`.

        Raises:
            UserError: as `choice`.
        """
        return self.result.vectors[self._name(vector)]

    def choice(self, vector: str | Path | SteeringVectors | None = None) -> SteeringSpec:
        """The chosen cell of a vector as a spec, for `steer` and for `--model_args steering=…`.

        Args:
            vector: its name or its file as the search has it, or the vectors; may be left out if the search had one.

        Raises:
            UserError: for a vector that was not searched, or none where there are several.
        """
        name = self._name(vector)
        return SteeringSpec.from_yaml(vector_folder(self.folder, name, len(self.result.vectors)) / "choice.yaml")

    def _name(self, vector: str | Path | SteeringVectors | None) -> str:
        names = list(self.result.vectors)
        if vector is None:
            if len(names) > 1:
                raise UserError(f"the search had {len(names)} vectors: name one of {', '.join(names)}")
            return names[0]
        wanted = str(vector)
        if isinstance(vector, SteeringVectors):
            hashes = plan_hashes(self.folder)
            wanted = next((name for name in names if hashes.get(name) == vector.sha256), vector.name)
        if wanted not in names:
            raise unknown_name("vector of this search", wanted, names)
        return wanted

    def to_pandas(self) -> "pandas.DataFrame":
        """All cells as a data frame: vector, layer, alpha, tokens, n, gain (a share), dropped, and kl (the damage)."""
        import pandas

        return pandas.DataFrame(read_cells(self.folder / "cells.parquet"))

    def plot(self) -> Any:
        """Draw the gains over layer and alpha as a `matplotlib.figure.Figure`, a map for each vector and target."""
        return maps_figure([self.folder])

    def __repr__(self) -> str:
        found = repr(self.result).partition(" ")[2]
        return f"Study {found}; in {str(self.folder)!r}"

    def __str__(self) -> str:
        rows = [_TITLES, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join((self._heading, *(line.rstrip() for line in lines), f"in {str(self.folder)!r}"))

    def _repr_html_(self) -> str:
        return html_table(_TITLES, self._rows(), self._heading)

    @property
    def _heading(self) -> str:
        size = f"{count_noun(self.result.cells, 'cell')} on {count_noun(self.result.n, 'question')}"
        return f"search of {size}, baseline {self.result.baseline:.3f}; intervals are not corrected for the choice"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for name, vector in self.result.vectors.items():
            best, controls = vector.best, [control.gain for control in vector.controls.values()]
            points, low, high = (format_points(100 * value) for value in (best.gain, best.low, best.high))
            random = f"{format_points(100 * float(np.max(controls)))} (best of {len(controls)})" if controls else ""
            gain, p = f"{points} [{low}, {high}]", format_p(vector.p_corrected)
            yield name, format_cell(best), gain, p, "yes" if vector.winner else "no", random
