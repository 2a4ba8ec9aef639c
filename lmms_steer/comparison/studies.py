"""Read what `lmms-steer search` wrote: heat maps of its cells, and the vectors searched on each task."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util.json import read_json
from lmms_steer._util.parquet import check_unpacked
from lmms_steer.comparison.runs import files_below
from lmms_steer.errors import UserError, reason
from lmms_steer.plots.heatmap import Place, colour_limit
from lmms_steer.search.plan import PLAN_FILE
from lmms_steer.statistics import tied_ranks

MAX_CELLS = 200_000
"""Most rows of `cells.parquet`."""
MAX_TEXT = 1 << 28
"""Most bytes of all names in its rows."""
_COLUMNS = ("vector", "layer", "alpha", "tokens", "n", "gain", "dropped")
_KL = "kl"
"""A column that studies of older versions do not have."""


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Read a study's `cells.parquet`: vector, layer, alpha, tokens, n, gain and dropped of each cell.

    Raises:
        UserError: for a file that is missing, damaged, or no table of cells.
    """
    import pyarrow as pa

    try:
        return _read_cells(path)
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a study's cells: {reason(error)}") from error


@dataclass(frozen=True)
class SearchMap:
    """The measured cells of one study, vector and token target.

    Attributes:
        study: the study's name; unique among the studies that were read together.
        task: the task of the search; "" if the study has no plan.
        vector: the vector's name.
        tokens: the token target.
        n: questions that the cells were measured on; the largest number, where it differs between cells.
        layers: the layers with a measured cell, ascending.
        alphas: likewise.
        cells: (layer, alpha) ▸ gain, as a share (0.01 is a point).
        damage: (layer, alpha) ▸ mean KL(unsteered || steered) in nats; without the cells where it is unknown.
        best: the cell of the vector that the search chose; None if it has another token target.
        limit: of the colours, in points, common to all token targets of the vector.
        dropped: the cells that the search dropped early, so that they were measured on fewer questions.
    """

    study: str
    task: str
    vector: str
    tokens: str
    n: int
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    cells: Mapping[Place, float]
    damage: Mapping[Place, float]
    best: Place | None
    limit: float
    dropped: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Searched:
    """What a study searched: a task, and the sha256 of its vectors."""

    task: str
    vectors: frozenset[str]


def read_maps(folders: Iterable[Path]) -> list[SearchMap]:
    """Read the heat maps of studies, one for each study, vector and token target.

    Args:
        folders: studies, or folders with studies below them. A study is named by its path below the closest folder
            that holds all of them.

    Raises:
        UserError: if a folder has no cells.parquet, or one cannot be read.
    """
    paths = list(dict.fromkeys(path.resolve() for folder in folders for path in _cell_files(folder)))
    names = _study_names([path.parent for path in paths])
    return [found for path, name in zip(paths, names, strict=True) for found in _maps_of(path, name)]


def read_searched_vectors(folders: Iterable[Path]) -> dict[str, set[str]]:
    """Read which vectors were searched on which task: task ▸ sha256 of vectors, from the studies' plans.

    Args:
        folders: as for `read_maps`; studies without a plan are skipped.

    Raises:
        UserError: if a folder has no cells.parquet, or a plan cannot be read.
    """
    searched: dict[str, set[str]] = {}
    plans = (path.with_name(PLAN_FILE) for folder in folders for path in _cell_files(folder))
    for path in filter(Path.is_file, plans):
        plan = read_searched(path)
        searched.setdefault(plan.task, set()).update(plan.vectors)
    return searched


def read_searched(path: Path) -> Searched:
    """Read from a study's `plan.json` what was searched.

    Raises:
        UserError: for a plan that cannot be read.
    """
    try:
        plan = read_json(path)
        task, hashes = plan["task"], frozenset(plan["vectors"].values())
        if not all(isinstance(value, str) for value in (task, *hashes)):
            raise TypeError("its task or a vector's hash is not a text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a study's plan: {reason(error)}") from error
    return Searched(task, hashes)


def _study_names(studies: list[Path]) -> list[str]:
    if len(studies) < 2:
        return [study.name for study in studies]
    root = Path(os.path.commonpath(studies))
    return [study.relative_to(root).as_posix() if study != root else root.name for study in studies]


def _cell_files(folder: Path) -> list[Path]:
    paths = files_below(folder, "cells.parquet")
    if not paths:
        raise UserError(f"no study in {str(folder)!r}: there is no cells.parquet; did lmms-steer search finish?")
    return paths


def _maps_of(path: Path, study: str) -> Iterator[SearchMap]:
    rows, plan = read_cells(path), path.with_name(PLAN_FILE)
    task = read_searched(plan).task if plan.is_file() else ""
    for vector, tokens in dict.fromkeys((row["vector"], row["tokens"]) for row in rows):
        of_vector = [row for row in rows if row["vector"] == vector]
        of_map = [row for row in of_vector if row["tokens"] == tokens]
        best = _best_cell(of_vector)
        yield SearchMap(
            study=study,
            task=task,
            vector=vector,
            tokens=tokens,
            n=max(row["n"] for row in of_map),
            layers=tuple(sorted({row["layer"] for row in of_map})),
            alphas=tuple(sorted({row["alpha"] for row in of_map})),
            cells={(row["layer"], row["alpha"]): row["gain"] for row in of_map},
            damage={(row["layer"], row["alpha"]): row[_KL] for row in of_map if math.isfinite(row.get(_KL, math.nan))},
            best=(best["layer"], best["alpha"]) if best and best["tokens"] == tokens else None,
            limit=colour_limit(100 * row["gain"] for row in of_vector),
            dropped=frozenset((row["layer"], row["alpha"]) for row in of_map if row["dropped"]),
        )


def _read_cells(path: Path) -> list[dict[str, Any]]:
    """The rows of `cells.parquet`, with the types that a search writes.

    Raises:
        ArrowException, OSError, ValueError: for a damaged file, other types, or more rows than a search has cells.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=["vector", "tokens"]) as file:
        # a few bytes can stand for any number of equal rows, and of equal texts
        if file.metadata.num_rows > MAX_CELLS:
            raise ValueError(f"{file.metadata.num_rows} rows, more than {MAX_CELLS}")
        check_unpacked(file.metadata, MAX_TEXT)
        names = [*_COLUMNS, *([_KL] if _KL in file.schema_arrow.names else [])]
        table = file.read(columns=names)
    texts = [chunk.dictionary for name in ("vector", "tokens") for chunk in table.column(name).chunks]
    longest = max((pc.max(pc.binary_length(text)).as_py() or 0 for text in texts), default=0)
    if longest * table.num_rows > MAX_TEXT:
        raise ValueError(f"{table.num_rows} rows with names of up to {longest} bytes")
    table = table.cast(pa.schema(zip(names, _types(), strict=False)))
    numbers = [table.column(name) for name in ("alpha", "gain")]
    if any(column.null_count for column in table.columns) or not all(pc.all(pc.is_finite(n)).as_py() for n in numbers):
        raise ValueError("a row has no value, or one that is not finite")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _types() -> tuple[Any, ...]:
    import pyarrow as pa

    return pa.string(), pa.int64(), pa.float64(), pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.float64()


def _best_cell(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Choose as the search does: the largest gain on all questions, then the smallest |alpha|, the lowest layer."""
    complete = [row for row in rows if not row["dropped"]]
    ranks = tied_ranks(np.array([row["gain"] for row in complete]))
    ranked = zip(ranks, complete, strict=True)
    return min(ranked, key=lambda one: (one[0], abs(one[1]["alpha"]), one[1]["layer"]), default=(0, None))[1]
