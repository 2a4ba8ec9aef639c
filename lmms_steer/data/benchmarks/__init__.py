"""The benchmarks that ship: one module each, with its official sizes, its import and its stand-in.

To add one, add a module to this folder that ends with `register_benchmark(Benchmark(…))`, and a folder under `tasks/`.
Another package declares an entry point in the group `lmms_steer.benchmarks`, whose module does the same.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules

from lmms_steer.registry import Registry


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One official release.

    Attributes:
        name: as `lmms-steer data import` takes it.
        description: one line, for help texts.
        copies: every local copy that an import writes, as its folder under `$LMMS_STEER_DATA`, with the official number
            of rows of each split. None: the number is not published, or is not checked.
        import_release: imports a release; called with the release's folder, `$LMMS_STEER_DATA` and the largest number
            of rows of a split (None: all). Yields the folder of each finished copy.
        write_stand_in: writes a small stand-in in the release's own format; called with an existing folder, the number
            of questions of each task, and the random generator for all its choices.
    """

    name: str
    description: str
    copies: Mapping[str, Mapping[str, int | None]]
    import_release: Callable[[Path, Path, int | None], Iterator[Path]]
    write_stand_in: Callable[[Path, int, random.Random], None]


benchmarks: Registry[Benchmark] = Registry(
    "benchmark", "lmms_steer.benchmarks", tuple(f"{__name__}.{module.name}" for module in iter_modules(__path__))
)


def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Make a benchmark known to `lmms-steer data`.

    Returns:
        The benchmark, unchanged.

    Raises:
        ValueError: if its name is taken, or is not lower-case letters, digits and underscores.
    """
    benchmarks.add(benchmark.name, benchmark)
    return benchmark


def official_rows() -> dict[str, Mapping[str, int | None]]:
    """The official number of rows by split, for every local copy of every benchmark, sorted by the copy's folder."""
    copies = {
        folder: splits for benchmark in benchmarks.entries().values() for folder, splits in benchmark.copies.items()
    }
    return dict(sorted(copies.items()))
