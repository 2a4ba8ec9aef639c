"""What a study evaluates: the baseline, and all that stands beside it.

A recipe ▸ its cells, in an order in which each comes after what it needs.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmms_steer.errors import UserError
from lmms_steer.recipes import layout as words
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.layout import Layout, check_output
from lmms_steer.recipes.schema import Model, Recipe, Study
from lmms_steer.recipes.validation import KINDS
from lmms_steer.vectors.backbones import short_name


@dataclass(frozen=True, slots=True)
class PlannedSystem:
    """
    Attributes:
        name: in tables.
        args: what is added to `--model_args`.
        tests: tasks.
        needs: cells that come before.
        reads: files that no cell of this recipe makes.
    """

    name: str
    args: str
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


def plan_systems(recipe: Recipe, at: Layout, model: str, study_name: str, study: Study) -> Iterator[PlannedSystem]:
    """All systems of a model in a study."""
    wanted, tests = recipe.systems, study.test
    if "baseline" in wanted:
        yield PlannedSystem("baseline", "", tests)
    if "prompted" in wanted:
        yield PlannedSystem("prompted", "", study.test_prompted or tuple(f"{test}_prompted" for test in tests))
    if "calibrated" in wanted and study.select:
        # the same questions were asked in every search of the study: the first one's biases will do
        concept, method = study.concepts[0], next(iter(recipe.methods))
        bias = at.search(model, study_name, concept, method) / "answer_bias.yaml"
        yield PlannedSystem(
            "calibrated", f"answer_bias={bias}", tests, (search_cell_name(model, study_name, concept, method),)
        )
    for concept in study.concepts:
        for method in recipe.methods:
            folder = at.chosen(model, study_name, study, concept, method)
            needs = (search_cell_name(model, study_name, concept, method),) if study.select else ()
            label = method if len(study.concepts) == 1 else f"{words.concept_label(concept)}-{method}"
            for name, file in _chosen(recipe, method, label):
                path = str(folder / file)
                yield PlannedSystem(name, f"steering={path}", tests, needs, () if needs else (path,))


def search_cell_name(model: str, study: str, concept: str, method: str) -> str:
    """The name of a search's cell."""
    return f"search/{model}/{study}/{words.concept_label(concept)}-{method}"


def _chosen(recipe: Recipe, method: str, label: str) -> Iterator[tuple[str, str]]:
    if "steered" in recipe.systems:
        yield label, "choice.yaml"
    if "steered_1se" in recipe.systems:
        yield f"{label}-1se", "choice_1se.yaml"
    if "controls" in recipe.systems:
        for seed in range(recipe.methods[method].controls):
            yield f"{label}-random-{seed}", f"control_random_{seed}.yaml"


class Planner:
    """Commands from a recipe.

    Args:
        recipe: checked.
        output: the recipe's folder.

    Raises:
        UserError: for a folder that the commands cannot name, or that cannot be written to.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        check_output(recipe, output)
        self.recipe, self.output, self.at = recipe, output, Layout(recipe, output)
        self.tasks = words.option_words("--include_path", recipe.include_path)

    def cells(self) -> list[Cell]:
        """All of them.

        Raises:
            UserError: where two would share a name, and so their files: backbones in folders of one name.
        """
        found: dict[str, Cell] = {}
        for cell in self._all():
            if found.setdefault(cell.name, cell) != cell:
                both = f"`{found[cell.name]}` and `{cell}`"
                raise UserError(f"two different cells would be {cell.name}: {both}: rename what they read")
        return [*found.values(), *self._commands(list(found.values()))]

    def _all(self) -> Iterator[Cell]:
        yield from self._extractions()
        for kind in (self._searches, self._evaluations, self._comparisons):
            for name, model in self.recipe.models.items():
                for study_name, study in self.recipe.studies.items():
                    yield from kind(name, model, study_name, study)

    def _extractions(self) -> Iterator[Cell]:
        wanted = [*self.recipe.concepts]
        wanted += [c for study in self.recipe.studies.values() if study.select for c in study.concepts]
        if not wanted:
            return
        for model in self.recipe.models.values():
            backbone = words.backbone_name(model)
            for method, settings in self.recipe.methods.items():
                more = [*words.option_words("--sae", settings.sae), *words.option_words("--judge", settings.judge)]
                yield Cell(
                    name=f"extract/{short_name(backbone)}/{method}",
                    kind="extract",
                    command=(
                        *("lmms-steer", "extract", "--backbone", backbone),
                        *("--concept", ",".join(dict.fromkeys(wanted)), "--method", method),
                        *("--store", str(self.output / "vectors"), "--replace", *more),
                    ),
                    reads=tuple(path for path in (*dict.fromkeys(wanted), backbone) if Path(path).exists()),
                    makes=tuple(str(self.at.vector(model, concept, method)) for concept in dict.fromkeys(wanted)),
                )

    def _searches(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if study.select is None:
            return
        recipe = self.recipe
        for concept in study.concepts:
            for method, settings in recipe.methods.items():
                folder = self.at.search(name, study_name, concept, method)
                controls = [f"control_random_{seed}.yaml" for seed in range(settings.controls)]
                limit = recipe.search.limit or recipe.limit
                command = (
                    *("lmms-steer", "search", "--model", model.model, "--model_args", words.model_args_line(model)),
                    *("--vector", str(self.at.vector(model, concept, method)), "--task", study.select),
                    *self.tasks,
                    *words.option_words("--layers", model.layers or None),
                    *("--alphas", settings.alphas, "--tokens", recipe.search.tokens),
                    *words.option_words("--strategy", recipe.search.strategy),
                    *words.option_words("--score", recipe.search.score),
                    *("--controls", str(settings.controls), "--batch_size", str(model.search_batch_size)),
                    *words.option_words("--limit", limit),
                    *("--output", str(folder)),
                )
                left = ("choice.yaml", "choice_1se.yaml", "result.json", *controls)
                yield Cell(
                    name=search_cell_name(name, study_name, concept, method),
                    kind="search",
                    command=command,
                    needs=(f"extract/{short_name(words.backbone_name(model))}/{method}",),
                    reads=(*self.tasks[1:], *words.local_paths(model)),
                    makes=tuple(str(folder / file) for file in left),
                    folder=str(folder),
                    loads=words.loaded_weights(model),
                    answers=words.cells_searched(model, settings.alphas, recipe.search.tokens, settings.controls)
                    * min(study.select_questions or 0, limit or study.select_questions or 0)
                    or None,
                )

    def _evaluations(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        for system in plan_systems(self.recipe, self.at, name, study_name, study):
            folder = self.at.run(name, study_name, system.name)
            command = (
                *words.launcher_words(model.processes),
                *(
                    "--model",
                    model.model,
                    "--model_args",
                    ",".join(filter(None, (words.model_args_line(model), system.args))),
                ),
                *("--tasks", ",".join(system.tests), *self.tasks, "--batch_size", str(model.batch_size)),
                *words.option_words("--limit", self.recipe.limit),
                *("--output_path", str(folder), "--log_samples"),
            )
            questions = study.test_questions
            yield Cell(
                name=f"evaluate/{name}/{study_name}/{system.name}",
                kind="evaluate",
                command=command,
                needs=system.needs,
                reads=(*system.reads, *self.tasks[1:], *words.local_paths(model)),
                makes=(str(folder),),
                folder=str(folder),
                loads=words.loaded_weights(model),
                answers=min(questions, self.recipe.limit or questions) * len(system.tests) if questions else None,
            )

    def _comparisons(self, name: str, model: Model, study_name: str, study: Study) -> Iterator[Cell]:
        if not self.recipe.compare or "baseline" not in self.recipe.systems:
            return
        found = plan_systems(self.recipe, self.at, name, study_name, study)
        runs = {system.name: f"evaluate/{name}/{study_name}/{system.name}" for system in found}
        searches = list(self._searches(name, model, study_name, study))
        board = self.output / "boards" / name / f"{study_name}.html"
        yield Cell(
            name=f"compare/{name}/{study_name}",
            kind="compare",
            command=(
                *("lmms-steer", "compare"),
                *(f"{system}={self.at.run(name, study_name, system)}" for system in runs),
                *("--baseline", "baseline"),
                *self.tasks,
                *(word for cell in searches for word in ("--studies", str(cell.folder))),
                *("--html", str(board), "--csv", str(board.with_suffix(".csv"))),
            ),
            needs=(*runs.values(), *(cell.name for cell in searches)),
            makes=(str(board), str(board.with_suffix(".csv"))),
            show=True,
        )

    def _commands(self, others: list[Cell]) -> Iterator[Cell]:
        for command in self.recipe.commands:
            line = shlex.split(command.run.replace("{output}", str(self.output)))
            yield Cell(
                name=words.command_cell_name(command.name),
                kind="command",
                command=tuple(line),
                needs=(
                    *(cell.name for cell in others if cell.kind in command.after),
                    *(words.command_cell_name(name) for name in command.after if name not in KINDS),
                ),
                makes=tuple(path.replace("{output}", str(self.output)) for path in command.makes),
                show=command.show,
            )
