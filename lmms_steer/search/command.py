"""`lmms-steer search`: check what was asked for, load the model once, and run the search."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from lmms_steer._util.extras import require_extra
from lmms_steer._util.io import check_writable
from lmms_steer.errors import UserError, first_line
from lmms_steer.search.before_loading import (
    check_before_imports,
    known_layers,
    planned_options,
    refuse_spec,
    weights_of_folder,
)
from lmms_steer.search.dry_run import dry_run
from lmms_steer.search.harnesses import create
from lmms_steer.search.ignored import ignored_lines
from lmms_steer.search.options import SearchOptions, parse_layers
from lmms_steer.search.plan import FEW_QUESTIONS, Plan, check_same_plan
from lmms_steer.search.resolved_cells import (
    gate_sha256,
    layers_at,
    own_code_sha256,
    resolve_cells,
    steerable_layers,
    with_norms,
)
from lmms_steer.search.scoring_settings import own_scores_sha256, scoring_settings
from lmms_steer.search.study_questions import StudyQuestions, load_study_questions
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.vectors.weights import model_source


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
        yield from dry_run(options)
        return
    planned = planned_options(options)
    known = {**planned, **check_before_imports(options)}
    check_writable(options.output, "the output folder", "choose another with --output")
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        loaded = load_study_questions(options)
    except UserError:
        # the folder of another search is the better reason, as this one may come from what differs
        check_same_plan(options.output, known)
        raise
    task, questions, score = loaded.task, loaded.questions, loaded.score
    found: dict[str, Any] = {
        "n": len(questions),
        "questions": loaded.questions_sha256,
        "score": score,
        "writing": scoring_settings(task.config, score, options.metric),
    }
    check_same_plan(options.output, {**known, **found, **known_layers(options), "weights": weights_of_folder(options)})
    lm = create(options)
    # now that they are on this disk
    found["weights"] = model_source(lm.pretrained, lm.commit).get("weights_sha256")
    found["code"] = own_code_sha256(options, lm, own_scores_sha256(task.config, score))
    # imports torch
    from lmms_steer.steering.anatomy import decoder_layers

    refuse_spec(lm.resolved.spec)
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
    yield from _warnings(options, loaded)
    begun = yield from _recorded(plan, options.output)
    from torch import OutOfMemoryError

    from lmms_steer.search.run import SearchRun
    from lmms_steer.search.scorers import LetterScorer

    if score == "letters" and loaded.confirmation_questions:
        # refuses answers that the model cannot tell apart before the search, not after it
        LetterScorer(lm, loaded.confirmation_questions)
    try:
        yield from SearchRun(options, begun, lm, task, cells, questions).run(loaded.confirmation_task)
    except OutOfMemoryError as error:
        raise UserError(
            f"out of memory with one question and one cell at a time: {first_line(error)}. Try --memory 0, or load the"
            " model smaller, for example with load_in_8bit=True; finished batches are kept"
        ) from error


def _warnings(options: SearchOptions, loaded: StudyQuestions) -> Iterator[str]:
    """What the user should know of the options and the questions before anything is measured."""
    if loaded.generates and loaded.score == "letters":
        yield (
            "WARNING: in this task the model generates text; a cell may favour the correct letter and yet generate"
            " something else"
        )
    n = len(loaded.questions)
    if n < FEW_QUESTIONS:
        yield f"WARNING: {n} questions: a 95% interval is about ±{100 / n**0.5:.0f} points wide"
    yield from ignored_lines(options, n)


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
