"""The maps of `lmms-steer search`: gain over layer and alpha, for each vector and each token target."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.plots import heatmap as heat

_COLUMNS = ("vector", "layer", "alpha", "tokens", "n", "gain", "dropped")


def read_maps(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """One dict a study, vector and token target: name, tokens, n, layers, alphas, gains (layers x alphas, None where
    nothing was measured), best (layer, alpha) or None, limit of the colours, in points, of all targets of the vector.

    Args:
        folders: of studies, or with studies below them; a study is called by its way from what all have in common.

    Raises:
        UserError: for a folder without cells.parquet, or one that is no such table.
    """
    paths = list(dict.fromkeys(path.resolve() for folder in folders for path in _cells(folder)))
    names = _names([path.parent for path in paths])
    return [found for path, name in zip(paths, names, strict=True) for found in _maps(path, name)]


def read_searches(folders: Iterable[Path]) -> dict[str, set[str]]:
    """Task ▸ sha256 of the vectors that were searched on it, as far as the studies' plans say."""
    found: dict[str, set[str]] = {}
    plans = (path.with_name("plan.json") for folder in folders for path in _cells(folder))
    for path in filter(Path.is_file, plans):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(plan["task"], set()).update(plan["vectors"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{str(path)!r} cannot be read as a study's plan: {error}") from error
    return found


def _names(studies: list[Path]) -> list[str]:
    if len(studies) < 2:
        return [study.name for study in studies]
    root = Path(os.path.commonpath(studies))
    return [study.relative_to(root).as_posix() if study != root else root.name for study in studies]


def _cells(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob("cells.parquet"))
    if not paths:
        raise UserError(f"no study in {str(folder)!r}: there is no cells.parquet; did lmms-steer search finish?")
    return paths


def _maps(path: Path, name: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
        plan = path.with_name("plan.json")
        task = str(json.loads(plan.read_text(encoding="utf-8")).get("task", "")) if plan.is_file() else ""
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a study's cells: {error}") from error
    for vector, tokens in dict.fromkeys((row["vector"], row["tokens"]) for row in rows):
        mine = [row for row in rows if (row["vector"], row["tokens"]) == (vector, tokens)]
        layers, alphas = (sorted({row[key] for row in mine}) for key in ("layer", "alpha"))
        gains = {(row["layer"], row["alpha"]): row["gain"] for row in mine}
        alike = [row for row in rows if row["vector"] == vector]
        best = _best(alike)
        yield {
            "study": name,
            "task": task,
            "vector": vector,
            "tokens": tokens,
            "n": max(row["n"] for row in mine),
            "layers": layers,
            "alphas": alphas,
            "gains": [[gains.get((layer, alpha)) for alpha in alphas] for layer in layers],
            "best": [best["layer"], best["alpha"]] if best and best["tokens"] == tokens else None,
            "limit": heat.colour_limit(100 * row["gain"] for row in alike),
        }


def _best(cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """As the search chooses: the largest gain of those asked everything; of equals the weakest, then the lowest."""
    asked = (cell for cell in cells if not cell["dropped"])
    return min(asked, key=lambda cell: (-cell["gain"], abs(cell["alpha"]), cell["layer"]), default=None)
