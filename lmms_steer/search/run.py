"""Run a search whose plan is settled: measure what the strategy asks for, choose, write the files, confirm."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm import tqdm

from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError
from lmms_steer.models.visuals import blank_visuals
from lmms_steer.replay.changes import Change
from lmms_steer.search import study_files
from lmms_steer.search.assessment import assess_confirmation, assess_search
from lmms_steer.search.batch_store import BatchStore
from lmms_steer.search.budget_study import BUDGETS_FOLDER, DamageMeasurer, StudyBudgets, resolve_for_study
from lmms_steer.search.calibration import Calibration, calibrate
from lmms_steer.search.checked_rungs import check_kept, checked
from lmms_steer.search.damage_figure import draw_damage
from lmms_steer.search.figures import draw_study
from lmms_steer.search.measure import REFUTED_FILE, Measurer
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import Cell, Plan, split_control
from lmms_steer.search.power import planned_power_lines
from lmms_steer.search.questions import (
    OtherTask,
    Question,
    image_clusters,
    load_questions,
    questions_sha256,
    sample_ids,
)
from lmms_steer.search.report import report_lines
from lmms_steer.search.resolved_cells import layers_at
from lmms_steer.search.results import ConfirmationResult, SearchResult
from lmms_steer.search.rungs import run_strategy
from lmms_steer.search.scoring_settings import own_scores_sha256, scoring_settings
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.search.strategies import FilterContext, StrategyContext
from lmms_steer.search.strategies.grid import grid as full_grid
from lmms_steer.statistics import Ints
from lmms_steer.steering.budget import budget_provenance
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.placeholders import MEDIA
from lmms_steer.steering.resolved import ResolvedSpec, own_code
from lmms_steer.vectors.weights import model_source

GIB = 1 << 30

Measured = tuple[ScoreGrid, BatchStore]
"""All scores, and the store of the batches that they were read from."""
AnyMeasurer = TypeVar("AnyMeasurer", bound=Measurer)


@dataclass(frozen=True, slots=True)
class _OtherQuestions:
    """Questions that the choices are measured on once more.

    Attributes:
        name: the folder of their batches.
        task: what scores them.
        questions: the questions.
        image_of: the image of each, numbered from 0; None where no two share one.
    """

    name: str
    task: Any
    questions: Sequence[Question]
    image_of: Ints | None


class SearchRun:
    """One search.

    Args:
        options, plan: what to search.
        lm: the unsteered model.
        task: the task.
        specs: the vectors by the names that cells use, as `resolve_cells` returns them.
        questions: the questions, in the study's order.
    """

    def __init__(
        self, options: SearchOptions, plan: Plan, lm: Any, task: Any, specs: Mapping[str, ResolvedSpec],
        questions: Sequence[Question],
    ) -> None:  # fmt: skip
        self.options, self.plan, self.lm, self.task = options, plan, lm, task
        self.vectors, self.questions = {name: spec.vectors[0] for name, spec in specs.items()}, questions
        self.keys = options.fixed_keys
        self.changes = {name: Change(spec, 1.0) for name, spec in specs.items()} if self.keys else {}
        self.image_of = image_clusters(questions)
        self.chosen = options.chosen_strategy
        self.budgets: StudyBudgets | None = None

    def run(self, confirmation_task: Any | None) -> Iterator[str]:
        """Search, choose, write the files, and confirm the choices on another task if one is given.

        Args:
            confirmation_task: the other lmms-eval task; None without one.

        Yields:
            the lines that the user should read.

        Raises:
            UserError: for an empty grid, or a strategy that measures no cell of a vector on all questions.
        """
        n_layers = layers_at(self.keys, facts_of_config(self.lm.config, self.lm.pretrained))
        last_layer = self.keys.last_useless_for_images(n_layers)
        planned = cells = self.plan.cells(last_layer)
        if not cells:
            raise UserError("the grid is empty: steering image tokens of the last layer cannot change an answer")
        for tokens in self.plan.tokens if self.options.per_target else ():
            if all(cell.tokens != tokens for cell in cells):
                raise UserError(
                    f"tokens={tokens} has no cell to choose: steering image tokens of the last layer cannot change an"
                    " answer; add a layer to --layers"
                )
        if finished := len(list((self.options.output / "batches").glob("*.parquet"))):
            yield f"resumed: {finished} measured {'batch' if finished == 1 else 'batches'} of questions found"
        if self.chosen.filters_places:
            cells = self._filtered(planned)
            yield f"the filter of {self.plan.strategy} keeps {len(cells)} of {len(planned)} cells"
            yield from _kept_layers(cells)
        if self.plan.budgets:
            self.budgets = self._resolve_budgets(cells)
            cells = list(self.budgets.found)
            yield from self.budgets.lines()
        yield from self._lines_about_keys()
        context = self._context(cells)
        if len(context.cells) < len(cells):
            yield f"the filter of {self.plan.strategy} keeps {len(context.cells)} of {len(cells)} cells"
        yield self.chosen.strategy.summary(context)
        yield from planned_power_lines(self.chosen, StrategyContext.of(self.plan, planned, self.image_of))
        media = [kind for kind in MEDIA if kind in self.plan.tokens]
        if media and last_layer in self.plan.layers:
            yield f"{' and '.join(media)} tokens of the last layer are left out: steering them cannot change an answer"
        result, why_not_replayed = self._search(context, confirmation_task)
        if self.budgets is not None and self.budgets.replayed and (self.options.output / REFUTED_FILE).is_file():
            folders = " and ".join(str(self.options.output / name) for name in (BUDGETS_FOLDER, "batches"))
            raise UserError(
                f"a replay was found wrong after it had resolved the budgets: delete {folders}, and run this again"
            )
        yield from self._lines_about_hooks(why_not_replayed)
        adaptive = self.chosen.strategy.adaptive
        yield from report_lines(self.plan, result, self.options.output, adaptive)
        if self.options.keep:
            model, more = self.lm.pretrained, self._budget_provenance
            yield from study_files.save_winners(self.plan, result, model, more, self.lm.commit)

    def _lines_about_keys(self) -> Iterator[str]:
        if self.keys:
            yield f"every cell: {self.keys}"
        if self._why_hooks:
            yield f"every cell is measured by full forward passes: {self._why_hooks}"

    def _lines_about_hooks(self, why_not_replayed: Sequence[str]) -> Iterator[str]:
        if reasons := {*why_not_replayed} - {self._why_hooks}:
            count = len(why_not_replayed)
            yield f"{count} batches were measured with hooks instead of by replay: {'; '.join(sorted(reasons))}"

    def _resolve_budgets(self, planned: Sequence[Cell]) -> StudyBudgets:
        places = list(dict.fromkeys(replace(cell, alpha=0.0) for cell in planned))
        measurer = self._measurer(DamageMeasurer, self.task, self.options.output)
        return resolve_for_study(self.plan, places, self.questions, measurer, self.options.output)

    def _context(self, cells: list[Cell]) -> StrategyContext:
        """What the strategy is built from; a filter has dropped its cells."""
        context = StrategyContext.of(self.plan, cells, self.image_of)
        if self.chosen.filters_places:
            return context.restricted_to(cells)
        if self.chosen.filtered_by is None:
            return context
        return context.restricted_to(self._filtered(cells))

    def _filtered(self, cells: list[Cell]) -> list[Cell]:
        """The cells that the strategy's filter keeps."""
        decided_by = FilterContext(
            cells, self.lm, self.vectors, self.questions, self.plan.batch_size, self.options.output, self.task,
            self.plan.seed,
        )  # fmt: skip
        return check_kept(self.chosen.filtered(decided_by), self.chosen.name, cells)

    def _search(self, context: StrategyContext, confirmation_task: Any | None) -> tuple[SearchResult, list[str]]:
        """Measure, assess, write and confirm.

        Returns:
            the result; for each batch that was measured with hooks, why.
        """
        refuted = self.options.output / REFUTED_FILE
        known = refuted.is_file()
        while True:
            grid, store = _measure_again_if_refuted(partial(self._measure_cells, context))
            why_not_replayed = list(store.why_not_replayed)
            # lm-eval's answers have no single first token, and no `answer_bias`
            biases_apply = not isinstance(self.task, OtherTask)
            calibrated = calibrate(self.questions, store.answers, self.lm.first_token) if biases_apply else None
            with FileLock(self.options.output / ".result.lock"):
                result = assess_search(self.plan, grid, calibrated, self.options.per_target)
                # what a replay measured that was found wrong since is not kept
                if refuted.is_file() == known:
                    result = self._with_earlier(result)
                self._write(grid, result, calibrated)
                if self._blank_questions:
                    blank, why_not_replayed_there = self._measure_blank(result)
                    why_not_replayed += why_not_replayed_there
                    result = replace(result, blank=blank)
                    result.write(self.options.output)
                if confirmation_task is not None:
                    confirmed, why_not_replayed_there = self._confirm(result, confirmation_task)
                    why_not_replayed += why_not_replayed_there
                    result = replace(result, confirmed=confirmed)
                    result.write(self.options.output)
            if not store.has_refuted_batches:
                return result, why_not_replayed
            # the confirmation found a replay wrong: the replays that the choice was based on are not trusted either
            store.forget_replayed()

    def _with_earlier(self, result: SearchResult) -> SearchResult:
        """The result with what an earlier run of this search measured and this one may not be asked for."""
        try:
            return result.with_earlier(SearchResult.read(self.options.output))
        except UserError:
            return result  # there is none, or it is damaged and will be written anew

    def _measure_cells(self, context: StrategyContext) -> Measured:
        output, strategy = self.options.output, self.chosen.strategy
        with progress_bar(total=strategy.planned_answers(context), desc="search", unit=" answers") as bar:
            store = self._store(output, self.task, self.questions, bar)
            rungs = checked(strategy.build(context), self.chosen.name, context, fixed_alphas=self.budgets is not None)
            grid = run_strategy(rungs, context.n, store, self._write_journal, self.image_of)
            bar.total = bar.n
        for name in self.plan.vectors:
            if not grid.of(name).finalists:
                raise UserError(f"the strategy {self.chosen.name} measured no cell of {name} on all questions")
            for tokens in self.plan.tokens if self.options.per_target else ():
                if not grid.of(name).of_target(tokens).finalists:
                    raise UserError(
                        f"the strategy {self.chosen.name} measured no cell of {name} with tokens={tokens} on all"
                        " questions, so none can be chosen for this target: use --strategy grid"
                    )
        spent = max(grid.spent, self.chosen.questions_spent(context.n))
        return replace(grid, spent=spent, unparsed=store.unparsed, kl=store.kl), store

    def _store(self, folder: Path, task: Any, questions: Sequence[Question], bar: "tqdm[Any]") -> BatchStore:
        measurer = self._measurer(Measurer, task, folder)
        return BatchStore(folder, measurer, questions, self.plan.batch_size, bar, self.plan.sha256)

    def _measurer(self, kind: type[AnyMeasurer], task: Any, folder: Path) -> AnyMeasurer:
        """A measurer of this search's cells on the questions of a task, which keeps what it stores in a folder."""
        return kind(
            self.lm,
            task,
            self.vectors,
            generates=self.plan.score == "generate",
            targets=self.plan.tokens,
            budget=int(self.options.memory * GIB),
            folder=folder,
            refuted_file=self.options.output / REFUTED_FILE,
            metric=self.plan.metric,
            changes=self.changes,
            site=self.keys.intervention.site,
            why_hooks=self._why_hooks,
        )

    @property
    def _why_hooks(self) -> str:
        return self.keys.why_hooks(self.plan.score != "letters")

    def _write_journal(self, grid: ScoreGrid) -> None:
        with FileLock(self.options.output / ".journal.lock"):
            study_files.write_journal(self.options.output, grid)

    def _confirm(self, result: SearchResult, task: Any) -> tuple[ConfirmationResult, list[str]]:
        """Measure the choices on questions that had no part in them; also why batches were not replayed."""
        questions = list(load_questions(task, None, require_answer_set=self.plan.score == "letters"))
        chosen: dict[str, Cell] = {}
        for name, vector in result.vectors.items():
            controls = {f"{name},control={control}": cell for control, cell in vector.controls.items()}
            for vector_name, cell in {name: vector.best, **controls}.items():
                chosen[vector_name] = Cell(vector_name, cell.layer, cell.alpha, cell.tokens)
        others = _OtherQuestions("confirm", task, questions, image_clusters(questions))
        return self._measure_choices(others, list(chosen.values()))

    def _measure_blank(self, result: SearchResult) -> tuple[ConfirmationResult, list[str]]:
        """Measure the choices on the same questions with blank images; also why batches were not replayed."""
        cells = [Cell(name, v.best.layer, v.best.alpha, v.best.tokens) for name, v in result.vectors.items()]
        # blank images of one size are equal, but the questions are as dependent as they were
        others = _OtherQuestions("blank", self.task, self._blank_questions, self.image_of)
        return self._measure_choices(others, cells)

    @cached_property
    def _blank_questions(self) -> list[Question]:
        """The questions with blank images; empty where that is not to be measured, or no question has an image."""
        shown = any(question.visuals for question in self.questions)
        asked = self.options.blank_image and self.lm.image is None
        if not shown or not asked:
            return []
        return [replace(question, visuals=blank_visuals(question.visuals)) for question in self.questions]

    def _measure_choices(self, others: "_OtherQuestions", cells: list[Cell]) -> tuple[ConfirmationResult, list[str]]:
        grid, store = _measure_again_if_refuted(partial(self._measure_elsewhere, others, cells))
        return assess_confirmation(str(others.task.config.task), grid), store.why_not_replayed

    def _measure_elsewhere(self, others: "_OtherQuestions", cells: Sequence[Cell]) -> Measured:
        task, questions = others.task, others.questions
        # a folder of its own for these questions (a task's data may be imported anew), these cells and these settings
        writing = scoring_settings(task.config, self.plan.score, self.plan.metric)
        measured = [(*astuple(cell), self.plan.vectors[cell.vector]) for cell in cells]
        scores = own_scores_sha256(task.config, self.plan.score)
        identity = [questions_sha256(questions), measured, *filter(None, (writing, scores))]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        folder, n = self.options.output / others.name / f"{task.config.task}-{digest}", len(questions)
        with progress_bar(total=len(cells) * n, desc=others.name, unit=" answers") as bar:
            store = self._store(folder, task, questions, bar)
            strategy = full_grid(StrategyContext(cells, n))
            grid = run_strategy(strategy, n, store, image_of=others.image_of)
            return replace(grid, unparsed=store.unparsed, kl=store.kl), store

    def _budget_provenance(self, intervention: Intervention, cell: Cell) -> dict[str, Any]:
        """What a chosen spec says of its budget; empty without budgets."""
        if self.budgets is None:
            return {}
        found = self.budgets.found[cell]
        source = model_source(self.lm.pretrained)
        code = own_code(intervention)
        return budget_provenance(intervention, found.budget, found.kl, self.budgets.prompts, source, code)

    def _write(self, grid: ScoreGrid, result: SearchResult, calibrated: Calibration | None) -> None:
        output, ids = self.options.output, sample_ids(self.questions)
        study_files.write_cells(output, grid)
        for name, vector in result.vectors.items():
            folder = self.plan.folder(output, name)
            folder.mkdir(exist_ok=True)
            study_files.write_choices(folder, self.plan, ids, name, grid, vector, self._budget_provenance)
            draw_study(folder, name, grid.of(name), vector)
            controls = [grid.of(control) for control in self.plan.controls_of(name).values()]
            draw_damage(folder, name, grid.of(name), controls, vector)
        if calibrated is not None:
            study_files.write_bias(output, calibrated)
        result.write(output)


def _kept_layers(cells: Sequence[Cell]) -> Iterator[str]:
    """A line for each of the user's vectors and token targets."""
    for vector, tokens in dict.fromkeys((cell.vector, cell.tokens) for cell in cells):
        if split_control(vector)[1] is None:
            layers = sorted({cell.layer for cell in cells if (cell.vector, cell.tokens) == (vector, tokens)})
            yield f"{vector} on {tokens} tokens: layer {', '.join(map(str, layers))}"


def _measure_again_if_refuted(measure: Callable[[], Measured]) -> Measured:
    """Measure; if a replay was found wrong meanwhile, measure everything again with hooks."""
    grid, store = measure()
    while store.has_refuted_batches:
        store.forget_replayed()
        grid, store = measure()
    return grid, store
