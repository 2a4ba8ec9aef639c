"""The savings and results of the strategies race and screen, over 20 random orders of the questions.

python benchmarks/racing.py [--seeds 20]

On tiny-paligemma2 every cell is measured once, and a race then reads only the scores that it would have measured. Costs
are runs of decoder layers: a replayed cell of layer l costs the layers above it, a base pass with its check all layers
twice, a screen all layers three times. In synthetic studies, one with a planted winner and one without, every cell
costs the same. Imports torch, transformers and lmms_steer only.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from lmms_steer.models.prompt_formats import paligemma_prefix
from lmms_steer.search.assessment import paired_gain
from lmms_steer.search.margins import predicted_shares
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.rungs import run_strategy
from lmms_steer.search.selection import LEVEL, ScoreGrid, best_index, corrected_p
from lmms_steer.search.strategies import Rung, StrategyContext
from lmms_steer.search.strategies.grid import grid
from lmms_steer.search.strategies.race import race
from lmms_steer.search.strategies.screen import promising, screened_questions
from lmms_steer.statistics import Floats
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import checkpoint
from lmms_steer.vectors.steering_vectors import SteeringVectors

LAYERS, ALPHAS, TOKENS = 5, (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), ("image", "text", "both")
SPLITS = ("select", "test", "ood")


class Tiny:
    """The tiny model, with the methods of a wrapper that a search uses."""

    def __init__(self) -> None:
        source = checkpoint("tiny-paligemma2")
        self.model = AutoModelForImageTextToText.from_pretrained(source).eval()
        self.processor = AutoProcessor.from_pretrained(source)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"

    def model_inputs(self, texts: Sequence[str], visuals: Sequence[Any]) -> dict[str, Any]:
        return dict(paligemma_prefix(self.processor, texts, visuals, None))

    def first_token(self, word: str) -> int:
        return int(self.tokenizer(word, add_special_tokens=False)["input_ids"][0])


@dataclass
class Study:
    """A grid of which every cell is known, and the cost of measuring it."""

    name: str
    grid: ScoreGrid
    pairs: Callable[[Sequence[int]], list[Cell]] | None
    weighted: bool

    def cost(self, cells: Sequence[Cell], questions: int) -> float:
        """Return the cost of measuring some cells."""
        if not self.weighted:
            return len(cells) * questions
        return questions * (sum(LAYERS - 1 - cell.layer for cell in cells) + 2 * LAYERS)

    def race_once(self, seed: int, screen: bool) -> tuple[ScoreGrid, float]:
        """Race on the questions in a random order; return the result, and the cost relative to the whole grid's."""
        n = len(self.grid.base)
        order = np.random.default_rng(seed).permutation(n)
        row_of = {cell: i for i, cell in enumerate(self.grid.cells)}
        cells, spent = list(self.grid.cells), 0.0
        if screen and self.pairs is not None:
            cells = self.pairs(order[: screened_questions(n)].tolist())
            spent += 3 * LAYERS * screened_questions(n)

        def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
            nonlocal spent
            spent += self.cost(rung.cells, len(rung.questions))
            columns = order[rung.questions.start : rung.questions.stop]
            rows = np.array([row_of[cell] for cell in rung.cells])
            return self.grid.scores[np.ix_(rows, columns)], self.grid.base[columns]

        raced = run_strategy(race(StrategyContext(cells, n)), n, measure)
        first = max(raced.spent, screened_questions(n) if screen else 0)
        return ScoreGrid(raced.cells, raced.scores, raced.base, first), spent / self.cost(self.grid.cells, n)


def tiny(lm: Tiny, name: str, task: str, vector: str, keep: Callable[[dict[str, Any]], bool]) -> Study:
    """Measure a full grid on the tiny model's select split; of a subset of questions on all splits, to have enough."""
    rows = [
        row
        for split in (("select",) if keep is _any else SPLITS)
        for row in load_question_set(task, split)
        if keep(row)
    ]
    questions = [
        Question(
            i, row["question"], [row["image"]], tuple(row["choices"]), "ABCDEF".index(row["answer"].strip("()")), row
        )
        for i, row in enumerate(rows)
    ]
    vectors = {"v": SteeringVectors.load(store.find(f"tiny-gemma2/{vector}/mean_shift", None).path)}
    cells = [Cell("v", *cell) for cell in product(range(LAYERS), ALPHAS, TOKENS)]
    cells = [cell for cell in cells if not (cell.layer == LAYERS - 1 and cell.tokens == "image")]
    measurer = Measurer(lm, None, vectors, False, TOKENS)

    def measure_all(_: int, rung: Rung) -> tuple[Floats, Floats]:
        parts = [measurer(questions[start : start + 100], rung.cells) for start in range(0, len(questions), 100)]
        return torch.cat([p.scores for p in parts], 1).double().numpy(), torch.cat(
            [p.base for p in parts]
        ).double().numpy()

    def pairs(first: Sequence[int]) -> list[Cell]:
        shares = predicted_shares(lm, vectors, cells, [questions[i] for i in first], 50)
        return promising(cells, shares)

    return Study(
        f"tiny-paligemma2, {name.format(n=len(rows))}",
        run_strategy(grid(StrategyContext(cells, len(questions))), len(questions), measure_all),
        pairs,
        weighted=True,
    )


def synthetic(name: str, effect: float, seed: int, n: int = 500) -> Study:
    """Draw 16 layers x 6 alphas x 3 targets with similar neighbours; one cell gains `effect`, its neighbours less."""
    rng = np.random.default_rng(seed)
    cells = [Cell("v", *cell) for cell in product(range(16), (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), TOKENS)]
    base = (rng.random(n) < 0.6).astype(float)
    noise = {key: rng.random(n) for key in product(range(16), TOKENS)}
    scores = np.empty((len(cells), n))
    for i, cell in enumerate(cells):
        # the larger alpha, the more answers change; each layer and target has its own order in which they do
        flips = noise[cell.layer, cell.tokens] < 0.15 * cell.alpha
        scores[i] = np.where(flips, (rng.random(n) < 0.55).astype(float), base)
        near = np.exp(-abs(cell.layer - 9) / 2 - abs(cell.alpha - 0.6) * 3) * (cell.tokens == "image")
        scores[i] = np.where(rng.random(n) < effect * near, 1.0, scores[i])
    return Study(name, ScoreGrid(cells, scores, base), None, weighted=False)


def report(study: Study, seeds: int, screen: bool, studies: Sequence[Study] | None = None) -> None:
    """Print cost, how often the choice is within the winner's interval, and how often a winner is claimed."""
    costs, inside, claims, gains = [], 0, 0, []
    for seed in range(seeds):
        known = studies[seed] if studies else study
        raced, cost = known.race_once(seed, screen)
        chosen, winner = best_index(raced), best_index(known.grid)
        gain = known.grid.gains[known.grid.cells.index(raced.cells[chosen])]
        inside += bool(gain >= paired_gain(known.grid.base, known.grid.scores[winner]).low)
        claims += bool(gain > 0 and corrected_p(raced, chosen, seed) < LEVEL)
        costs.append(cost)
        gains.append(100 * gain)
    winner = best_index(study.grid)
    p = corrected_p(study.grid, winner)
    strategy = "race+screen" if screen else "race"
    print(
        f"{study.name:44} {strategy:12} cost {np.mean(costs):.3f} (most {max(costs):.3f})  in the winner's interval"
        f" {inside}/{seeds}  gain {np.mean(gains):+.1f} (grid {100 * study.grid.gains[winner]:+.1f}, p {p:.3f})"
        f"  called a winner {claims}/{seeds}",
        flush=True,
    )


def _any(_: dict[str, Any]) -> bool:
    return True


def _red(row: dict[str, Any]) -> bool:
    return bool(row["choices"]["ABCDEF".index(row["answer"].strip("()"))] == "red")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    lm = Tiny()
    studies = [tiny(lm, name, name, name, _any) for name in ("spatial", "counting")]
    studies.append(tiny(lm, "{n} red things, red's vector", "colour", "colour-red", _red))
    for study in studies:
        for screen in (False, True):
            report(study, seeds, screen)
    for name, effect in (("synthetic, a winner of +9 points", 0.25), ("synthetic, no winner", 0.0)):
        drawn = [synthetic(name, effect, seed) for seed in range(seeds)]
        report(drawn[0], seeds, False, drawn)


if __name__ == "__main__":
    main()
