"""How often race and screen find a planted gain that the grid finds on the same questions, by number of questions.

python benchmarks/few_questions.py [--studies 200] [--gains 8,12] [--questions 300,500,1000]

Printed are the share of studies in which a strategy finds the gain, the share in which it also calls its choice a
winner (p < .05), and what `lmms_steer.search.required_questions` promises of the latter; and for each grid how many
questions are needed.

Every study is drawn: a grid of layers, alphas and token targets, an unsteered model that is right on 60% of the
questions, cells that change up to 15% of the answers at random, and one planted cell whose gain fades towards its
neighbours. A strategy has found the gain if the cell that it chooses gains at least half of it in truth. A screen is
given perfect predictions, the true answers on its questions; with gradients it finds less. Imports no torch.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.plan import Cell
from lmms_steer.search.required_questions import context_of, finding_probability, questions_needed
from lmms_steer.search.rungs import run_strategy
from lmms_steer.search.selection import LEVEL, ScoreGrid, best_index, corrected_p
from lmms_steer.search.strategies import Rung, StrategyContext
from lmms_steer.search.strategies.grid import grid
from lmms_steer.search.strategies.race import race
from lmms_steer.search.strategies.screen import promising, screened_questions
from lmms_steer.statistics import Floats

GRIDS = {"2 x 4 x 3": (2, 4), "5 x 6 x 3": (5, 6), "16 x 6 x 3": (16, 6)}
"""Name ▸ number of layers and of alphas; every grid has three token targets."""
TOKENS = ("image", "text", "both")
STRATEGIES = ("grid", "race", "screen", "race+screen")


@dataclass(frozen=True)
class Drawn:
    """A drawn study: its scores, and the gain in points that each cell has in truth."""

    scores: ScoreGrid
    true_gains: Floats

    def choice(self, strategy: str, n: int) -> tuple[int, bool]:
        """The place of the cell that a strategy chooses from the first `n` questions; whether it calls it a winner."""
        place = {cell: i for i, cell in enumerate(self.scores.cells)}
        cells = list(self.scores.cells)
        if strategy.endswith("screen"):
            cells = promising(cells, self.scores.scores[:, : screened_questions(n)].mean(1))

        def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
            asked = slice(rung.questions.start, rung.questions.stop)
            return self.scores.scores[[place[cell] for cell in rung.cells], asked], self.scores.base[asked]

        build = race if strategy.startswith("race") else grid
        found = run_strategy(build(StrategyContext(cells, n)), n, measure)
        spent = max(found.spent, screened_questions(n) if strategy.endswith("screen") else 0)
        found = replace(found, spent=spent)
        best = best_index(found)
        return place[found.cells[best]], bool(found.gains[best] > 0 and corrected_p(found, best) < LEVEL)


def draw(layers: int, alphas: int, gain: float, n: int, seed: int) -> Drawn:
    """Draw a study whose planted cell gains `gain` points."""
    rng = np.random.default_rng([seed, layers, alphas, round(10 * gain)])
    strengths = [(i + 1) / alphas for i in range(alphas)]
    planted = Cell("v", layers // 2, strengths[alphas // 2], TOKENS[0])
    cells = [Cell("v", *cell) for cell in product(range(layers), strengths, TOKENS)]
    base = (rng.random(n) < 0.6).astype(float)
    # the larger alpha, the more answers change; each layer and target has its own order in which they do
    order = {key: rng.random(n) for key in product(range(layers), TOKENS)}
    scores, true_gains = np.empty((len(cells), n)), np.zeros(len(cells))
    for i, cell in enumerate(cells):
        changed = order[cell.layer, cell.tokens] < 0.15 * cell.alpha
        scores[i] = np.where(changed, (rng.random(n) < 0.6).astype(float), base)
        if cell.tokens == planted.tokens:
            true_gains[i] = gain * np.exp(-abs(cell.layer - planted.layer) - 3 * abs(cell.alpha - planted.alpha))
            scores[i][rng.random(n) < true_gains[i] / 40] = 1.0
    return Drawn(ScoreGrid(cells, scores, base), true_gains)


def shares(
    layers: int, alphas: int, gain: float, questions: Sequence[int], studies: int
) -> Iterator[list[tuple[float, float]]]:
    """For each number of questions and strategy the share of studies in which it finds the gain, and calls it.

    Without a gain, every choice is one that finds it.
    """
    counts = np.zeros((len(questions), len(STRATEGIES), 2))
    for seed in range(studies):
        drawn = draw(layers, alphas, gain, max(questions), seed)
        for i, n in enumerate(questions):
            for j, name in enumerate(STRATEGIES):
                cell, called = drawn.choice(name, n)
                found = bool(drawn.true_gains[cell] >= gain / 2)
                counts[i, j] += found, found and called
    yield from (counts / studies).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--gains", default="5,8,12,20")
    parser.add_argument("--questions", default="20,42,100,200,300,400,500,750,1000")
    args = parser.parse_args()
    questions = [int(n) for n in args.questions.split(",")]
    print(f"{'grid':12} {'gain':>5} {'questions':>9}  {'  '.join(f'{name:>14}' for name in STRATEGIES)}")
    for (name, (layers, alphas)), gain in product(GRIDS.items(), map(float, args.gains.split(","))):
        known = {strategy: parse_strategy(strategy) for strategy in STRATEGIES}
        grid_of = (layers, alphas, len(TOKENS))
        if gain:
            needed = (questions_needed(chosen, context_of(grid_of, 0), gain / 100) for chosen in known.values())
            print(f"{name:12} {gain:+5g} {'needed':>9}  {'  '.join(f'{n:14.0f}' for n in needed)}")
        for n, row in zip(questions, shares(layers, alphas, gain, questions, args.studies), strict=True):
            context = context_of(grid_of, n)
            promised = (finding_probability(chosen, context, gain / 100) for chosen in known.values())
            cells = (f"{found:4.0%} {called:4.0%} {p:4.0%}" for (found, called), p in zip(row, promised, strict=True))
            print(f"{name:12} {gain:+5g} {n:9}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
