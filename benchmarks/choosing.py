"""Which layer and which strength: what layer scores and the strategy `budget` find, beside the whole grid.

python benchmarks/choosing.py --output FOLDER [--seeds 20] [--colours red,blue,green] [--kinds planted,mixed,pooled]

On tiny-paligemma2 every cell of every study is measured once; all strategies then read the scores that they would have
measured, for each seed on another half of the questions, and their choice is judged on the other half. Planted studies
ask for the colour that the vector is of; in mixed ones that colour is the answer of only half of the questions, so that
more of the vector is not always better; pooled ones are of spatial and counting; null ones have a random vector in the
place of each. Costs are runs of decoder layers, everything included: scores, KL budgets, answers. Writes
choosing.md, choosing.png and choosing.json; --read FILE [FILE] makes tables and figure of such files again.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers.utils import logging

from lmms_steer.errors import UserError
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.plots.lines import draw_zero_line
from lmms_steer.plots.style import BLUE, DARK_GREY, GREY, VERMILLION, figure_maker, figure_style, save_figure
from lmms_steer.search.budgets import resolve_budgets
from lmms_steer.search.layer_scores import ConceptSentences, LayerContext, layer_scores
from lmms_steer.search.measure import Measurer
from lmms_steer.search.options import parse_strengths
from lmms_steer.search.plan import BUDGET_PROMPTS, Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.selection import LEVEL, ScoreGrid, best_index, corrected_p
from lmms_steer.search.strategies.budget import DEFAULT_BUDGETS, best_layers
from lmms_steer.statistics import Floats
from lmms_steer.steering.operations import DEFAULT_ALPHA
from lmms_steer.steering.resolve import DEFAULT_TOKENS
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store
from lmms_steer.vectors.controls import random_like, with_norms_of
from lmms_steer.vectors.steering_vectors import SteeringVectors

LAYERS, ALPHAS, TOKENS = 5, (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), ("image", "both")
BUDGETS = (0.03, 0.1, 0.3, 1.0)
METHODS = ("mean_shift", "linear_probe")
SPLITS = ("select", "ood", "test")
KINDS = ("planted", "mixed", "pooled")
PLACES = [place for place in product(range(LAYERS), TOKENS) if place != (LAYERS - 1, "image")]
"""Layers and targets, without the image tokens of the last layer, which cannot reach an answer."""
PASS = 2 * LAYERS
"""A base pass, with its check."""
COST_AT = 500
"""Costs are those of a search on so many questions, as the tiny tasks have for a choice."""
LABEL_FREE_BUDGET = 0.3
"""The strength of a choice that uses no answers."""


@dataclass
class Record:
    """Everything measured of one vector on one set of questions.

    Attributes:
        kind: planted, mixed, pooled or null.
        name: of vector and questions.
        cells: layer, alpha, tokens and KL budget (0 for a plain alpha) of each.
        kl: the mean KL of each cell.
        scores, base: 1 where an answer is right, [cells, questions] and [questions].
        layer_scores: score ▸ tokens ▸ the score of each layer.
        costs: `resolving` and each score, in runs of a decoder layer.
    """

    kind: str
    name: str
    cells: list[tuple[int, float, str, float]]
    kl: list[float]
    scores: list[list[float]]
    base: list[float]
    layer_scores: dict[str, dict[str, list[float]]]
    costs: dict[str, float] = field(default_factory=dict)


class Bench:
    """The tiny model, and what is measured with it."""

    def __init__(self, questions: int) -> None:
        self.lm, self.limit = SteeredPaliGemma(pretrained="tiny-paligemma2"), questions
        self._known: dict[tuple[str, ...], list[float]] = {}

    def questions(self, task: str, answer: str | None = None, mixed: bool = False) -> list[Question]:
        """Questions of a task, of all splits.

        Args:
            task: the task.
            answer: what is right in all of them; None for anything.
            mixed: whether `answer` is right in half of them, and something else in the other half.
        """
        found: list[Question] = []
        for row in (row for split in SPLITS for row in load_question_set(task, split)):
            right = "ABCDEF".index(row["answer"].strip("()"))
            found.append(Question(len(found), row["question"], [row["image"]], tuple(row["choices"]), right, row))
        shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
        with_it = [one for one in shuffled if answer in (None, one.answers[one.right])]
        if not mixed:
            return with_it[: self.limit]
        half = self.limit // 2
        others = [one for one in shuffled if one.answers[one.right] != answer]
        return [one for pair in zip(with_it[:half], others[:half], strict=False) for one in pair]

    def record(
        self, kind: str, name: str, own: SteeringVectors, vectors: SteeringVectors, questions: Sequence[Question]
    ) -> Record:
        """Measure a vector; `own` is the one whose sentences the scores read."""
        measurer = Measurer(self.lm, None, {"v": vectors}, False, TOKENS)
        costs = {"resolving": 0.0}

        def measure(cells: Sequence[Cell], asked: Sequence[Question]) -> Any:
            parts = [measurer(asked[start : start + 80], cells) for start in range(0, len(asked), 80)]
            return (torch.cat([getattr(part, of) for part in parts], -1).double() for of in ("scores", "kl", "base"))

        def damage(_: int, cells: Sequence[Cell]) -> list[float]:
            costs["resolving"] += BUDGET_PROMPTS * (PASS + sum(LAYERS - 1 - cell.layer for cell in cells))
            _, kl, _ = measure(cells, questions[:BUDGET_PROMPTS])
            return [float(row.mean()) for row in kl]

        places = [Cell("v", layer, 0.0, tokens) for layer, tokens in PLACES]
        resolved = [one for one in resolve_budgets(places, BUDGETS, damage) if not one.failure]
        plain = [Cell("v", p.layer, alpha, p.tokens) for p, alpha in product(places, ALPHAS)]
        scores, kl, base = measure([*plain, *(one.cell for one in resolved)], questions)
        budgets = [*([0.0] * len(plain)), *(one.budget for one in resolved)]
        every = zip([*plain, *(one.cell for one in resolved)], budgets, strict=True)
        cells = [(cell.layer, cell.alpha, cell.tokens, budget) for cell, budget in every]
        found = self._layer_scores(own, vectors, questions[:BUDGET_PROMPTS], costs)
        return Record(kind, name, cells, kl.mean(1).tolist(), scores.tolist(), base.tolist(), found, costs)

    def _layer_scores(
        self, own: SteeringVectors, vectors: SteeringVectors, asked: Sequence[Question], costs: dict[str, float]
    ) -> dict[str, dict[str, list[float]]]:
        sentences, found = ConceptSentences(self.lm, own), dict[str, dict[str, list[float]]]()
        for name, tokens in product(layer_scores.names(), TOKENS):
            score = layer_scores.get(name)
            context = LayerContext(self.lm, vectors, range(LAYERS), tokens, sentences, asked)
            # what a score does not depend on is the same for other vectors and targets
            parts = {"vector": vectors.sha256, "tokens": tokens}
            key = (name, str(own.provenance["concept"]), *(parts[part] for part in score.depends_on))
            if key not in self._known:
                try:
                    self._known[key] = list(score(context).values())
                except UserError:
                    # no answer depends on the picture: no layer is better than another
                    self._known[key] = [0.0] * LAYERS
            found.setdefault(name, {})[tokens] = self._known[key]
            passes = {"sentences": 1, "prompts": LAYERS + 2, "answers": 3}[score.needs]
            texts = len(sentences.activations.texts) if score.needs == "sentences" else len(asked)
            costs[name] = float(LAYERS * passes * texts * (len(TOKENS) if "tokens" in score.depends_on else 1))
        return found


def measured(bench: Bench, colours: Sequence[str], kinds: Sequence[str]) -> Iterator[Record]:
    """The records of all studies of these kinds; a null one belongs to each that is not mixed."""
    planted = [("planted", f"colour-{colour}", "colour", colour) for colour in colours]
    mixed = [("mixed", concept, task, answer) for _, concept, task, answer in planted]
    pooled = [("pooled", task, task, None) for task in ("spatial", "counting")]
    for kind, concept, task, answer in [*planted, *mixed, *pooled]:
        if kind not in kinds:
            continue
        questions = bench.questions(task, answer, kind == "mixed")
        own = SteeringVectors.load(store.find(f"tiny-gemma2/{concept}/mean_shift", None).path)
        for method in METHODS:
            made = SteeringVectors.load(store.find(f"tiny-gemma2/{concept}/{method}", None).path)
            name = f"{concept}/{method} on {len(questions)} questions of {task}"
            yield bench.record(kind, name, made, with_norms_of(own, made), questions)
        if kind != "mixed":
            name = f"random on {len(questions)} questions of {task}"
            yield bench.record("null", name, own, random_like(own, 1), questions)


@dataclass(frozen=True)
class Outcome:
    """What a chooser found in one record with one order of the questions.

    Attributes:
        gain: on the questions that had no part in the choice, in points.
        called: whether it was called a winner.
        per_question: cost of a question, in runs of a decoder layer.
        fixed: cost before the first question is asked.
    """

    gain: float
    called: bool
    per_question: float
    fixed: float = 0.0

    @property
    def cost(self) -> float:
        """The cost of a search on `COST_AT` questions."""
        return COST_AT * self.per_question + self.fixed


def choose(
    record: Record, rows: Sequence[int], seed: int, spent: Sequence[int] = (), share: float = 1.0, swap: bool = False
) -> Outcome:
    """Choose among some cells on a half of the questions, or a share of it, and judge on the other half.

    Args:
        record: what was measured.
        rows: the cells.
        seed: which half.
        spent: questions that decided which cells these are.
        share: of the half that is asked.
        swap: let chance decide for each question which of steered and unsteered is which, so that nothing has an
            effect on average.
    """
    scores, base = np.array(record.scores)[list(rows)], np.array(record.base)
    if swap:
        signs = np.random.default_rng([seed, 1]).choice((-1.0, 1.0), len(base))
        scores, base = signs * (scores - base), np.zeros(len(base))
    order = np.random.default_rng(seed).permutation(len(base))
    half, rest = order[: len(base) // 2], order[len(base) // 2 :]
    asked = half[: max(2, round(share * len(half)))]
    # the questions that were looked at before come first, where a p-value does not count them
    asked = np.array(sorted(asked, key=lambda i: i not in set(spent)))
    seen = sum(i in set(spent) for i in asked)
    cells = [Cell("v", *record.cells[row][:3]) for row in rows]
    grid = ScoreGrid(cells, scores[:, asked], base[asked], seen)
    best = best_index(grid)
    called = bool(grid.gains[best] > 0 and corrected_p(grid, best, seed) < LEVEL)
    per_question = PASS + sum(LAYERS - 1 - cell.layer for cell in cells)
    return Outcome(100 * float((scores[best, rest] - base[rest]).mean()), called, per_question)


def rows_of(record: Record, budgets: bool, kept: Mapping[str, Sequence[int]] | None = None) -> list[int]:
    """The rows of plain alphas or of the strategy's budgets, at the kept layers of each target."""
    wanted = set(parse_strengths(DEFAULT_BUDGETS)) if budgets else {0.0}
    return [
        row
        for row, (layer, _, tokens, budget) in enumerate(record.cells)
        if budget in wanted and (kept is None or layer in kept[tokens])
    ]


def layers_of(tokens: str) -> list[int]:
    """The layers at which a target can reach an answer."""
    return [layer for layer, name in PLACES if name == tokens]


def kept_by(record: Record, score: str) -> dict[str, list[int]]:
    """Target ▸ the layers that `--strategy budget:SCORE` keeps."""
    ranked = record.layer_scores[score]
    return {tokens: best_layers({n: ranked[tokens][n] for n in layers_of(tokens)}) for tokens in TOKENS}


def by_budget(record: Record, score: str, seed: int, swap: bool = False) -> Outcome:
    """The strategy `budget` with a score; too few questions for a race, so all of the kept cells are asked all."""
    kept = kept_by(record, score)
    spent = range(BUDGET_PROMPTS) if layer_scores.get(score).needs == "answers" else ()
    found = choose(record, rows_of(record, True, kept), seed, spent, swap=swap)
    # a place's share of the cost of resolving is about that of the layers above it
    resolved = sum(LAYERS - layer for layers in kept.values() for layer in layers)
    share = resolved / sum(LAYERS - layer for layer, _ in PLACES)
    return replace(found, fixed=record.costs[score] + share * record.costs["resolving"])


def without_answers(record: Record, score: str | None) -> float:
    """The gain of image tokens at the layer that a score ranks first, at one budget; None: today's default."""
    layer = LAYERS // 2 if score is None else best_layers(dict(enumerate(record.layer_scores[score]["image"][:-1])))[0]
    wanted = (layer, DEFAULT_ALPHA, DEFAULT_TOKENS, 0.0) if score is None else (layer, None, "image", LABEL_FREE_BUDGET)
    for row, cell in enumerate(record.cells):
        if all(want in (None, have) for want, have in zip(wanted, cell, strict=True)):
            return 100 * float(np.mean(np.array(record.scores[row]) - np.array(record.base)))
    # the budget cannot be reached there
    return 0.0


def gains_by_layer(record: Record, tokens: str) -> list[float]:
    """The best gain of any cell at each layer that can reach an answer, in points."""
    gains = 100 * (np.array(record.scores) - np.array(record.base)).mean(1)
    of = [(gain, layer) for gain, (layer, _, name, _) in zip(gains, record.cells, strict=True) if name == tokens]
    return [float(max(gain for gain, own in of if own == layer)) for layer in layers_of(tokens)]


def rank_correlation(record: Record, score: str, tokens: str) -> float:
    """Spearman's, between a score and the grid's best gain by layer; NaN where either is constant."""
    layers, best = layers_of(tokens), gains_by_layer(record, tokens)
    values = [record.layer_scores[score][tokens][layer] for layer in layers]
    if len(set(best)) < 2 or len(set(values)) < 2:
        return float("nan")
    return float(spearmanr(values, best).statistic)


def damage_and_gain(record: Record) -> float:
    """Spearman's correlation of KL and gain over all cells of a record."""
    gains = (np.array(record.scores) - np.array(record.base)).mean(1)
    return float(spearmanr(record.kl, gains).statistic)


def mean_interval(values: Sequence[float], decimals: int = 2) -> str:
    """The mean over studies with a 95% bootstrap interval, by study."""
    known: Floats = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return "–"
    drawn = np.random.default_rng(0).choice(known, (2000, len(known))).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return f"{known.mean():+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def tables(records: Sequence[Record], seeds: int) -> Iterator[str]:
    """The two tables, in Markdown."""
    real, mixed, pooled, null = (
        [record for record in records if record.kind == kind] for kind in ("planted", "mixed", "pooled", "null")
    )
    counts = f"{len(real)} planted, {len(mixed)} mixed, {len(pooled)} pooled and {len(null)} null studies"
    yield f"{counts}, {seeds} orders of the questions"
    for kind, of in (("planted", real), ("mixed", mixed), ("pooled", pooled)):
        yield f"rank correlation of a cell's damage and gain, {kind}: {mean_interval(list(map(damage_and_gain, of)))}"
    yield ""
    yield "| score | reads | rank correlation, image | both | gain without answers, planted | mixed | pooled |"
    yield "|---|---|---|---|---|---|---|"
    for name in sorted(layer_scores.names()):
        correlations = [mean_interval([rank_correlation(r, name, tokens) for r in real]) for tokens in TOKENS]
        gains = [mean_interval([without_answers(r, name) for r in of], 1) for of in (real, mixed, pooled)]
        yield f"| `{name}` | {layer_scores.get(name).needs} | {' | '.join([*correlations, *gains])} |"
    default = [mean_interval([without_answers(r, None) for r in of], 1) for of in (real, mixed, pooled)]
    yield f"| middle layer, alpha {DEFAULT_ALPHA:g} (the default) | nothing | | | {' | '.join(default)} |"
    yield ""
    yield (
        "| choice | cost | gain, planted | regret | at equal cost | gain, mixed | regret, mixed | gain, pooled"
        " | called, planted | random, one colour | random, others | nothing |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    full = {id(r): [choose(r, rows_of(r, False), seed) for seed in range(seeds)] for r in records}
    cost_of_grid = {key: found[0].cost for key, found in full.items()}
    for name, chooser in choosers().items():
        found = {id(r): [chooser(r, seed, False) for seed in range(seeds)] for r in records}
        swapped = [chooser(r, seed, True).called for r in records for seed in range(seeds)]
        share = float(np.mean([found[key][0].cost / cost_of_grid[key] for key in found]))
        regrets, equal = [], []
        for r in real:
            asked = [choose(r, rows_of(r, False), seed, share=min(1.0, share)) for seed in range(seeds)]
            regrets.append(_gain(full[id(r)]) - _gain(found[id(r)]))
            equal.append(_gain(asked) - _gain(found[id(r)]))
        planted_gains, mixed_gains, pooled_gains = ([_gain(found[id(r)]) for r in of] for of in (real, mixed, pooled))
        mixed_regrets = [_gain(full[id(r)]) - _gain(found[id(r)]) for r in mixed]
        one_colour = [r for r in null if r.name.endswith("colour")]
        others = [r for r in null if not r.name.endswith("colour")]
        called = [
            f"{sum(one.called for r in of for one in found[id(r)])} of {len(of) * seeds}"
            for of in (real, one_colour, others)
        ]
        cells = [
            mean_interval(values, 1)
            for values in (planted_gains, regrets, equal, mixed_gains, mixed_regrets, pooled_gains)
        ]
        yield f"| {name} | {share:.2f} | {' | '.join([*cells, *called])} | {sum(swapped)} of {len(swapped)} |"


def choosers() -> dict[str, Callable[[Record, int, bool], Outcome]]:
    """Name ▸ (record, seed, whether to swap) ▸ what it finds."""

    def grid_of_budgets(record: Record, seed: int, swap: bool) -> Outcome:
        found = choose(record, rows_of(record, True), seed, swap=swap)
        return replace(found, fixed=record.costs["resolving"])

    return {
        "grid of alphas": lambda record, seed, swap: choose(record, rows_of(record, False), seed, swap=swap),
        "grid of budgets": grid_of_budgets,
        **{f"`budget:{name}`": partial(_by_budget, name) for name in sorted(layer_scores.names())},
    }


def _by_budget(name: str, record: Record, seed: int, swap: bool) -> Outcome:
    return by_budget(record, name, seed, swap)


def _gain(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([one.gain for one in outcomes]))


@figure_style()
def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the planted studies: rank correlations, and the grid's gain by layer."""
    real = [record for record in records if record.kind == "planted"]
    names = sorted(layer_scores.names())
    figure, (left, right) = figure_maker().subplots(1, 2, figsize=(8.6, 3.2), layout="constrained")
    looks = dict(zip(TOKENS, ((BLUE, 0.16), (VERMILLION, -0.16)), strict=True))
    for number, name in enumerate(names):
        for tokens, (colour, shift) in looks.items():
            values = np.array([rank_correlation(record, name, tokens) for record in real])
            known, y = values[~np.isnan(values)], number + shift
            left.plot(known, np.full(len(known), y), ".", color=colour, alpha=0.35, markersize=5)
            label = f"{tokens} tokens" if number == 0 else None
            left.plot(known.mean() if len(known) else np.nan, y, "D", color=colour, markersize=6, label=label)
        if all(np.isnan(rank_correlation(record, name, tokens)) for record in real for tokens in TOKENS):
            left.text(0.04, number, "the same at all layers", color=DARK_GREY, va="center", fontsize=8)
    left.set(yticks=range(len(names)), yticklabels=names, xlim=(-1.05, 1.05), xticks=(-1, -0.5, 0, 0.5, 1))
    left.set(xlabel="rank correlation with the grid's gain by layer")
    draw_zero_line(left, vertical=True)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    for record, (tokens, (colour, _)) in product(real, looks.items()):
        gains = gains_by_layer(record, tokens)
        right.plot(layers_of(tokens), gains, color=colour, alpha=0.6, linewidth=1, marker=".", markersize=4)
    draw_zero_line(right)
    right.set(xlabel="layer", ylabel="largest gain in the grid (points)", xticks=range(LAYERS))
    right.grid(axis="y", color=GREY, alpha=0.25)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--colours", default="red,blue,green")
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--read", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    records = [Record(**one) for path in options.read for one in json.loads(path.read_text())]
    if not options.read:
        for record in measured(Bench(options.questions), options.colours.split(","), options.kinds.split(",")):
            print(record.kind, record.name, flush=True)
            records.append(record)
            # a run that is stopped leaves what it has, for --read
            (options.output / "choosing.json").write_text(json.dumps([vars(one) for one in records]))
    text = "\n".join(tables(records, options.seeds))
    (options.output / "choosing.md").write_text(text + "\n")
    draw(records, options.output / "choosing.png")
    print(text)


if __name__ == "__main__":
    main()
