"""Time and memory of importing 10,000 CLEVR questions, from a stand-in in the official format.

make bench
"""

import random
import resource
import tempfile
import time
from pathlib import Path

from lmms_steer.data import generated, importing

QUESTIONS = 10_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        release = Path(name) / "release"
        release.mkdir()
        generated._clevr(release, QUESTIONS, random.Random(0))
        start = time.perf_counter()
        list(importing.import_release("clevr", release, Path(name) / "data"))
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{QUESTIONS} CLEVR questions, {QUESTIONS // 4} images:   {seconds:.1f} s, at most {peak:.0f} MB")


if __name__ == "__main__":
    main()
