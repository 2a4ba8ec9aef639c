"""`lmms_steer.layers` and `lmms-steer layers`: all layer scores of a vector side by side."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmms_steer._util.formatting import join_values
from lmms_steer.concepts import Concept
from lmms_steer.concepts.given import read_concept
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.arguments import check_model_args, join_model_args
from lmms_steer.search.layer_scores import ConceptSentences, LayerContext, layer_scores
from lmms_steer.search.options import parse_layers, parse_targets, refuse_test
from lmms_steer.search.resolved_cells import resolved_vector, steerable_layers
from lmms_steer.search.scored_layers import ScoredLayers
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.given import name_of
from lmms_steer.vectors.steering_vectors import SteeringVectors


def layers(
    model_args: str | Mapping[str, object],
    vector: str | Path | SteeringVectors,
    *,
    model: str = "steered_hf",
    task: str = "",
    scores: str | Iterable[str] = "",
    layers: str | int | Iterable[int] = "",
    tokens: str = "image",
    concept: str | Path | Concept | None = None,
    limit: int = 64,
    seed: int = 0,
    batch_size: int = 16,
    include_path: str | Path | None = None,
    allow_test: bool = False,
) -> ScoredLayers:
    """Score a vector's layers without searching them, as `lmms-steer layers` does.

    Args:
        model_args: of the unsteered model, in one line (`"pretrained=…"`) or as a mapping.
        vector: a name, a file, or what `extract` returned.
        model: the model's wrapper.
        task: a task of held-out questions, for the scores that need some; none without it.
        scores: names of scores; default: all.
        layers: `"5-20"`, 3, `[3, 7]`, …; default: all.
        tokens: the token target.
        concept: the name or the file of the concept's sentences, or a `lmms_steer.concepts.Concept`; default: those
            that the vector was made from.
        limit: how many of the task's questions are read.
        seed: of the questions' order and the other pictures.
        batch_size: questions or sentences in one forward pass.
        include_path: a folder of your own tasks.
        allow_test: allow choosing on test questions.

    Raises:
        UserError: for an invalid argument, before the model is loaded where that is possible, or where no score can be
            computed.
    """
    names = [name.strip() for name in join_values(scores).split(",")] if scores else list(layer_scores.names())
    for name in names:
        layer_scores.get(name)
    targets, wanted = parse_targets(tokens), join_values(layers)
    if len(targets) != 1:
        raise UserError(f"--tokens {tokens}: layers are scored for one token target")
    if wanted:
        parse_layers(wanted)
    given = None if concept is None else read_concept(concept)
    named, arguments = name_of(vector), join_model_args(model_args)
    unsteered = "--model_args must name the unsteered model: give the vector as --vector, and its tokens as --tokens"
    pretrained, _ = check_model_args(model, arguments, unsteered)
    if pretrained is not None:
        check_vectors(SteeringSpec((Intervention(named),)), pretrained)
    loaded_task, questions = _questions(task, model, limit, seed, include_path, allow_test) if task else (None, [])
    # these import torch
    from torch import OutOfMemoryError

    from lmms_steer.harness.steered import create_model

    lm = create_model(model, arguments)
    facts = facts_of_config(lm.config, lm.pretrained)
    numbers = steerable_layers([named], parse_layers(wanted or f"0-{facts.n_layers - 1}", facts.n_layers), facts)
    vectors = resolved_vector(named, numbers[0], facts)
    sentences = ConceptSentences(lm, vectors, given, batch_size)
    context = LayerContext(lm, vectors, numbers, targets[0], sentences, questions, batch_size, seed, loaded_task)
    found: dict[str, dict[int, float]] = {}
    missing: dict[str, str] = {}
    try:
        for name in names:
            try:
                found[name] = layer_scores.get(name)(context)
            except UserError as error:
                missing[name] = first_line(error)
    except OutOfMemoryError as error:
        raise UserError(f"out of memory: {first_line(error)}: use a smaller --batch_size") from error
    if not found:
        raise UserError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    return ScoredLayers(
        vector=vectors.name,
        model=str(lm.pretrained),
        tokens=targets[0],
        task=task,
        questions=len(questions),
        layers=tuple(sorted(numbers)),
        scores=found,
        missing=missing,
    )


def _questions(
    name: str, model: str, limit: int, seed: int, include_path: str | Path | None, allow_test: bool
) -> tuple[Any, list[Any]]:
    """The task, and its first questions in the order in which a search of this seed asks them."""
    from lmms_steer.harness import tasks
    from lmms_steer.search.questions import load_questions, shuffle_by_image

    task, split = tasks.load_task(name, model, None if include_path is None else Path(include_path))
    refuse_test(name, split, allow_test)
    questions = list(load_questions(task, None, require_answer_set=False))
    return task, shuffle_by_image(questions, seed)[:limit]
