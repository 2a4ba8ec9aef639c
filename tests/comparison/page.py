"""A page with hostile answers and names, for the tests with and without a browser."""

from pathlib import Path

from lmms_steer.comparison.command import run_comparison
from tests.helpers.runs import write_run, write_study

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
EVIL_NAME = "<img src=x onerror=hacked=1>"


def write_hostile_page(folder: Path) -> tuple[Path, list[str]]:
    """Write a page with hostile text, an answer of 20 MB, a search, and more questions than the page holds.

    Returns:
        The page, and the lines that were printed after the table.
    """
    base = [1.0] * 60 + [0.0] * 40
    steered = [1.0] * 55 + [0.0] * 5 + [1.0] * 35 + [0.0] * 5

    def answer(number: int, score: float) -> str:
        return EVIL if number == 58 else "long " * 4_000_000 if number == 57 else f"said {score:.0f}"

    write_run(folder / "runs/baseline", {"tiny_spatial": base, "b": base})
    write_run(folder / "runs/steered", {"tiny_spatial": steered, "b": base}, answer, spec="vector=v,layer=1")
    write_run(folder / f"runs/{EVIL_NAME}", {"tiny_spatial": base, "b": base[::-1]}, spec="vector=v,control=random:0")
    cells = [(layer, alpha) for layer in (0, 3) for alpha in (0.5, 1.0)]
    gains = {(layer, alpha): layer * alpha / 100 for layer, alpha in cells}
    write_study(folder / "study", gains, kl={cell: 0.01 * cell[1] for cell in cells})
    out = folder / "board.html"
    _, *lines = map(str, run_comparison([str(folder / "runs")], studies=[folder / "study"], html=out, samples=30))
    return out, lines
