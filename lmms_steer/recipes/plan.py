"""Plan a recipe: its cells, in an order in which each comes after what it needs."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmms_steer.errors import UserError
from lmms_steer.recipes.answers import search_answers
from lmms_steer.recipes.cells import WAITABLE_KINDS, Cell
from lmms_steer.recipes.layout import (
    Layout,
    backbone_name,
    check_output,
    command_cell_name,
    concept_label,
    evaluate_cell_name,
    extract_cell_name,
    launcher_words,
    loaded_weights,
    local_paths,
    model_args_line,
    option_words,
    search_cell_name,
)
from lmms_steer.recipes.schema import Method, Model, Recipe, Study

MAX_CELLS = 20_000
"""Most cells of a recipe; they are the product of what it names."""


@dataclass(frozen=True, slots=True)
class PlannedSystem:
    """One system of a study: the baseline, or what is compared with it.

    Attributes:
        name: name in tables.
        args: added to `--model_args`.
        tests: tasks.
        needs: names of the cells that must be done before.
        reads: files that no cell of this recipe makes.
    """

    name: str
    args: str
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


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
        return [*by_name.values(), *self._command_cells(list(by_name.values()))]

    def _check_size(self) -> None:
        """
        Raises:
            UserError: for more than `MAX_CELLS` cells, before any of them is made.
        """
        recipe = self.recipe
        concepts = len(recipe.concepts) + sum(len(study.concepts) for study in recipe.studies.values())
        controls = sum(settings.controls for settings in recipe.methods.values())
        each = len(recipe.systems) + 1
        vectors = len(recipe.models) * concepts * (len(recipe.methods) * each + controls)
        if vectors > MAX_CELLS:
            raise UserError(
                f"the recipe has up to {vectors} cells, more than {MAX_CELLS}: {len(recipe.models)} models times"
                f" {concepts} concepts, {len(recipe.methods)} methods and {len(recipe.systems)} systems"
            )

    def _studies_cells(self) -> Iterator[Cell]:
        yield from self._extract_cells()
        for plan in (self._search_cells, self._evaluate_cells, self._compare_cells):
            for name, model in self.recipe.models.items():
                for study_name, study in self.recipe.studies.items():
                    yield from plan(name, model, study_name, study)

    def _extract_cells(self) -> Iterator[Cell]:
        concepts = [*self.recipe.concepts]
        concepts += [c for study in self.recipe.studies.values() if study.select for c in study.concepts]
        concepts = list(dict.fromkeys(concepts))
        if not concepts:
            return
        for model in self.recipe.models.values():
            backbone = backbone_name(model)
            for method, settings in self.recipe.methods.items():
                yield Cell(
                    name=extract_cell_name(model, method),
                    kind="extract",
                    command=(
                        *("lmms-steer", "extract", "--backbone", backbone),
                        *("--concept", ",".join(concepts), "--method", method),
                        *("--store", str(self.output / "vectors"), "--replace"),
                        *option_words("--dtype", model.backbone_dtype),
                        *option_words("--sae", settings.sae),
                        *option_words("--judge", settings.judge),
                    ),
                    reads=tuple(path for path in (*concepts, backbone) if Path(path).exists()),
                    makes=tuple(str(self.layout.vector(model, concept, method)) for concept in concepts),
                )

    def _search_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if study.select is None:
            return
        for concept in study.concepts:
            for method, settings in self.recipe.methods.items():
                folder = self.layout.search(name, study_name, concept, method)
                written = ("choice.yaml", "choice_1se.yaml", "result.json", *_control_files(settings))
                yield Cell(
                    name=search_cell_name(name, study_name, concept, method),
                    kind="search",
                    command=self._search_command(model, study.select, concept, method, folder),
                    needs=(extract_cell_name(model, method),),
                    reads=(*self.include_path[1:], *local_paths(model)),
                    makes=tuple(str(folder / file) for file in written),
                    folder=str(folder),
                    loads=loaded_weights(model),
                    answers=search_answers(self.recipe, model, study, settings),
                )

    def _search_command(self, model: Model, task: str, concept: str, method: str, folder: Path) -> tuple[str, ...]:
        search, settings = self.recipe.search, self.recipe.methods[method]
        return (
            *("lmms-steer", "search", "--model", model.model, "--model_args", model_args_line(model)),
            *("--vector", str(self.layout.vector(model, concept, method)), "--task", task),
            *self.include_path,
            *option_words("--layers", model.layers or None),
            *("--alphas", settings.alphas, "--tokens", search.tokens),
            *option_words("--strategy", search.strategy),
            *option_words("--score", search.score),
            *("--controls", str(settings.controls), "--batch_size", str(model.search_batch_size)),
            *option_words("--limit", search.limit or self.recipe.limit),
            *("--output", str(folder)),
        )

    def _evaluate_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        questions = study.test_questions
        for system in _planned_systems(self.recipe, self.layout, name, study_name, study):
            folder = self.layout.run(name, study_name, system.name)
            model_args = ",".join(filter(None, (model_args_line(model), system.args)))
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
                needs=system.needs,
                reads=(*system.reads, *self.include_path[1:], *local_paths(model)),
                makes=(str(folder),),
                folder=str(folder),
                loads=loaded_weights(model),
                answers=min(questions, self.recipe.limit or questions) * len(system.tests) if questions else None,
            )

    def _compare_cells(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if not self.recipe.compare or "baseline" not in self.recipe.systems:
            return
        systems = [system.name for system in _planned_systems(self.recipe, self.layout, name, study_name, study)]
        searches = list(self._search_cells(name, model, study_name, study))
        page = self.output / "boards" / name / f"{study_name}.html"
        yield Cell(
            name=f"compare/{name}/{study_name}",
            kind="compare",
            command=(
                *("lmms-steer", "compare"),
                *(f"{system}={self.layout.run(name, study_name, system)}" for system in systems),
                *("--baseline", "baseline"),
                *self.include_path,
                *(word for cell in searches for word in ("--studies", str(cell.folder))),
                *("--html", str(page), "--csv", str(page.with_suffix(".csv"))),
            ),
            needs=(
                *(evaluate_cell_name(name, study_name, system) for system in systems),
                *(cell.name for cell in searches),
            ),
            makes=(str(page), str(page.with_suffix(".csv"))),
            show=True,
        )

    def _command_cells(self, others: list[Cell]) -> Iterator[Cell]:
        for command in self.recipe.commands:
            yield Cell(
                name=command_cell_name(command.name),
                kind="command",
                command=tuple(shlex.split(command.run.replace("{output}", str(self.output)))),
                needs=(
                    *(cell.name for cell in others if cell.kind in command.after),
                    *(command_cell_name(name) for name in command.after if name not in WAITABLE_KINDS),
                ),
                makes=tuple(path.replace("{output}", str(self.output)) for path in command.makes),
                show=command.show,
            )


def _planned_systems(
    recipe: Recipe, layout: Layout, model: str, study_name: str, study: Study
) -> Iterator[PlannedSystem]:
    """All systems that a study evaluates with the model called `model`."""
    wanted, tests = recipe.systems, study.test
    if "baseline" in wanted:
        yield PlannedSystem("baseline", "", tests)
    if "prompted" in wanted:
        yield PlannedSystem("prompted", "", study.test_prompted or tuple(f"{test}_prompted" for test in tests))
    if "calibrated" in wanted and study.select:
        # every search of a study asks the same questions, so the biases of the first one serve for all
        concept, method = study.concepts[0], next(iter(recipe.methods))
        bias = layout.search(model, study_name, concept, method) / "answer_bias.yaml"
        search = search_cell_name(model, study_name, concept, method)
        yield PlannedSystem("calibrated", f"answer_bias={bias}", tests, (search,))
    for concept in study.concepts:
        for method in recipe.methods:
            folder = layout.chosen(model, study_name, study, concept, method)
            needs = (search_cell_name(model, study_name, concept, method),) if study.select else ()
            label = method if len(study.concepts) == 1 else f"{concept_label(concept)}-{method}"
            for name, file in _choices(recipe, method, label):
                path = str(folder / file)
                yield PlannedSystem(name, f"steering={path}", tests, needs, () if needs else (path,))


def _choices(recipe: Recipe, method: str, label: str) -> Iterator[tuple[str, str]]:
    """Name of each steered system, and the file of a search that holds its spec."""
    if "steered" in recipe.systems:
        yield label, "choice.yaml"
    if "steered_1se" in recipe.systems:
        yield f"{label}-1se", "choice_1se.yaml"
    if "controls" in recipe.systems:
        for seed, file in enumerate(_control_files(recipe.methods[method])):
            yield f"{label}-random-{seed}", file


def _control_files(settings: Method) -> list[str]:
    return [f"control_random_{seed}.yaml" for seed in range(settings.controls)]
