"""What measuring a cell's damage adds to the time of a search: KL beside scores, divided by scores alone.

python benchmarks/damage.py [--questions 16] [--repeats 5]

The tiny PaliGemma 2 with letters, by replay: a grid of 5 layers x 6 alphas x 3 targets. Its vocabulary is small, so the
same is measured of the divergence alone on logits with the vocabulary of PaliGemma 2.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from lmms_steer.harness import tasks
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search import scorers
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import load_questions
from lmms_steer.steering.damage import divergence_from
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors

TARGETS = ("image", "text", "both")
VOCABULARY = 257_216
WIDTH = 2304


def seconds(run: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the ratios: the median with the smallest and the largest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    task, _ = tasks.load_task("tiny_counting_select", "steered_paligemma")
    questions = list(load_questions(task, options.questions))
    vectors = {"v": SteeringVectors.load(store.find("counting", "tiny-gemma2").path)}
    cells = [Cell("v", n, alpha / 4, tokens) for n in range(5) for alpha in range(1, 7) for tokens in TARGETS]
    measure = Measurer(lm, task, vectors, False, TARGETS)
    measure(questions, cells)
    true, none = divergence_from, lambda _: lambda logits: torch.zeros(logits.shape[:-1])
    ratios = []
    for _ in range(options.repeats):
        both = seconds(lambda: measure(questions, cells))
        vars(scorers)["divergence_from"] = none
        ratios.append(both / seconds(lambda: measure(questions, cells)))
        vars(scorers)["divergence_from"] = true
    print(f"tiny PaliGemma 2, {len(cells)} cells x {len(questions)} questions, with KL / without:", _told(ratios))
    hidden, base = torch.randn(options.questions, WIDTH), torch.randn(options.questions, VOCABULARY)
    head = torch.randn(WIDTH, VOCABULARY)
    divergence = divergence_from(base)
    head_alone = [seconds(lambda: hidden @ head) for _ in range(options.repeats)]
    kl_alone = [seconds(lambda: divergence(base[None])) for _ in range(options.repeats)]
    of_head = [one / statistics.median(head_alone) for one in kl_alone]
    print(f"KL of {options.questions} x {VOCABULARY} logits / the matrix product that makes them:", _told(of_head))


def _told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
