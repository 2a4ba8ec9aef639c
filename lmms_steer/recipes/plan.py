"""Plan a recipe: its cells, in an order in which each comes after what it needs."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from lmms_steer._util.io import user_path
from lmms_steer.data.availability import files_read
from lmms_steer.errors import UserError
from lmms_steer.recipes.answers import search_answers
from lmms_steer.recipes.cells import WAITABLE_KINDS, Cell
from lmms_steer.recipes.inputs import command_inputs, system_inputs
from lmms_steer.recipes.layout import (
    Layout,
    backbone_name,
    check_output,
    command_cell_name,
    evaluate_cell_name,
    extract_cell_name,
    extracted_concepts,
    extracted_layers,
    filled_in,
    is_concept_file,
    is_folder_of_saes,
    launcher_words,
    loaded_weights,
    local_paths,
    model_args_line,
    option_words,
    search_cell_name,
    strengths,
    uses_sae,
)
from lmms_steer.recipes.schema import Model, Recipe, Study
from lmms_steer.recipes.systems import BIAS_FILE, extracted_methods, methods_of, planned_systems, search_files
from lmms_steer.search.options import parse_targets
from lmms_steer.vectors.backbones import backbone_checkpoint

REPORT_FILES = ("report.md", "report.csv")
MAX_CELLS = 20_000
"""Most cells of a recipe; they are the product of what it names."""


class Planner:
    """Plans the cells of a recipe.

    Args:
        recipe: a validated recipe.
        output: the recipe's folder.

    Raises:
        UserError: for a folder whose name a command line cannot hold, or that cannot be written to.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        check_output(recipe, output)
        self.recipe, self.output, self.layout = recipe, output, Layout(recipe, output)
        self.include_path = option_words("--include_path", recipe.include_path)

    def cells(self) -> list[Cell]:
        """All cells.

        Raises:
            UserError: where two different cells would have the same name, and so the same files. Backbones in folders
                of the same name do that.
        """
        self._check_size()
        by_name: dict[str, Cell] = {}
        for cell in self._studies_cells():
            if by_name.setdefault(cell.name, cell) != cell:
                both = f"`{by_name[cell.name]}` and `{cell}`"
                raise UserError(f"two different cells would be {cell.name}: {both}: rename what they read")
        cells = list(by_name.values())
        return _in_order([*cells, *self._command_cells(cells), *self._report_cell(cells)])

    def _check_size(self) -> None:
        """
        Raises:
            UserError: for more than `MAX_CELLS` cells, before any of them is made.
        """
        recipe = self.recipe
        concepts = len(recipe.concepts) + sum(len(study.concepts) for study in recipe.studies.values())
        controls = sum(settings.controls + settings.random_beside for settings in recipe.methods.values())
        each = len(recipe.systems) + 1
        targets = 1 if recipe.search.choose == "overall" else len(parse_targets(recipe.search.tokens))
        vectors = len(recipe.models) * concepts * (len(recipe.methods) * each + controls) * targets
        own = len(recipe.models) * len(recipe.studies) * 2 * len(recipe.own_systems)
        if vectors + own > MAX_CELLS:
            raise UserError(
                f"the recipe has up to {vectors + own} cells, more than {MAX_CELLS}: {len(recipe.models)} models times"
                f" {concepts} concepts, {len(recipe.methods)} methods and {len(recipe.systems)} systems"
            )

    def _studies_cells(self) -> Iterator[Cell]:
        yield from self._extract_cells()
        for plan in (self._search_cells, self._evaluate_cells, self._compare_cells):
            for name, model in self.recipe.models.items():
                for study_name, study in self.recipe.studies.items():
                    yield from plan(name, model, study_name, study)

    def _extract_cells(self) -> Iterator[Cell]:
        concepts = extracted_concepts(self.recipe)
        if not concepts:
            return
        for model in self.recipe.models.values():
            backbone = backbone_name(model)
            for method, settings in extracted_methods(self.recipe, model).items():
                yield Cell(
                    name=extract_cell_name(model, method),
                    kind="extract",
                    command=(
                        *("lmms-steer", "extract", "--backbone", backbone),
                        *("--concept", ",".join(concepts), "--method", method),
                        *("--store", str(self.output / "vectors"), "--replace"),
                        *option_words("--sae", settings.sae),
                        *option_words("--judge", settings.judge),
                        *(("--paper-exact",) if settings.paper_exact else ()),
                        *(
                            option_words("--layers", extracted_layers(self.recipe, backbone))
                            if uses_sae(method)
                            else ()
                        ),
                        *option_words("--dtype", model.backbone_dtype),
                    ),
                    reads=(
                        # a folder that has the name of a concept is none of its files
                        *(path for path in (*filter(is_concept_file, concepts), backbone) if Path(path).exists()),
                        *(str(user_path(one)) for one in (settings.sae,) if one and is_folder_of_saes(one)),
                    ),
                    makes=tuple(str(self.layout.vector(model, concept, method)) for concept in concepts),
                    loads=(backbone_checkpoint(backbone, make=False), model.backbone_dtype or "auto"),
                )

    def _search_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if study.select is None:
            return
        for concept in study.concepts:
            for method, settings in methods_of(self.recipe, model).items():
                folder = self.layout.search(name, study_name, concept, method)
                vector = self.layout.given_vector(model, concept, method)
                yield Cell(
                    name=search_cell_name(name, study_name, concept, method),
                    kind="search",
                    command=self._search_command(model, study.select, concept, method, folder),
                    needs=() if settings.stored else (extract_cell_name(model, method),),
                    uses=() if settings.stored else (vector,),
                    reads=(*self._task_files(study.select), *local_paths(model)),
                    makes=tuple(str(folder / file) for file in search_files(self.recipe, settings)),
                    may_make=(str(folder / BIAS_FILE),),
                    folder=str(folder),
                    loads=loaded_weights(model),
                    answers=search_answers(self.recipe, model, study, settings),
                    vectors=(vector,) if settings.stored else (),
                )

    def _search_command(self, model: Model, task: str, concept: str, method: str, folder: Path) -> tuple[str, ...]:
        search, settings = self.recipe.search, self.recipe.methods[method]
        return (
            *("lmms-steer", "search", "--model", model.model, "--model_args", model_args_line(model)),
            *("--vector", self.layout.given_vector(model, concept, method), "--task", task),
            *self.include_path,
            *option_words("--layers", model.layers or None),
            *("--alphas", strengths(self.recipe, settings), "--tokens", search.tokens),
            *option_words("--strategy", search.strategy),
            *option_words("--score", search.score),
            *("--controls", str(settings.controls), "--batch_size", str(model.search_batch_size)),
            *option_words("--limit", self.recipe.search_limit),
            *option_words("--metric", self.recipe.metric),
            *option_words("--choose", search.choose if search.choose != "overall" else None),
            *("--output", str(folder)),
        )

    def _evaluate_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        questions = study.test_questions
        for system in planned_systems(self.recipe, self.layout, name, study_name):
            folder = self.layout.run(name, study_name, system.name)
            model_args = ",".join(filter(None, (model_args_line(model), system.args)))
            files, vectors = system_inputs(system.given, model.pretrained)
            yield Cell(
                name=evaluate_cell_name(name, study_name, system.name),
                kind="evaluate",
                command=(
                    *launcher_words(model.processes),
                    *("--model", model.model, "--model_args", model_args),
                    *("--tasks", ",".join(system.tests), *self.include_path, "--batch_size", str(model.batch_size)),
                    *option_words("--limit", self.recipe.limit),
                    *("--output_path", str(folder), "--log_samples"),
                ),
                needs=(*system.needs, *self._cells_before(name, model, system.after)),
                reads=(*dict.fromkeys((*system.reads, *files)), *self._task_files(*system.tests), *local_paths(model)),
                makes=(str(folder),),
                folder=str(folder),
                loads=loaded_weights(model),
                answers=min(questions, self.recipe.limit or questions) * len(system.tests) if questions else None,
                vectors=vectors,
            )

    def _task_files(self, *tasks: str) -> Iterator[str]:
        """The user's folder of tasks, and the files outside of it that these tasks read."""
        if (folder := self.recipe.include_path) is not None:
            yield folder
            yield from dict.fromkeys(str(path) for task in tasks for path in files_read(task, folder))

    def _cells_before(self, name: str, model: Model, after: tuple[str, ...]) -> Iterator[str]:
        """The cells that an own system waits for: all of a kind of this model, and commands."""
        if "extract" in after:
            yield from (extract_cell_name(model, method) for method in extracted_methods(self.recipe, model))
        if "search" in after:
            for study_name, study in self.recipe.studies.items():
                yield from (cell.name for cell in self._search_cells(name, model, study_name, study))
        yield from (command_cell_name(one) for one in after if one not in WAITABLE_KINDS)

    def _compare_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if not self.recipe.compare or "baseline" not in self.recipe.known_systems:
            return
        systems = [system.name for system in planned_systems(self.recipe, self.layout, name, study_name)]
        searches = list(self._search_cells(name, model, study_name, study))
        page = self.output / "boards" / name / f"{study_name}.html"
        yield Cell(
            name=f"compare/{name}/{study_name}",
            kind="compare",
            command=(
                *("lmms-steer", "compare"),
                *(f"{system}={self.layout.run(name, study_name, system)}" for system in systems),
                *("--baseline", "baseline"),
                *option_words("--metric", self.recipe.metric),
                *self.include_path,
                *(word for cell in searches for word in ("--studies", str(cell.folder))),
                *("--html", str(page), "--csv", str(page.with_suffix(".csv"))),
            ),
            needs=(
                *(evaluate_cell_name(name, study_name, system) for system in systems),
                *(cell.name for cell in searches),
            ),
            makes=(str(page), str(page.with_suffix(".csv"))),
            # the tables of a report hold these numbers
            show=self.recipe.report is None,
        )

    def _report_cell(self, others: list[Cell]) -> Iterator[Cell]:
        if self.recipe.report is None:
            return
        yield Cell(
            name="report",
            kind="report",
            command=("lmms-steer", "report", str(self.output), *option_words("--metric", self.recipe.metric)),
            needs=tuple(cell.name for cell in others if cell.kind in ("search", "evaluate")),
            makes=tuple(str(self.output / file) for file in REPORT_FILES),
            show=True,
        )

    def _command_cells(self, others: list[Cell]) -> Iterator[Cell]:
        makes = [
            tuple(path.replace("{output}", str(self.output)) for path in command.makes)
            for command in self.recipe.commands
        ]
        made = [self.output, *(Path(path) for paths in makes for path in paths)]
        for command, paths in zip(self.recipe.commands, makes, strict=True):
            # split first: the folder's name may hold quotes and backslashes
            words = tuple(filled_in(word, self.recipe.models, self.output) for word in shlex.split(command.run))
            files, vectors = command_inputs(words, made)
            yield Cell(
                name=command_cell_name(command.name),
                kind="command",
                command=words,
                needs=(
                    *(cell.name for cell in others if cell.kind in command.after),
                    *(command_cell_name(name) for name in command.after if name not in WAITABLE_KINDS),
                ),
                reads=files,
                makes=paths,
                show=command.show,
                vectors=vectors,
            )


def _in_order(cells: list[Cell]) -> list[Cell]:
    """The cells as they are, but each after those that it needs."""
    by_name = {cell.name: cell for cell in cells}
    ordered: dict[str, Cell] = {}

    def put(cell: Cell) -> None:
        if cell.name not in ordered:
            for name in cell.needs:
                put(by_name[name])
            ordered[cell.name] = cell

    for cell in cells:
        put(cell)
    return list(ordered.values())
