"""`lmms-steer search`: check what was asked for, load the model once, and run the search."""

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lmms_steer._util.extras import require_extra
from lmms_steer._util.formatting import count_noun, format_layers
from lmms_steer._util.io import check_writable
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.first_use import check_vectors, extract_missing
from lmms_steer.harness import task_files
from lmms_steer.search import budgets, floors
from lmms_steer.search.harnesses import check_arguments, create, load
from lmms_steer.search.options import (
    SearchOptions,
    check_metric,
    parse_alphas,
    parse_budgets,
    parse_layers,
    parse_strengths,
    refuse_test,
)
from lmms_steer.search.plan import (
    BUDGET_PROMPTS,
    FEW_QUESTIONS,
    LM_EVAL,
    LMMS_EVAL,
    MIN_QUESTIONS,
    PLAN_FILE,
    Plan,
    check_same_plan,
)
from lmms_steer.search.resolved_cells import gate_sha256, layers_at, resolve_cells, spec_of, with_norms
from lmms_steer.search.writing import writing_of
from lmms_steer.steering.facts import ModelFacts, facts_of_config
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, checkpoint
from lmms_steer.vectors.local_checkpoints import number_of_layers
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import model_source

if TYPE_CHECKING:
    from lmms_steer.search.questions import Question


def run_search(options: SearchOptions) -> Generator[str, None, None]:
    """Run a search, or resume it.

    Args:
        options: what to search.

    Yields:
        the lines that the user should read.

    Raises:
        UserError: before the model is loaded, for a grid, task, vector or folder that cannot be searched.
    """
    require_extra("search", "a search")
    if options.dry_run:
        yield from _dry_run(options)
        return
    planned = _planned_options(options)
    known = {**planned, **_check_before_imports(options)}
    check_writable(options.output, "the output folder", "choose another with --output")
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        asked = _ask(options)
    except UserError:
        # the folder of another search is the better reason, as this one may come from what differs
        check_same_plan(options.output, known)
        raise
    task, questions, score = asked.task, asked.questions, asked.score
    found: dict[str, Any] = {
        "n": len(questions),
        "questions": asked.questions_sha256,
        "score": score,
        "writing": writing_of(task.config, score, options.metric),
    }
    check_same_plan(
        options.output, {**known, **found, **_known_layers(options), "weights": _weights_of_folder(options)}
    )
    lm = create(options)
    # now that they are on this disk
    found["weights"] = model_source(lm.pretrained, lm.commit).get("weights_sha256")
    found["code"] = _own_code(options, lm)
    # imports torch
    from lmms_steer.steering.anatomy import decoder_layers

    _refuse_spec(lm.resolved.spec)
    # refuses a model whose decoder is not found
    decoder_layers(lm.model)
    facts = facts_of_config(lm.config, lm.pretrained)
    n_layers = layers_at(options.fixed_keys, facts)
    layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
    steerable = steerable_layers(options.vectors, layers, facts)
    if missing := sorted(set(layers) - set(steerable)):
        layers = steerable
        yield f"layers where a vector has no direction are left out: {', '.join(map(str, missing))}"
    cells = resolve_cells(options, layers, facts)
    if options.fixed_keys:
        cells = with_norms(cells, lm)
    vectors = {name: cell.vectors[0] for name, cell in cells.items()}
    hashes = {name: vector.sha256 for name, vector in vectors.items()}
    plan = Plan(**planned, vectors=hashes, layers=layers, gate=gate_sha256(options, cells), **found)
    if asked.generates and score == "letters":
        yield (
            "WARNING: in this task the model generates text; a cell may favour the correct letter and yet generate"
            " something else"
        )
    if len(questions) < FEW_QUESTIONS:
        width = 100 / len(questions) ** 0.5
        yield f"WARNING: {len(questions)} questions: a 95% interval is about ±{width:.0f} points wide"
    begun = yield from _recorded(plan, options.output)
    from torch import OutOfMemoryError

    from lmms_steer.search.run import SearchRun
    from lmms_steer.search.scorers import LetterScorer

    if score == "letters" and asked.confirmation_questions:
        # refuses answers that the model cannot tell apart before the search, not after it
        LetterScorer(lm, asked.confirmation_questions)
    try:
        yield from SearchRun(options, begun, lm, task, cells, questions).run(asked.confirmation_task)
    except OutOfMemoryError as error:
        raise UserError(
            f"out of memory with one question and one cell at a time: {first_line(error)}. Try --memory 0, or load the"
            " model smaller, for example with load_in_8bit=True; finished batches are kept"
        ) from error


def _dry_run(options: SearchOptions) -> Generator[str, None, None]:
    """Say what a search would measure and could find. Nothing is written, and no weights are loaded."""
    from lmms_steer.search.power import planned_power_lines
    from lmms_steer.search.questions import image_clusters
    from lmms_steer.search.strategies import StrategyContext

    _check_before_imports(options)
    pretrained, _ = check_arguments(options)
    if pretrained is None:
        raise UserError("--dry-run needs pretrained=NAME in --model_args, for the number of layers")
    n_layers = layers_at(options.fixed_keys, _facts_on_disk(pretrained))
    layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
    asked = _ask(options)
    questions: dict[str, Any] = {"n": len(asked.questions), "questions": asked.questions_sha256, "score": asked.score}
    plan = Plan(**_planned_options(options), vectors=dict.fromkeys(options.names, ""), layers=layers, **questions)
    cells = plan.cells(options.fixed_keys.last_useless_for_images(n_layers))
    context = StrategyContext.of(plan, cells, image_clusters(asked.questions))
    if not context.cells:
        raise UserError("the grid is empty: steering image tokens of the last layer cannot change an answer")
    chosen = options.chosen_strategy
    yield chosen.strategy.summary(chosen.after_filter(context))
    answers = chosen.planned_answers(context)
    yield f"at most {answers} answers of {plan.task}, one cell and one question each"
    if passes := chosen.filter_passes(context):
        yield f"before that, the filter of {plan.strategy} makes {passes} forward passes of a question"
    if plan.budgets:
        resolved = chosen.resolved_cells(context.cells)
        places = count_noun(len({replace(cell, alpha=0.0) for cell in resolved}), "alpha")
        prompts = min(plan.n, BUDGET_PROMPTS)
        about = budgets.planned_answers(resolved, parse_strengths(options.alphas), plan.n)
        yield (
            f"before that, {places} for each budget must be found on the first {prompts} questions, whose right answers"
            f" are not read: about {about} answers"
        )
    yield from planned_power_lines(options.chosen_strategy, context)
    yield "nothing was measured (--dry-run)"


def _facts_on_disk(pretrained: str) -> ModelFacts:
    """What a checkpoint's config states, without its weights."""
    from transformers import AutoConfig

    from lmms_steer.models.loading import load_or_refuse

    config = load_or_refuse(pretrained, AutoConfig.from_pretrained, checkpoint(pretrained))
    return facts_of_config(config, pretrained)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a search asks.

    Attributes:
        task, confirmation_task: the harness's tasks; no confirmation is None.
        questions: in the study's order.
        questions_sha256: their hash.
        confirmation_questions: those of the confirmation.
        generates: whether the model generates text in the task.
        score: how answers are scored.
    """

    task: Any
    confirmation_task: Any | None
    questions: "Sequence[Question]"
    questions_sha256: str
    confirmation_questions: "Sequence[Question]"
    generates: bool
    score: str


def _ask(options: SearchOptions) -> _Asked:
    """Load the tasks and their questions.

    Raises:
        UserError: for a task or questions that cannot be searched.
    """
    from lmms_steer.search.confirmation import check_confirmation_task
    from lmms_steer.search.questions import image_clusters, load_questions, questions_sha256, shuffle_by_image

    task, split = load(options, options.task, options.split)
    held_out = "(--split validation, or another that it has)" if options.harness == LM_EVAL else "(…_select)"
    refuse_test(options.task, split, options.allow_test, held_out)
    confirmation_task = load(options, options.confirm)[0] if options.confirm else None
    generates = task.config.output_type == "generate_until"
    choosing = "likelihood" if options.harness == LM_EVAL else "letters"
    score = ("generate" if generates else choosing) if options.score == "auto" else options.score
    require_answer_set = score == "letters" or options.chosen_strategy.needs_answer_set
    # strategies look at the first questions first, so those should be like the rest
    questions = shuffle_by_image(list(load_questions(task, options.limit, require_answer_set)), options.seed)
    if len(questions) < MIN_QUESTIONS:
        raise UserError(f"{options.task} has {len(questions)} questions: a search needs at least {MIN_QUESTIONS}")
    known = floors.context_of(_grid(options), len(questions), image_clusters(questions))
    floors.check_questions(options.chosen_strategy, known, "the search" if options.limit else options.task)
    confirmation_questions = (
        check_confirmation_task(confirmation_task, questions, score) if confirmation_task is not None else []
    )
    if options.harness == LMMS_EVAL and (score == "generate" or options.metric is not None):
        for one in filter(None, (task, confirmation_task)):
            check_metric(options.metric, one.config.task, one.config.metric_list)
        if score == "letters":
            raise UserError(f"--metric {options.metric}: in {options.task} the likeliest letter counts: leave it out")
    sha256 = questions_sha256(questions)
    return _Asked(task, confirmation_task, questions, sha256, confirmation_questions, generates, score)


def _recorded(plan: Plan, folder: Path) -> Generator[str, None, Plan]:
    """Write the plan, or find the one that the study began with; yields a warning of what they cannot be compared in.

    Raises:
        UserError: for the folder of another search.
    """
    with FileLock(folder / ".plan.lock"):
        begun = plan.write_or_check(folder)
    if unknown := plan.unknown_of(begun):
        yield f"WARNING: it is not known whether {unknown} are the same as when this study began"
    return begun


def _weights_of_folder(options: SearchOptions) -> str | None:
    """The hash of a local folder's weights; None for another checkpoint, whose files may change when it is loaded."""
    pretrained, _ = check_arguments(options)
    if pretrained is None or not Path(pretrained).is_dir():
        return None
    return model_source(pretrained).get("weights_sha256")


def _own_code(options: SearchOptions, lm: Any) -> str | None:
    """The hash of the code that is not this package's and that answers depend on; None where there is none.

    A strategy's is not a part of it: other rungs are told by their cells.
    """
    from lmms_steer.models.prompts import prompt_formats
    from lmms_steer.steering.resolved import own_code

    used = own_code(options.fixed_keys.intervention)
    prompt_format = getattr(lm, "prompt_format", None)
    code = prompt_formats.code(prompt_format.name) if prompt_format is not None else None
    used |= {"prompt format": code} if code is not None else {}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest() if used else None


def _planned_options(options: SearchOptions) -> dict[str, Any]:
    """The part of a plan that the options determine alone."""
    return {
        "model": options.model,
        "model_args": options.model_args,
        "task": options.task,
        "batch_size": options.batch_size,
        "strategy": options.chosen_strategy.name,
        "trials": options.trials,
        "seed": options.seed,
        "alphas": parse_budgets(options.alphas) or parse_alphas(options.alphas),
        "tokens": options.targets,
        "harness": options.harness,
        "metric": options.metric,
        "split": options.split,
        "num_fewshot": options.num_fewshot,
        "spec": str(options.fixed_keys),
    }


def _check_before_imports(options: SearchOptions) -> dict[str, Any]:
    """Refuse what can be refused before torch and lmms-eval are imported, which takes ten seconds.

    Returns:
        the part of a plan that is known of the vectors, for `check_same_plan`.
    """
    if options.limit is not None:
        known = floors.context_of(_grid(options), options.limit)
        floors.check_questions(options.chosen_strategy, known, "a search with --limit")
    if options.layers:
        parse_layers(options.layers)
    pretrained, spec = check_arguments(options)
    _refuse_spec(spec)
    if pretrained is not None:
        for vector in options.vectors:
            check_vectors(spec_of(options.fixed_keys, vector), pretrained)
    if options.include_path is not None and not options.include_path.is_dir():
        raise UserError(f"--include_path {options.include_path}: no such folder")
    for task in filter(None, (options.task, options.confirm) if options.harness == LMMS_EVAL else ()):
        own = str(options.include_path) if options.include_path else None
        task_files.check_task(task, own)
        if task_files.kind_of(task, own) == "group":
            raise UserError(f"{task} is a group: search on one task")
    if options.confirm == options.task and options.split is None:
        raise UserError(f"--confirm {options.confirm}: the choice is made on these questions, confirm it on others")
    vectors = _known_vectors(options)
    hashes = {name: vectors[name].sha256 if name in vectors else None for name in options.names}
    return {"vectors": hashes}


def _grid(options: SearchOptions) -> tuple[int, int, int]:
    """How many layers, alphas and token targets are searched; one layer where the model's are not known yet."""
    pretrained = check_arguments(options)[0]
    layers = len(parse_layers(options.layers)) if options.layers else number_of_layers(pretrained or "") or 1
    return layers, len(parse_strengths(options.alphas)), len(options.targets)


def _known_vectors(options: SearchOptions) -> dict[str, SteeringVectors]:
    """The user's vectors that exist already, where the folder holds a study to compare them with."""
    pretrained, _ = check_arguments(options)
    vectors = {}
    if pretrained is not None and (options.output / PLAN_FILE).is_file():
        for name in options.vectors:
            with suppress(UserError):
                vectors[name] = SteeringVectors.load(store.find(name, backbone_of(pretrained)).path)
    return vectors


def _known_layers(options: SearchOptions) -> dict[str, Any]:
    """The layers that will be searched, where they are known before the weights are loaded, for `check_same_plan`."""
    vectors = _known_vectors(options)
    pretrained, _ = check_arguments(options)
    if pretrained is None or len(vectors) < len(options.vectors):
        return {}
    with suppress(UserError):
        n_layers = layers_at(options.fixed_keys, _facts_on_disk(pretrained))
        layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
        return {"layers": [layer for layer in layers if all(v.can_steer(layer) for v in vectors.values())]}
    return {}


def _refuse_spec(spec: SteeringSpec) -> None:
    if spec:
        raise UserError(
            "--model_args of a search must name the unsteered model: give vector, layer, alpha and tokens as options,"
            " and other keys as --spec"
        )


def steerable_layers(names: Sequence[str], layers: Sequence[int], facts: ModelFacts) -> tuple[int, ...]:
    """Those of the layers where every vector has a direction; vectors that are in no store are extracted first.

    Raises:
        UserError: for a vector that does not exist, or where no layer is left.
    """
    steerable = tuple(layers)
    for name in names:
        list(extract_missing(SteeringSpec.parse(f"vector={name}"), facts.name))
        vector = SteeringVectors.load(store.find(name, backbone_of(facts.name)).path)
        left = tuple(layer for layer in steerable if vector.can_steer(layer))
        if not left:
            has = format_layers(tuple(layer for layer in vector if vector.can_steer(layer))) or "none"
            raise UserError(
                f"vector {name!r} has a direction at layer {has}, and at none of the layers to search,"
                f" {format_layers(steerable)}: choose others with --layers"
            )
        steerable = left
    return steerable


def resolved_vector(name: str, layer: int, facts: ModelFacts) -> SteeringVectors:
    """A vector or its control, checked against the model. layer: any at which the vector has a direction."""
    return resolve(SteeringSpec.parse(f"vector={name},layer={layer},alpha=1,tokens=text"), facts).vectors[0]
