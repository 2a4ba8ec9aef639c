"""Check every name and value in a recipe before anything runs; each error names the recipe's file and line.

Imports neither torch nor lmms-eval, so that a plan is quick.
"""

import re
import shlex
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from itertools import product
from pathlib import Path

from lmms_steer import concepts
from lmms_steer._util.yaml import YamlNode
from lmms_steer.data.availability import read_task_file
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.harness import task_files
from lmms_steer.harness.names import MODELS, engine_error, runs_in_engine, steered_names_on_disk
from lmms_steer.models import DTYPES
from lmms_steer.recipes.answers import search_grid
from lmms_steer.recipes.cells import WAITABLE_KINDS
from lmms_steer.recipes.in_process import PROGRAMS
from lmms_steer.recipes.layout import (
    backbone_name,
    command_cell_name,
    concept_label,
    is_concept_file,
    models_named_in,
    stored_vector,
)
from lmms_steer.recipes.schema import REPORTS, Recipe, Study
from lmms_steer.recipes.system_checks import system_mistakes
from lmms_steer.recipes.systems import methods_of, prompted_tasks
from lmms_steer.search import required_questions
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.options import (
    CHOICES,
    SCORES,
    check_metric,
    check_strengths,
    parse_layers,
    parse_strengths,
    parse_targets,
)
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import checkpoint, short_name
from lmms_steer.vectors.local_checkpoints import number_of_layers
from lmms_steer.vectors.methods import check_method

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the top of the recipe to a value."""
_NAME = re.compile(r"[\w+-][\w.+-]*")


def check_recipe(recipe: Recipe, tree: YamlNode) -> None:
    """Check every name and value in a recipe.

    Args:
        recipe: the recipe, which fits the schema.
        tree: the recipe as it was read, which knows the lines.

    Raises:
        UserError: for the first mistake, with its line.
    """
    for part in ("models", "methods", "studies"):
        for name in getattr(recipe, part):
            if not _NAME.fullmatch(name):
                expected = "a name is made of letters, digits and . _ + -, and starts with no dot"
                raise _with_line(tree, (part, name), UserError(f"{name!r}: {expected}"))
    _check_models(recipe, tree)
    _check_methods(recipe, tree)
    _check_search(recipe, tree)
    _check_studies(recipe, tree)
    _check_commands(recipe, tree)
    for path, error in system_mistakes(recipe):
        raise _with_line(tree, path, error)
    _check_known(tree, ("report",), "report", filter(None, [recipe.report]), REPORTS)
    if recipe.report and "baseline" not in recipe.known_systems:
        raise _with_line(tree, ("report",), UserError("a report compares with the baseline: add it to systems:"))
    if not recipe.models or not recipe.studies:
        raise UserError(f"{tree.where}: the recipe has no models or no studies, so there is nothing to do")


def _check_models(recipe: Recipe, tree: YamlNode) -> None:
    for name, model in recipe.models.items():
        path = ("models", name)
        _check_value(tree, (*path, "model"), _check_model_name, model.model)
        _check_value(tree, (*path, "pretrained"), partial(checkpoint, make=False), model.pretrained)
        for key, value in {"pretrained": model.pretrained, **model.args}.items():
            if re.search(r"[,=\s]", value):
                error = UserError(f"{key}={value}: a value in --model_args cannot contain ',', '=' or a space")
                raise _with_line(tree, (*path, key if key == "pretrained" else "args"), error)
        _check_known(tree, (*path, "methods"), "method of this recipe", model.methods or (), recipe.methods)
        if model.layers:
            _check_value(tree, (*path, "layers"), parse_layers, model.layers, number_of_layers(model.pretrained))
        if model.model in MODELS and "dtype" in model.args:
            _check_known(tree, (*path, "args", "dtype"), "dtype", [model.args["dtype"]], DTYPES)
        if model.backbone_dtype is not None:
            _check_known(tree, (*path, "backbone_dtype"), "dtype", [model.backbone_dtype], DTYPES)
    _check_backbone_names(recipe, tree)


def _check_backbone_names(recipe: Recipe, tree: YamlNode) -> None:
    """Refuse two backbones of one name, or one with two dtypes: vectors are kept by the backbone's name."""
    backbones: dict[str, str] = {}
    dtypes: dict[str, str | None] = {}
    for name, model in recipe.models.items():
        backbone = backbone_name(model).rstrip("/")
        other = backbones.setdefault(short_name(backbone), backbone)
        if other != backbone:
            error = UserError(
                f"the backbones {other!r} and {backbone!r} have the same name, and so would their vectors: rename one"
                " of the folders, or put the models into two recipes"
            )
            raise _with_line(tree, ("models", name), error)
        first = dtypes.setdefault(backbone, model.backbone_dtype)
        if first != model.backbone_dtype:
            error = UserError(
                f"the models on the backbone {backbone!r} share its vectors: give all of them the same backbone_dtype"
            )
            raise _with_line(tree, ("models", name), error)


def _check_model_name(model: str) -> None:
    """
    Raises:
        UserError: for a name that lmms-eval's `--model` does not take, or a model that cannot be steered.
    """
    wrapper, known = model.replace(":", "_", 1).removeprefix("steered_"), steered_names_on_disk()
    if model in MODELS:
        return
    if f"steered_{wrapper}" not in known or not model.startswith("steered_"):
        steerable = [*MODELS, *(name for name in known if not runs_in_engine(name))]
        # there are hundreds: name only those that the user may have meant
        nearest = get_close_matches(model, sorted(steerable), n=6, cutoff=0.4)
        raise unknown_name("model", model, nearest)
    if runs_in_engine(wrapper):
        raise engine_error(wrapper)


def _check_methods(recipe: Recipe, tree: YamlNode) -> None:
    for name, method in recipe.methods.items():
        if not method.stored:
            _check_value(tree, ("methods", name), check_method, name)
        elif method.sae or method.judge or method.paper_exact:
            error = UserError("a stored vector is used as it is: leave out sae, judge and paper_exact, or stored")
            raise _with_line(tree, ("methods", name, "stored"), error)
        if method.alphas is not None:
            _check_value(tree, ("methods", name, "alphas"), parse_strengths, method.alphas)
        if method.random_beside and "steered" not in recipe.known_systems:
            error = UserError("random vectors are measured beside the system steered: add it to systems:")
            raise _with_line(tree, ("methods", name, "random_beside"), error)


def _check_search(recipe: Recipe, tree: YamlNode) -> None:
    search = recipe.search
    _check_value(tree, ("search", "tokens"), parse_targets, search.tokens)
    if search.strategy is not None:
        _check_value(tree, ("search", "strategy"), parse_strategy, search.strategy)
        _check_question_counts(recipe, tree, search.strategy)
        check = partial(check_strengths, strategy=parse_strategy(search.strategy))
        for name, method in recipe.methods.items():
            if method.alphas is not None:
                _check_value(tree, ("methods", name, "alphas"), check, method.alphas)
    _check_known(tree, ("search", "score"), "score", filter(None, [search.score]), SCORES)
    _check_known(tree, ("search", "choose"), "value of choose", [search.choose], CHOICES)
    if search.choose == "per_target":
        _check_value(tree, ("search", "choose"), parse_strategy(search.strategy or "grid").check_targets)
    if recipe.metric is not None and search.score == "letters":
        error = UserError(
            f"metric: {recipe.metric}: with score: letters the likeliest letter counts: remove one of the two"
        )
        raise _with_line(tree, ("metric",), error)


def _check_question_counts(recipe: Recipe, tree: YamlNode, strategy: str) -> None:
    """Check that a strategy has enough questions in every search, as far as the recipe says how many there are."""
    chosen, limit = parse_strategy(strategy), recipe.search_limit
    for name, study in recipe.studies.items():
        known = [n for n in (limit, study.select_questions) if n is not None]
        searches = product(recipe.models.values(), recipe.methods.values()) if study.select and known else ()
        for model, method in searches:
            context = required_questions.context_of(search_grid(recipe, model, method), min(known))
            check = partial(required_questions.check_questions, chosen, context)
            _check_value(tree, ("search", "strategy"), check, f"the study {name}")


def _check_studies(recipe: Recipe, tree: YamlNode) -> None:
    if recipe.include_path is not None and not Path(recipe.include_path).is_dir():
        raise _with_line(tree, ("include_path",), UserError(f"no such folder of tasks: {recipe.include_path!r}"))
    passed: set[tuple[object, ...]] = set()

    def check_once(path: KeyPath, check: Callable[..., object], *args: str | None) -> None:
        # studies share their tasks, and a check reads the task's files
        if (check, *args) not in passed:
            _check_value(tree, path, check, *args)
            passed.add((check, *args))

    for name, study in recipe.studies.items():
        path = ("studies", name)
        # a stored vector's concept may be one that only its maker knows
        for concept in study.concepts if not all(method.stored for method in recipe.methods.values()) else ():
            _check_concept(tree, (*path, "concepts"), concept)
        tasks = {"select": (study.select,), "test": study.test, "test_prompted": study.test_prompted or ()}
        for key, names in tasks.items():
            for task in filter(None, names):
                check_once((*path, key), task_files.check_task, task, recipe.include_path)
        if study.select:
            check_once((*path, "select"), _check_select, study.select, recipe.include_path)
        if "prompted" in recipe.known_systems and study.test_prompted is None:
            for task in prompted_tasks(study):
                check_once((*path, "test"), _check_prompted, task, recipe.include_path)
        if (study.select is None) == (study.chosen is None):
            raise _with_line(tree, path, UserError(f"study {name}: set either select: TASK or chosen: STUDY"))
        if study.chosen is not None and recipe.chosen_in is None:
            _check_chosen(recipe, tree, name, study)
    tasks_asked = (task for study in recipe.studies.values() for task in (study.select, *study.test) if task)
    for task in tasks_asked if recipe.metric is not None else ():
        check_once(("metric",), _check_metric, recipe.metric, task, recipe.include_path)
    for concept in recipe.concepts:
        _check_concept(tree, ("concepts",), concept)
    _check_labels(recipe, tree)
    _check_stored(recipe, tree)


def _check_stored(recipe: Recipe, tree: YamlNode) -> None:
    """Check that a store has the vectors that the recipe does not extract."""
    studies = [study for study in recipe.studies.values() if study.select]
    for model, study in product(recipe.models.values(), studies):
        stored = (name for name, method in methods_of(recipe, model).items() if method.stored)
        for method, concept in product(stored, study.concepts):
            path = ("methods", method, "stored")
            _check_value(tree, path, store.find, stored_vector(model, concept, method), None)


def _check_concept(tree: YamlNode, path: KeyPath, concept: str) -> None:
    if not is_concept_file(concept):
        _check_known(tree, path, "concept", [concept], concepts.names())
    elif not Path(concept).is_file():
        raise _with_line(tree, path, UserError(f"no such concept file: {concept!r}"))
    elif "," in concept:
        error = UserError(f"{concept!r}: a concept file's path cannot contain ',', which separates concepts: rename it")
        raise _with_line(tree, path, error)


def _check_select(task: str, include_path: str | None) -> None:
    kind, file = task_files.task_file(task, include_path)
    if kind != "task":
        raise UserError(f"select: {task} is a {kind}: a choice is made on one task")
    config = read_task_file(file)
    split = str(config.get("test_split") or config.get("validation_split"))
    if task_files.is_test_task(task, split):
        held_out = task_files.held_out_task(task) or "(…_select)"
        raise UserError(f"select: {task} asks the split {split!r}: choose on held-out questions {held_out}")


def _check_chosen(recipe: Recipe, tree: YamlNode, name: str, study: Study) -> None:
    """Check that a study of this recipe makes the choices that another one uses."""
    path = ("studies", name, "chosen")
    choosing = {key: one for key, one in recipe.studies.items() if one.select}
    if study.chosen not in choosing:
        hint = "; for a choice of another recipe, set chosen_in: FOLDER"
        unknown = unknown_name("study that chooses", study.chosen, choosing)
        raise _with_line(tree, path, UserError(f"{unknown}{hint}"))
    missing = [concept for concept in study.concepts if concept not in choosing[study.chosen].concepts]
    if missing:
        raise _with_line(tree, path, UserError(f"the study {study.chosen} chooses nothing for {', '.join(missing)}"))


def _check_metric(metric: str, task: str, include_path: str | None) -> None:
    kind, file = task_files.task_file(task, include_path)
    if kind != "task":
        return
    try:
        listed = read_task_file(file).get("metric_list")
    except UserError:
        # data that is missing; the plan reports it
        return
    check_metric(metric, task, listed)


def _check_prompted(task: str, include_path: str | None) -> None:
    if task_files.kind_of(task, include_path) is None:
        raise UserError(
            f"the system `prompted` needs the task {task!r}, which does not exist: set test_prompted:, or leave"
            " `prompted` out of systems:"
        )


def _check_labels(recipe: Recipe, tree: YamlNode) -> None:
    """Check that no two concepts have the same name, because a vector's path is made from it."""
    places: list[tuple[str, KeyPath]] = [(concept, ("concepts",)) for concept in recipe.concepts]
    places += [(c, ("studies", name, "concepts")) for name, study in recipe.studies.items() for c in study.concepts]
    seen: dict[str, str] = {}
    for concept, path in places:
        label = concept_label(concept)
        first = seen.setdefault(label, concept)
        if first != concept:
            error = UserError(f"{first!r} and {concept!r} are both the concept {label!r}: rename one")
            raise _with_line(tree, path, error)


def _check_commands(recipe: Recipe, tree: YamlNode) -> None:
    names = [command.name for command in recipe.commands]
    cells = [command_cell_name(name) for name in names]
    for number, command in enumerate(recipe.commands):
        path = ("commands", number)
        if command.name in WAITABLE_KINDS or not _NAME.fullmatch(command.name.replace(" ", "_")):
            expected = f"a name is made of letters, digits and . _ + -, and is none of {', '.join(WAITABLE_KINDS)}"
            raise _with_line(tree, (*path, "name"), UserError(f"command {command.name!r}: {expected}"))
        if cells[number] in cells[:number]:
            raise _with_line(tree, (*path, "name"), UserError(f"two commands are named {command.name!r}: rename one"))
        try:
            program = [*shlex.split(command.run), ""][0]
        except ValueError as error:
            raise _with_line(tree, (*path, "run"), UserError(f"run: {error}")) from error
        _check_known(tree, (*path, "run"), "program", [program], PROGRAMS)
        _check_known(tree, (*path, "run"), "model", models_named_in(command.run), recipe.models)
        _check_known(tree, (*path, "after"), "cell", command.after, (*WAITABLE_KINDS, *names[:number]))


def _check_known(tree: YamlNode, path: KeyPath, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """
    Raises:
        UserError: for the first name that is not known, with the line of `path`.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise _with_line(tree, path, unknown_name(kind, name, known))


def _check_value(tree: YamlNode, path: KeyPath, check: Callable[..., object], *args: str | int | None) -> None:
    """
    Raises:
        UserError: the one that `check` raises, with the line of `path`.
    """
    try:
        check(*args)
    except UserError as error:
        raise _with_line(tree, path, error) from error


def _with_line(tree: YamlNode, path: KeyPath, error: UserError) -> UserError:
    return UserError(f"{tree.at(path).where}: {error}")
