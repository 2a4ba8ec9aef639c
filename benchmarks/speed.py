"""Ratios measured in one run: what steering costs, what batching gains, what an import costs.

make bench
"""

import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from transformers.utils import logging

from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.tiny_world.question_sets import load_question_set

SPEC = "vector=counting,layer=2,alpha=0.5,tokens=both"
ROUNDS = 12


def requests(lm: SteeredPaliGemma, rows: list[dict[str, Any]]) -> list[Any]:
    lm.task_dict = {"bench": {"test": rows}}
    settings = {"max_new_tokens": 4, "until": ["\n"], "do_sample": False}
    return [
        SimpleNamespace(args=(row["question"], settings, lambda doc: [doc["image"]], i, "bench", "test"))
        for i, row in enumerate(rows)
    ]


def seconds(lm: SteeredPaliGemma, asked: list[Any]) -> float:
    start = time.perf_counter()
    lm.generate_until(asked)
    return time.perf_counter() - start


def ratio(a: list[float], b: list[float]) -> str:
    """Median of the ratios pair by pair, and their quartiles: a drift of the machine's speed is in both of a pair."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f}  (quartiles {low:.3f}-{high:.3f}, {len(ratios)} pairs)"


def import_seconds(code: str) -> float:
    return min(_timed([sys.executable, "-c", code]) for _ in range(5))


def _timed(line: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = load_question_set("counting", "test")
    plain = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=16)
    args = dict(pair.split("=") for pair in SPEC.split(","))
    steered = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=16, **args)
    asked = requests(plain, rows[:320])
    requests(steered, rows[:320])
    for lm in (plain, steered):
        seconds(lm, asked)
    pairs = [(seconds(steered, asked), seconds(plain, asked)) for _ in range(ROUNDS)]
    print("steered / unsteered wall time, batch 16:      ", ratio(*map(list, zip(*pairs, strict=True))))
    one = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=1)
    few = requests(one, rows[:320])[:96]
    seconds(one, few)
    pairs = [(seconds(one, few), seconds(plain, few)) for _ in range(4)]
    print("examples a second, batch 16 / batch 1:        ", ratio(*map(list, zip(*pairs, strict=True))))
    nothing = import_seconds("pass")
    print(f"import lmms_steer, over an empty interpreter:  {import_seconds('import lmms_steer') - nothing:.3f} s")
    helped = min(_timed([sys.executable, "-m", "lmms_steer.cli", "--help"]) for _ in range(5))
    print(f"lmms-steer --help:                             {helped:.3f} s")


if __name__ == "__main__":
    main()
