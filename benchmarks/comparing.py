"""Time and memory of a comparison of 200 runs with 2,600 samples each, one of them an answer of 20 MB.

make bench
"""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.helpers.runs import write_run

RUNS, SAMPLES = 200, 2_600
LONG_ANSWER = "x" * 20_000_000


def write_runs(folder: Path) -> None:
    """Write a baseline, and systems that differ from it on a random tenth of the questions."""
    rng = random.Random(0)
    base = [float(rng.random() < 0.6) for _ in range(SAMPLES)]
    write_run(folder / "baseline", {"task": base})
    for number in range(1, RUNS):
        scores = [1 - score if rng.random() < 0.1 else score for score in base]
        answer = long_answer if number == 1 else short_answer
        write_run(folder / f"system{number:03}", {"task": scores}, answer, spec="vector=v,layer=1,alpha=1")


def short_answer(_: int, score: float) -> str:
    return f"It is {score:.0f}."


def long_answer(document: int, score: float) -> str:
    return LONG_ANSWER if document == 7 else short_answer(document, score)


def main() -> None:
    from lmms_steer.comparison.command import run_comparison

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "runs")
        page = folder / "board.html"
        start = time.perf_counter()
        for _ in run_comparison([str(folder / "runs")], html=page, csv=folder / "x.csv", parquet=folder / "x.parquet"):
            pass
        seconds = time.perf_counter() - start
        size = page.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{RUNS} runs x {SAMPLES} samples:   {seconds:.1f} s, at most {peak:.0f} MB; the page has {size:.1f} MB")


if __name__ == "__main__":
    main()
