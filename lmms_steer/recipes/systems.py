"""The systems that a study evaluates: the baseline, what needs no vector, and the specs that searches chose."""

from collections.abc import Iterator
from dataclasses import dataclass

from lmms_steer.recipes.layout import Layout, concept_label, search_cell_name
from lmms_steer.recipes.schema import Method, Model, Recipe, Study
from lmms_steer.search.options import parse_targets


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


def methods_of(recipe: Recipe, model: Model) -> dict[str, Method]:
    """The methods that are used with a model."""
    return {name: settings for name, settings in recipe.methods.items() if name in (model.methods or recipe.methods)}


def planned_systems(recipe: Recipe, layout: Layout, model: str, study_name: str) -> Iterator[PlannedSystem]:
    """All systems that a study evaluates with the model called `model`."""
    study = recipe.studies[study_name]
    wanted, tests, methods = recipe.systems, study.test, methods_of(recipe, recipe.models[model])
    if "baseline" in wanted:
        yield PlannedSystem("baseline", "", tests)
    if "prompted" in wanted:
        yield PlannedSystem("prompted", "", study.test_prompted or tuple(f"{test}_prompted" for test in tests))
    if "calibrated" in wanted and study.select:
        # every search of a study asks the same questions, so the biases of the first one serve for all
        concept, method = study.concepts[0], next(iter(methods))
        bias = layout.search(model, study_name, concept, method) / "answer_bias.yaml"
        search = search_cell_name(model, study_name, concept, method)
        yield PlannedSystem("calibrated", f"answer_bias={bias}", tests, (search,))
    for concept in study.concepts:
        for method, settings in methods.items():
            folder = layout.chosen(model, study_name, study, concept, method)
            needs = _needs(recipe, model, study_name, study, concept, method)
            label = method if len(study.concepts) == 1 else f"{concept_label(concept)}-{method}"
            for name, file in _choices(recipe, settings, label):
                path = str(folder / file)
                yield PlannedSystem(name, f"steering={path}", tests, needs, () if needs else (path,))


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


def _choices(recipe: Recipe, settings: Method, label: str) -> Iterator[tuple[str, str]]:
    """Name of each steered system, and the file of a search that holds its spec."""
    for suffix in _suffixes(recipe):
        name = label + suffix.replace("_", "-", 1)
        if "steered" in recipe.systems:
            yield name, f"choice{suffix}.yaml"
        if "steered_1se" in recipe.systems:
            yield f"{name}-1se", f"choice_1se{suffix}.yaml"
        if "controls" in recipe.systems:
            for seed, file in enumerate(_control_files(settings, suffix)):
                yield f"{name}-random-{seed}", file


def _suffixes(recipe: Recipe) -> tuple[str, ...]:
    """The ends of the names of a search's choices: one for each token target, or none for the best of all."""
    if recipe.search.choose == "overall":
        return ("",)
    return tuple(f"_{target}" for target in parse_targets(recipe.search.tokens))


def _control_files(settings: Method, suffix: str) -> list[str]:
    return [f"control_random_{seed}{suffix}.yaml" for seed in range(settings.controls)]
