"""Layer scores: how promising each layer is for a vector, before anything is searched.

    @register_layer_score("depth", description="the share of the layers above", needs="nothing")
    def depth(context: LayerContext) -> dict[int, float]:
        return {layer: 1 - layer / max(context.layers) for layer in context.layers}

A score is larger at a better layer; its scale is its own. `lmms-steer layers` prints all of them side by side, and the
search strategy `budget` ranks layers by one. An installed package declares its scores as entry points of the group
`lmms_steer.layer_scores`. Importing this package or its built-in scores imports no torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pkgutil import iter_modules
from typing import Any

from lmms_steer import concepts
from lmms_steer._util.formatting import format_layers
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.activations import Activations, read_activations
from lmms_steer.registry import Registry
from lmms_steer.search.questions import Question
from lmms_steer.vectors.steering_vectors import SteeringVectors

NEEDS = ("nothing", "sentences", "prompts", "answers")
"""What a score reads: the vector alone, its concept's sentences, a task's prompts, or their right answers too."""


class ConceptSentences:
    """The sentences of a vector's concept, read once in the model that is steered.

    Args:
        lm: the unsteered model.
        vectors: the vector.
        concept: the concept; None: the one that the vector records.
        batch_size: sentences in one forward pass.
    """

    def __init__(self, lm: Any, vectors: SteeringVectors, concept: Concept | None = None, batch_size: int = 16) -> None:
        self.lm, self.vectors, self.given, self.batch_size = lm, vectors, concept, batch_size

    @cached_property
    def concept(self) -> Concept:
        """The concept.

        Raises:
            UserError: where it does not ship and was not given, or has other sentences by now.
        """
        if self.given is not None:
            return self.given
        recorded = str(self.vectors.provenance.get("concept", "unknown"))
        try:
            concept = concepts.load(recorded)
        except UserError as error:
            raise UserError(f"the sentences of {recorded!r} do not ship: name their file with --concept") from error
        if concept.sentences_sha256 != self.vectors.provenance.get("sentences_sha256"):
            raise UserError(
                f"{self.vectors.name} was not made from the sentences of {recorded!r} as they are now: name a file with"
                " --concept"
            )
        return concept

    @cached_property
    def activations(self) -> Activations:
        """What the steered model's own language model gives at the anchors and controls.

        Raises:
            UserError: as `concept`, and for sentences without an anchor.
        """
        return read_activations(self.lm.model, self.lm.tokenizer, self.concept, self.batch_size)


@dataclass(frozen=True, slots=True)
class LayerContext:
    """What a layer score is computed from.

    Attributes:
        lm: the unsteered model.
        vectors: the vector.
        layers: the layers to score; the vector has a direction at each.
        tokens: the token target.
        sentences: of the vector's concept.
        questions: the prompts, in an order that holds; empty where the user named no task.
        batch_size: questions in one forward pass.
        seed: of everything that is drawn.
        task: the task, if it is not one of lmms-eval.
    """

    lm: Any
    vectors: SteeringVectors
    layers: Sequence[int]
    tokens: str
    sentences: ConceptSentences
    questions: Sequence[Question] = ()
    batch_size: int = 16
    seed: int = 0
    task: Any = None


GRADIENT_PASSES = 3
"""Full forward passes that a forward and a backward pass take."""

ScoreFunction = Callable[[LayerContext], Mapping[int, float]]
"""A layer score: layer ▸ a number, larger where steering promises more. Raises `UserError` where it has none."""


def _no_passes(_: int) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class LayerScore:
    """A registered score.

    Attributes:
        name: what users type.
        description: one plain line for help and documentation.
        function: computes it.
        needs: one of `NEEDS`. Questions whose answers it reads do not count for a p-value.
        depends_on: `vector` and `tokens` if the score is another one for another vector of the concept, or another
            token target. What a score does not depend on does not make a search compute it again.
        passes: number of layers ▸ full forward passes of each question that it reads, for an estimate of the cost.
    """

    name: str
    description: str
    function: ScoreFunction
    needs: str
    depends_on: tuple[str, ...] = ("vector", "tokens")
    passes: Callable[[int], int] = _no_passes

    def __call__(self, context: LayerContext) -> dict[int, float]:
        """The score of each layer of the context.

        Raises:
            UserError: where it has none, with the reason.
        """
        if self.needs in ("prompts", "answers") and not context.questions:
            raise UserError("it needs questions: name a --task")
        if self.needs == "answers" and not all(question.answers for question in context.questions):
            raise UserError("it needs questions with a fixed set of answers")
        scores = self.function(context)
        if not isinstance(scores, Mapping):
            raise UserError(f"its function returned a {type(scores).__name__}: expected layer ▸ number")
        numbers = {layer: _number(scores.get(layer)) for layer in context.layers}
        # a comparison with nan is false, so that any layer could be the best one
        missing = tuple(layer for layer, number in numbers.items() if math.isnan(number))
        if missing:
            raise UserError(f"it has no value at layer {format_layers(missing)}")
        return numbers


def _number(value: Any) -> float:
    """A layer's value, nan for none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


layer_scores: Registry[LayerScore] = Registry(
    "layer score", "lmms_steer.layer_scores", tuple(f"{__name__}.{module.name}" for module in iter_modules(__path__))
)


def register_layer_score(
    name: str,
    *,
    description: str,
    needs: str,
    depends_on: Sequence[str] = ("vector", "tokens"),
    passes: Callable[[int], int] = _no_passes,
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a function as a layer score; the decorator returns the function unchanged.

    Args:
        name: what users type: lower-case letters, digits and underscores.
        description: one plain line for help and documentation.
        needs: what it reads, one of `NEEDS`.
        depends_on, passes: as the attributes of `LayerScore`.

    Raises:
        ValueError: for a name that is taken or not of that form, or for other needs.
    """
    if needs not in NEEDS:
        raise ValueError(f"layer score {name!r}: needs={needs!r}: expected one of {', '.join(NEEDS)}")

    def register(function: ScoreFunction) -> ScoreFunction:
        layer_scores.add(name, LayerScore(name, description, function, needs, tuple(depends_on), passes))
        return function

    return register
