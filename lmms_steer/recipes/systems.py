"""The systems that a study evaluates: the baseline, what needs no vector, and the specs that searches chose."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from lmms_steer.harness.arguments import join_model_args
from lmms_steer.models import BLANK
from lmms_steer.recipes.layout import Layout, concept_label, search_cell_name
from lmms_steer.recipes.schema import Method, Model, Recipe, Study
from lmms_steer.search.options import parse_targets
from lmms_steer.vectors.methods import split_method

BIAS_FILE = "answer_bias.yaml"
"""What a search writes for the system `calibrated`, if all answers come from one small set of words."""
BESIDE = "-beside-"
"""In a system's name, between the name of a choice and the seed of a random vector at the same place."""


@dataclass(frozen=True, slots=True)
class PlannedSystem:
    """One system of a study: the baseline, or what is compared with it.

    Attributes:
        name: name in tables.
        args: added to `--model_args`.
        tests: tasks.
        needs: names of the cells that must be done before.
        after: kinds of cells and names of commands that must be done before.
        reads: files that no cell of this recipe makes.
        given: arguments that may name more of them, or vectors in a store.
        is_control: whether it is a random vector or a control of extraction.
    """

    name: str
    args: str
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    is_control: bool = False


def methods_of(recipe: Recipe, model: Model) -> dict[str, Method]:
    """The methods that are used with a model."""
    return {name: settings for name, settings in recipe.methods.items() if name in (model.methods or recipe.methods)}


def extracted_methods(recipe: Recipe, model: Model) -> dict[str, Method]:
    """The methods whose vectors the recipe extracts for a model. The others' are in a store."""
    return {name: settings for name, settings in methods_of(recipe, model).items() if not settings.stored}


def planned_systems(recipe: Recipe, layout: Layout, model: str, study_name: str) -> Iterator[PlannedSystem]:
    """All systems that a study evaluates with the model called `model`."""
    seeing = [*_unsteered(recipe, layout, model, study_name), *_own(recipe, layout, study_name)]
    steered = [*_steered(recipe, layout, model, study_name)]
    yield from (*seeing, *steered)
    if "blank" in recipe.known_systems:
        for system in (*seeing, *(one for one in steered if not one.is_control)):
            if f"image={BLANK}" not in system.args.split(","):
                args = ",".join(filter(None, (system.args, f"image={BLANK}")))
                yield replace(system, name=f"{system.name}-{BLANK}", args=args)


def prompted_tasks(study: Study) -> tuple[str, ...]:
    """The tasks of the system `prompted`; none where the study has no such system."""
    return tuple(f"{test}_prompted" for test in study.test) if study.test_prompted is None else study.test_prompted


def _unsteered(recipe: Recipe, layout: Layout, model: str, study_name: str) -> Iterator[PlannedSystem]:
    study = recipe.studies[study_name]
    wanted, tests, methods = recipe.known_systems, study.test, methods_of(recipe, recipe.models[model])
    if "baseline" in wanted:
        yield PlannedSystem("baseline", "", tests)
    if "prompted" in wanted and (prompted := prompted_tasks(study)):
        yield PlannedSystem("prompted", "", prompted)
    if "calibrated" in wanted and study.select:
        # every search of a study asks the same questions, so the biases of the first one serve for all
        concept, method = study.concepts[0], next(iter(methods))
        bias = layout.search(model, study_name, concept, method) / BIAS_FILE
        search = search_cell_name(model, study_name, concept, method)
        yield PlannedSystem("calibrated", f"answer_bias={bias}", tests, (search,))


def _own(recipe: Recipe, layout: Layout, study_name: str) -> Iterator[PlannedSystem]:
    """The recipe's own systems, with the folder in place of `{output}`."""
    tests = recipe.studies[study_name].test
    for name, system in recipe.own_systems.items():
        if study_name in (system.studies or recipe.studies):
            given = system.args or {}
            args = {key: value.replace("{output}", str(layout.output)) for key, value in given.items()}
            yield PlannedSystem(name, join_model_args(args), tests, after=system.after, given=given)


def _steered(recipe: Recipe, layout: Layout, model: str, study_name: str) -> Iterator[PlannedSystem]:
    """The choices of the study's searches, and those of their random vectors."""
    study, methods = recipe.studies[study_name], methods_of(recipe, recipe.models[model])
    for concept in study.concepts:
        for method, settings in methods.items():
            folder = layout.chosen(model, study_name, study, concept, method)
            needs = _needs(recipe, model, study_name, study, concept, method)
            label = method if len(study.concepts) == 1 else f"{concept_label(concept)}-{method}"
            for name, file, control in _choices(recipe, settings, label):
                path = str(folder / file)
                # a stored vector may have any name
                made_as_control = not settings.stored and bool(split_method(method)[1])
                is_control = bool(control) or file.startswith("control_") or made_as_control
                reads, given = ((), {}) if needs else ((path,), {"steering": path})
                yield PlannedSystem(name, f"steering={path}{control}", study.test, needs, (), reads, given, is_control)


def search_files(recipe: Recipe, settings: Method) -> tuple[str, ...]:
    """The files that a search must have written before its choices can be evaluated."""
    control_files = [_control_files(settings, suffix) for suffix in _suffixes(recipe)]
    return (
        *(f"choice{suffix}.yaml" for suffix in _suffixes(recipe)),
        *(f"choice_1se{suffix}.yaml" for suffix in _suffixes(recipe)),
        "result.json",
        *(file for files in control_files for file in files),
    )


def _needs(recipe: Recipe, model: str, study_name: str, study: Study, concept: str, method: str) -> tuple[str, ...]:
    """The search of this recipe that makes the choice; none where another recipe has made it."""
    if study.select:
        return (search_cell_name(model, study_name, concept, method),)
    return () if recipe.chosen_in else (search_cell_name(model, str(study.chosen), concept, method),)


def _choices(recipe: Recipe, settings: Method, label: str) -> Iterator[tuple[str, str, str]]:
    """Name of each steered system, the file of a search that holds its spec, and the control in its vector's place."""
    for suffix in _suffixes(recipe):
        name = label + suffix.replace("_", "-", 1)
        if "steered" in recipe.known_systems:
            yield name, f"choice{suffix}.yaml", ""
            for seed in range(settings.random_beside):
                yield f"{name}{BESIDE}{seed}", f"choice{suffix}.yaml", f",control=random:{seed}"
        if "steered_1se" in recipe.known_systems:
            yield f"{name}-1se", f"choice_1se{suffix}.yaml", ""
        if "controls" in recipe.known_systems:
            for seed, file in enumerate(_control_files(settings, suffix)):
                yield f"{name}-random-{seed}", file, ""


def _suffixes(recipe: Recipe) -> tuple[str, ...]:
    """The ends of the names of a search's choices: one for each token target, or none for the best of all."""
    if recipe.search.choose == "overall":
        return ("",)
    return tuple(f"_{target}" for target in parse_targets(recipe.search.tokens))


def _control_files(settings: Method, suffix: str) -> list[str]:
    return [f"control_random_{seed}{suffix}.yaml" for seed in range(settings.controls)]
