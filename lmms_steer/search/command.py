"""`lmms-steer search`: load once, ask what the strategy asks, choose, say what the choice is worth."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from filelock import FileLock

from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.first_use import check_vectors, extract_missing
from lmms_steer.harness import task_files
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.search.options import (
    MIN_QUESTIONS,
    SearchOptions,
    parse_alphas,
    parse_layers,
    parse_targets,
    refuse_test,
)
from lmms_steer.search.plan import FEW, PLAN, Plan, check_same_plan
from lmms_steer.steering.resolve import ModelFacts, resolve
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of
from lmms_steer.vectors.steering_vectors import SteeringVectors


def run_search(options: SearchOptions) -> Iterator[str]:
    """Yields what the user should read.

    Raises:
        UserError: before the model is loaded, for a grid, task, vector or folder that cannot be searched.
    """
    asked_for = _asked_for(options)
    _at_a_glance(options, asked_for)
    from lmms_steer.harness.steered import load_named_model
    from lmms_steer.harness.tasks import load_task
    from lmms_steer.search import questions as confirmable
    from lmms_steer.search.questions import load_questions, questions_sha256, shuffle_by_image

    task, split = load_task(options.task, options.model, options.include_path)
    refuse_test(options.task, split, options.test_known)
    to_confirm = load_task(options.confirm, options.model, options.include_path)[0] if options.confirm else None
    writes = task.config.output_type == "generate_until"
    score = ("generate" if writes else "letters") if options.score == "auto" else options.score
    # strategies look at the first questions first: they should be like the rest
    fixed = score == "letters" or "screen" in options.strategy
    asked = shuffle_by_image(list(load_questions(task, options.limit, fixed)), options.seed)
    if len(asked) < MIN_QUESTIONS:
        raise UserError(f"{options.task} has {len(asked)} questions: a search needs {MIN_QUESTIONS} at least")
    other = confirmable.check_confirmation_task(to_confirm, asked, score) if to_confirm is not None else []
    asks: dict[str, Any] = {"n": len(asked), "questions": questions_sha256(asked), "score": score}
    check_same_plan(options.output, asks)
    lm = load_named_model(options.model, options.model_args)
    _refuse_spec(lm.resolved.spec)
    facts = ModelFacts(
        lm.pretrained, len(lm.model.get_decoder().layers), lm.config.get_text_config(decoder=True).hidden_size
    )
    layers = parse_layers(options.layers, facts.n_layers) if options.layers else tuple(range(facts.n_layers))
    vectors = {name: _vector(name, layers[0], facts) for name in options.names}
    missing = sorted({layer for layer in layers for vector in vectors.values() if layer not in vector.directions})
    if missing:
        layers = tuple(layer for layer in layers if layer not in missing)
        yield f"layers where a vector has no direction are left out: {', '.join(map(str, missing))}"
    hashes = {name: vector.sha256 for name, vector in vectors.items()}
    plan = Plan(**asked_for, vectors=hashes, layers=layers, **asks)
    if writes and score == "letters":
        yield "WARNING: this task lets the model write; a cell may choose the right letter and yet write something else"
    if len(asked) < FEW:
        yield f"WARNING: {len(asked)} questions: a 95% interval is about ±{100 / len(asked) ** 0.5:.0f} points wide"
    with FileLock(options.output / ".plan.lock"):
        plan.settle(options.output)
    from torch import OutOfMemoryError

    from lmms_steer.search.run import SearchRun
    from lmms_steer.search.scorers import LetterScorer

    if score == "letters" and other:
        LetterScorer(lm, other)
    try:
        yield from SearchRun(options, plan, lm, task, vectors, asked).run(to_confirm)
    except OutOfMemoryError as error:
        raise UserError(
            f"out of memory with one question and one cell at a time: {first_line(error)}. Say --memory 0, or load the"
            " model smaller, as with load_in_8bit=True; what is finished is kept"
        ) from error


def _asked_for(options: SearchOptions) -> dict[str, Any]:
    """What a plan takes over from the command line as it is."""
    keys = ("model", "model_args", "task", "batch_size", "strategy", "trials", "seed")
    asked_for = {key: getattr(options, key) for key in keys}
    return {**asked_for, "alphas": parse_alphas(options.alphas), "tokens": parse_targets(options.tokens)}


def _at_a_glance(options: SearchOptions, asked_for: dict[str, Any]) -> None:
    """Refuse what can be refused before torch and lmms-eval are imported, which takes ten seconds."""
    if options.layers:
        parse_layers(options.layers)
    pretrained, spec = check_model_args(options.model, options.model_args)
    _refuse_spec(spec)
    if pretrained is not None:
        for vector in options.vectors:
            check_vectors(SteeringSpec.parse(f"vector={vector}"), pretrained)
    if options.include_path is not None and not options.include_path.is_dir():
        raise UserError(f"--include_path {options.include_path}: no such folder")
    for task in filter(None, (options.task, options.confirm)):
        own = str(options.include_path) if options.include_path else None
        task_files.check_task(task, own)
        if task_files.kind_of(task, own) == "group":
            raise UserError(f"{task} is a group: search on one task")
    if options.confirm == options.task:
        raise UserError(f"--confirm {options.confirm}: the choice is made on these questions, confirm it on others")
    check_same_plan(options.output, {**asked_for, "vectors": _hashes(options, pretrained)})
    options.output.mkdir(parents=True, exist_ok=True)


def _hashes(options: SearchOptions, pretrained: str | None) -> dict[str, str | None]:
    """Of the vectors that lie in a store; None for others and for controls, which the model's width makes."""
    found: dict[str, str | None] = dict.fromkeys(options.names)
    if pretrained is not None and (options.output / PLAN).is_file():
        for name in options.vectors:
            with suppress(UserError):
                path = store.find(name, backbone_of(pretrained)).path
                found[name] = SteeringVectors.load(path).sha256
    return found


def _refuse_spec(spec: SteeringSpec) -> None:
    if spec:
        raise UserError(
            "--model_args of a search name the unsteered model: give vector, layer, alpha and tokens as options"
        )


def _vector(name: str, layer: int, facts: ModelFacts) -> SteeringVectors:
    spec = SteeringSpec.parse(f"vector={name},layer={layer},alpha=1,tokens=text")
    list(extract_missing(spec, facts.name))
    return resolve(spec, facts).vectors[0]
