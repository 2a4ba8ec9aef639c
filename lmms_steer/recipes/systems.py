"""What a study evaluates: the baseline, and all that stands beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from lmms_steer.recipes import words
from lmms_steer.recipes.layout import Layout
from lmms_steer.recipes.schema import Recipe, Study


@dataclass(frozen=True, slots=True)
class System:
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


def systems(recipe: Recipe, at: Layout, model: str, study_name: str, study: Study) -> Iterator[System]:
    """All systems of a model in a study."""
    wanted, tests = recipe.systems, study.test
    if "baseline" in wanted:
        yield System("baseline", "", tests)
    if "prompted" in wanted:
        yield System("prompted", "", study.test_prompted or tuple(f"{test}_prompted" for test in tests))
    if "calibrated" in wanted and study.select:
        # the same questions were asked in every search of the study: the first one's biases will do
        concept, method = study.concepts[0], next(iter(recipe.methods))
        bias = at.search(model, study_name, concept, method) / "answer_bias.yaml"
        yield System("calibrated", f"answer_bias={bias}", tests, (search_cell(model, study_name, concept, method),))
    for concept in study.concepts:
        for method in recipe.methods:
            folder = at.chosen(model, study_name, study, concept, method)
            needs = (search_cell(model, study_name, concept, method),) if study.select else ()
            label = method if len(study.concepts) == 1 else f"{words.label(concept)}-{method}"
            for name, file in _chosen(recipe, method, label):
                path = str(folder / file)
                yield System(name, f"steering={path}", tests, needs, () if needs else (path,))


def search_cell(model: str, study: str, concept: str, method: str) -> str:
    """The name of a search's cell."""
    return f"search/{model}/{study}/{words.label(concept)}-{method}"


def _chosen(recipe: Recipe, method: str, label: str) -> Iterator[tuple[str, str]]:
    if "steered" in recipe.systems:
        yield label, "choice.yaml"
    if "steered_1se" in recipe.systems:
        yield f"{label}-1se", "choice_1se.yaml"
    if "controls" in recipe.systems:
        for seed in range(recipe.methods[method].controls):
            yield f"{label}-random-{seed}", f"control_random_{seed}.yaml"
