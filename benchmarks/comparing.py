"""Seconds and memory for a board of 200 runs with 2,600 samples each, one answer of 20 MB among them.

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


def write(folder: Path) -> None:
    """A baseline and systems that differ from it on a tenth of the questions, by chance."""
    rng = random.Random(0)
    base = [float(rng.random() < 0.6) for _ in range(SAMPLES)]
    write_run(folder / "baseline", {"task": base})
    for number in range(1, RUNS):
        scores = [1 - score if rng.random() < 0.1 else score for score in base]
        write_run(
            folder / f"system{number:03}",
            {"task": scores},
            lambda doc, score, number=number: "x" * 20_000_000 if (doc, number) == (7, 1) else f"It is {score:.0f}.",
            spec="vector=v,layer=1,alpha=1",
        )


def main() -> None:
    from lmms_steer.comparison.command import run_comparison

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "runs")
        start = time.perf_counter()
        outputs = {kind: folder / f"board.{kind}" for kind in ("html", "csv", "parquet")}
        for _ in run_comparison([str(folder / "runs")], **outputs):
            pass
        seconds = time.perf_counter() - start
        size = outputs["html"].stat().st_size / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{RUNS} runs x {SAMPLES} samples:   {seconds:.1f} s, at most {most:.0f} MB; the page has {size:.1f} MB")


if __name__ == "__main__":
    main()
