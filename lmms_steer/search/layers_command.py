"""`lmms-steer layers`: all layer scores of a vector side by side, as a table and a figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer._util.formatting import count_noun
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.plots.style import check_figure_suffix
from lmms_steer.search.command import resolved_vector, steerable_layers
from lmms_steer.search.layer_scores import ConceptSentences, LayerContext, layer_scores
from lmms_steer.search.options import parse_layers, parse_targets, refuse_test
from lmms_steer.steering.resolve import ModelFacts
from lmms_steer.steering.spec import SteeringSpec

SCORED_QUESTIONS = 64
"""So many of a task's questions, in a random order, are read: as many as a KL budget is resolved on."""


@dataclass(frozen=True, slots=True)
class LayersOptions:
    """What `lmms-steer layers` takes.

    Attributes:
        model, model_args: the unsteered model.
        vector: a name or a file.
        task: a task of held-out questions; empty for none, and without the scores that need questions.
        scores: names, with commas between; empty for all.
        layers, tokens: as typed; no layers means all, and there is one token target.
        concept: name or file of the concept's sentences; None for the one that the vector records.
        limit: how many of the task's questions are read.
        seed: of everything that is drawn.
        batch_size: questions or sentences in one forward pass.
        include_path: the user's own folder of tasks.
        allow_test: allow choosing on test questions.
        plot: file for a figure.
    """

    model: str
    model_args: str
    vector: str
    task: str = ""
    scores: str = ""
    layers: str = ""
    tokens: str = "image"
    concept: str | None = None
    limit: int = SCORED_QUESTIONS
    seed: int = 0
    batch_size: int = 16
    include_path: Path | None = None
    allow_test: bool = False
    plot: Path | None = None


def run_layers(options: LayersOptions) -> Iterator[str]:
    """Compute the scores; yields lines for the user.

    Raises:
        UserError: for an invalid option, before the model is loaded where that is possible, or where no score can be
            computed.
    """
    names = [name.strip() for name in options.scores.split(",")] if options.scores else list(layer_scores.names())
    for name in names:
        layer_scores.get(name)
    tokens = parse_targets(options.tokens)
    if len(tokens) != 1:
        raise UserError(f"--tokens {options.tokens}: layers are scored for one token target")
    if options.layers:
        parse_layers(options.layers)
    if options.plot is not None:
        check_figure_suffix(options.plot)
    pretrained, spec = check_model_args(options.model, options.model_args)
    if spec:
        raise UserError("--model_args must name the unsteered model: give the vector as --vector")
    if pretrained is not None:
        check_vectors(SteeringSpec.parse(f"vector={options.vector}"), pretrained)
    task, questions = _questions(options)
    # these import torch
    from torch import OutOfMemoryError

    from lmms_steer.harness.steered import create_model
    from lmms_steer.steering.anatomy import decoder_layers

    lm = create_model(options.model, options.model_args)
    n_layers = len(decoder_layers(lm.model))
    layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
    facts = ModelFacts(lm.pretrained, n_layers, lm.config.get_text_config(decoder=True).hidden_size)
    layers = steerable_layers([options.vector], layers, facts)
    vectors = resolved_vector(options.vector, layers[0], facts)
    sentences = ConceptSentences(lm, vectors, options.concept, options.batch_size)
    context = LayerContext(
        lm, vectors, layers, tokens[0], sentences, questions, options.batch_size, options.seed, task
    )  # fmt: skip
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
    read = f"; {count_noun(len(questions), 'question')} of {options.task}" if questions else ""
    yield f"{vectors.name} in {lm.pretrained}, {tokens[0]} tokens{read}"
    yield from table_lines(layers, found)
    for name, scores in found.items():
        best = best_layer(scores)
        where = "the same at all layers" if best is None else f"best at layer {best}"
        yield f"{name}: {where} ({layer_scores.get(name).description})"
    yield from (f"{name}: not computed: {why}" for name, why in missing.items())
    if options.plot is not None:
        from lmms_steer.search.layers_figure import draw_layers

        best_layers = {name: best_layer(scores) for name, scores in found.items()}
        yield f"-> {draw_layers(found, best_layers, options.plot)}"


def best_layer(scores: Mapping[int, float]) -> int | None:
    """The layer with the largest score, of equal ones the first; None where all of several layers are equal."""
    if len(scores) > 1 and len(set(scores.values())) == 1:
        return None
    return max(scores, key=lambda layer: (scores[layer], -layer))


def table_lines(layers: Sequence[int], found: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """The scores as a table in text: a row for each layer, the best of each score marked with `*`."""
    width = max(8, *map(len, found))
    best = {name: best_layer(scores) for name, scores in found.items()}
    yield "layer  " + "   ".join(f"{name:>{width}}" for name in found)
    for layer in layers:
        cells = (f"{scores[layer]:{width}.3f}{'*' if best[name] == layer else ' '}" for name, scores in found.items())
        yield f"{layer:5}  {'  '.join(cells)}".rstrip()


def _questions(options: LayersOptions) -> tuple[Any, Any]:
    """The task, and its first questions in the order in which a search of this seed asks them."""
    if not options.task:
        return None, ()
    from lmms_steer.harness import tasks
    from lmms_steer.search.questions import load_questions, shuffle_by_image

    task, split = tasks.load_task(options.task, options.model, options.include_path)
    refuse_test(options.task, split, options.allow_test)
    questions = list(load_questions(task, None, require_answer_set=False))
    return task, shuffle_by_image(questions, options.seed)[: options.limit]
