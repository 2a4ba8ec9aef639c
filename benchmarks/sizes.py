"""Measure how much disk space the package, its extras, and the heaviest packages that they bring take.

The sizes are those of the files in this environment, which must have the extra `all`. CUDA's packages, which PyTorch
requires on Linux, are counted apart.

make bench
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "lmms-steer"
HEAVIEST = 6


def main() -> None:
    core = closure(PACKAGE)
    cuda = {name for name in core if name.startswith(("nvidia-", "cuda-", "triton"))}
    print(f"{'installed':<12} {'packages':>8} {'MB':>6}  heaviest")
    row("core", core - cuda)
    row("CUDA", cuda)
    extras = set(distribution(PACKAGE).metadata.get_all("Provides-Extra") or ()) - {"all", "dev", "docs"}
    for extra in (*sorted(extras), "all"):
        row(f"+ {extra}", closure(PACKAGE, extra) - core)


def row(label: str, names: Iterable[str]) -> None:
    sizes = sorted(((megabytes(name), name) for name in names), reverse=True)
    listed = ", ".join(f"{name} {size:.0f}" for size, name in sizes[:HEAVIEST] if size >= 1)
    print(f"{label:<12} {len(sizes):>8} {sum(size for size, _ in sizes):>6.0f}  {listed}")


def closure(name: str, extra: str = "") -> frozenset[str]:
    """Names of all distributions that one requires, also by way of others; without itself."""
    found: set[tuple[str, str]] = set()
    queue = [(canonicalize_name(name), ""), (canonicalize_name(name), extra)]
    while queue:
        one = queue.pop()
        if one in found:
            continue
        found.add(one)
        for line in requirements(one[0]):
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": one[1]}):
                continue
            queue += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return frozenset(found_name for found_name, _ in found) - {canonicalize_name(name)}


def requirements(name: str) -> list[str]:
    try:
        return distribution(name).requires or []
    except PackageNotFoundError as error:
        raise SystemExit(f"{name} is not installed here: pip install '.[all]'") from error


@cache
def megabytes(name: str) -> float:
    """Size of the files that a distribution installed, without compiled bytecode, in units of 10^6 bytes."""
    files = (Path(str(file.locate())) for file in distribution(name).files or () if file.suffix != ".pyc")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
