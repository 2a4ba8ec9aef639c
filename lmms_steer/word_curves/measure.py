"""The probability of a word as an answer against alpha, as in the paper's Section 3: does a text vector reach an image?

Pictures of one coloured thing are shown, and the model is asked for its colour. The vector of another colour is added
at one layer; beside it stand the vectors of other words, and random ones of the same norms.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.stats import t

from lmms_steer._util.io import write_atomically
from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError, shorten
from lmms_steer.models.batches import StackRunner
from lmms_steer.models.visuals import Visual, image_ids
from lmms_steer.replay.engine import try_replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.questions import load_questions
from lmms_steer.search.selection import standard_errors
from lmms_steer.statistics import Ints
from lmms_steer.statistics.clustered import cluster_ids
from lmms_steer.tiny_world.scenes import CELLS, COLOURS, SHAPES, STYLES, Thing, random_seed, render
from lmms_steer.vectors.controls import random_like
from lmms_steer.vectors.steering_vectors import SteeringVectors

PICTURES_SEED = 77

Questions = Sequence[tuple[str, Visual]]
Curves = dict[str, dict[int, "Points"]]
"""Vector ▸ layer ▸ its points."""


@dataclass(frozen=True, slots=True)
class Points:
    """P(word) of one vector at one layer.

    Attributes:
        each: of every alpha and question, float [alphas, questions].
        image_of: the image of each question, numbered from 0; None where no two questions share one.
    """

    each: npt.NDArray[np.float32]
    image_of: Ints | None = None

    @property
    def mean(self) -> list[float]:
        """The mean over the questions at each alpha."""
        return [float(row.mean()) for row in self.each]

    @property
    def margin(self) -> list[float]:
        """Half the width of the mean's 95% t interval at each alpha, by image where questions share one.

        Infinite where all questions are about one image.
        """
        units = self.each.shape[1] if self.image_of is None else int(self.image_of.max()) + 1
        errors = standard_errors(self.each.astype(np.float64), self.image_of)
        margins: list[float] = (t.ppf(0.975, max(1, units - 1)) * errors).tolist()
        return margins


@dataclass(frozen=True)
class WordCurve:
    """P(word) against alpha.

    Attributes:
        word: the answer whose probability was measured.
        vectors: the names of the vectors; the word's own comes first.
        alphas: ascending, 0 among them.
        tokens: the token target.
        curves: by vector, random ones included.
        why_not_replayed: why hooks were used instead of a replay; empty where they were not.
        asked: what was asked about, for the table's title.
    """

    word: str
    vectors: tuple[str, ...]
    alphas: tuple[float, ...]
    tokens: str
    curves: Curves = field(repr=False)
    why_not_replayed: str = ""
    asked: str = "pictures"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the word's own vector."""
        return tuple(self.curves[self.vectors[0]])

    @property
    def random_names(self) -> tuple[str, ...]:
        """The names of the random vectors."""
        return tuple(name for name in self.curves if name not in self.vectors)

    def random_range(self, layer: int) -> tuple[list[float], list[float]]:
        """The smallest and the largest mean of the random vectors at each alpha; empty without random vectors."""
        means = np.array([self.curves[name][layer].mean for name in self.random_names])
        return ([], []) if not len(means) else (means.min(0).tolist(), means.max(0).tolist())

    @property
    def questions(self) -> int:
        """How many pictures or questions were asked about."""
        return int(next(iter(self.curves[self.vectors[0]].values())).each.shape[1])

    def rows(self) -> Iterator[str]:
        """A row of the table for each vector, layer and alpha."""
        for name, layers in self.curves.items():
            for layer, points in layers.items():
                for alpha, mean, margin in zip(self.alphas, points.mean, points.margin, strict=True):
                    interval = f"{max(mean - margin, 0):.6f},{min(mean + margin, 1):.6f}"
                    cell = f"{self.word},{name},{layer},{alpha:g},{self.tokens}"
                    yield f"{cell},{mean:.6f},{interval},{self.questions}"


def write_curves(curves: Iterable[WordCurve], path: Path) -> None:
    """Write the curves of one or more words into a table.

    Raises:
        UserError: if the file cannot be written.
    """
    rows = (row for curve in curves for row in curve.rows())
    write_atomically(path, "\n".join(["word,vector,layer,alpha,tokens,p,low,high,questions", *rows, ""]).encode())


def coloured_things(count: int, colours: Sequence[str], prompt: str) -> list[tuple[str, Image.Image]]:
    """Draw pictures of one thing each, with the question about it.

    Args:
        count: the number of pictures.
        colours: the colours of the things.
        prompt: the question; `{shape}` in it stands for the thing's shape.

    Raises:
        UserError: for a colour that cannot be drawn.
    """
    for colour in colours:
        if colour not in COLOURS:
            raise UserError(f"the colour {shorten(repr(colour))} cannot be drawn: choose from {', '.join(COLOURS)}")
    rng, questions = random.Random(PICTURES_SEED), []
    for _ in range(count):
        thing = Thing(rng.randrange(CELLS), rng.choice(colours), rng.choice(SHAPES))
        picture = Image.fromarray(render((thing,), STYLES["plain"], random_seed(rng)))
        questions.append((prompt.replace("{shape}", thing.shape), picture))
    return questions


def task_questions(task: str, model: str, count: int) -> list[tuple[str, Visual]]:
    """The first questions of a task, with the one image, video or sound of each.

    Args:
        task: of lmms-eval or of this package.
        model: the `--model` name, for the task's `lmms_eval_specific_kwargs`.
        count: how many.

    Raises:
        UserError: for an unknown task, or a question with several visuals or none.
    """
    from lmms_steer.harness.tasks import load_task

    loaded, _ = load_task(task, model)
    found = []
    for question in load_questions(loaded, count):
        if len(question.visuals) != 1:
            raise UserError(f"--task {task}: a question has {len(question.visuals)} images, videos and sounds, not one")
        found.append((question.text, question.visuals[0]))
    return found


def with_random(vectors: Mapping[str, SteeringVectors], count: int) -> dict[str, SteeringVectors]:
    """The vectors, followed by `count` random ones with the norms of the first."""
    first = next(iter(vectors.values()))
    return {**vectors, **{f"random-{seed}": random_like(first, seed) for seed in range(count)}}


def measure_curves(
    lm: Any, questions: Questions, word_ids: Sequence[int], vectors: Mapping[str, SteeringVectors],
    layers: Sequence[int], alphas: Sequence[float], tokens: str, batch_size: int,
) -> tuple[tuple[Curves, ...], str]:  # fmt: skip
    """Measure P(word) of one or more words, over the whole vocabulary, as the first token of the answer.

    Args:
        lm: the unsteered model.
        questions: prompts with their image, video or sound.
        word_ids: each word's first token where an answer begins.
        vectors: by name; a layer that a vector has no direction for is left out.
        layers: the steered layers, one at a time.
        alphas: the strengths.
        tokens: the token target.
        batch_size: questions in one forward pass.

    Returns:
        the curves of each word, and why hooks were used instead of a replay ("" where they were not).
    """
    special, columns = getattr(lm.tokenizer, "all_special_ids", None), list(word_ids)
    options = ReplayOptions((tokens,), special, runner=StackRunner(lm.model.device))
    parts: dict[tuple[str, int], list[torch.Tensor]] = {}
    why_not_replayed = ""
    starts = range(0, len(questions), batch_size)
    with progress_bar(total=len(starts) * len(layers) * len(vectors), desc="curve") as bar:
        for start in starts:
            batch = questions[start : start + batch_size]
            inputs = lm.model_inputs([prompt for prompt, _ in batch], [[image] for _, image in batch])
            replay, why = (None, why_not_replayed) if why_not_replayed else try_replay(lm.model, inputs, options)
            why_not_replayed = why
            source = replay or HookedBatch(lm.model, inputs, special)
            for layer in layers:
                for name, vector in vectors.items():
                    if layer in vector.directions:
                        direction = torch.from_numpy(vector[layer].copy())
                        deltas = torch.stack([direction * alpha for alpha in alphas])
                        found = source.reduce_all(layer, deltas, [tokens] * len(alphas), lambda x: _p(x, columns))
                        parts.setdefault((name, layer), []).append(found.float().cpu())
                    bar.update()
    image_of = cluster_ids(np.unique(image_ids([visual for _, visual in questions]), return_inverse=True)[1])
    curves: tuple[Curves, ...] = tuple({name: {} for name in vectors} for _ in columns)
    for (name, layer), found_parts in parts.items():
        for of_word, each in zip(curves, torch.cat(found_parts, 1).unbind(-1), strict=True):
            of_word[name][layer] = Points(each.numpy(), image_of)
    return curves, why_not_replayed


def _p(logits: torch.Tensor, columns: list[int]) -> torch.Tensor:
    return logits.float().softmax(-1)[..., columns]


def curve_lines(curve: WordCurve) -> Iterator[str]:
    """The curve as a table in text: a block for each layer, a column for each alpha."""
    first, *others = curve.vectors
    width = max(len(name) for name in (*curve.vectors, f"{len(curve.random_names)} random, largest"))
    known = all(np.isfinite(points.margin).all() for points in curve.curves[first].values())
    about = "± is half a 95% interval" if known else "no interval, as all show one image"
    yield f"P({curve.word}) on {curve.questions} {curve.asked}, {curve.tokens} tokens steered; {about}"
    for layer in curve.layers:
        yield ""
        yield f"{f'layer {layer}, alpha':{width}}  " + "  ".join(f"{alpha:>10g}" for alpha in curve.alphas)
        for name in (first, *others):
            if layer in curve.curves[name]:
                points = curve.curves[name][layer]
                margins = (f"±{margin:.3f}" if known else "" for margin in points.margin)
                cells = (f"{mean:.3f}{margin}".rjust(10) for mean, margin in zip(points.mean, margins, strict=True))
                yield f"{name:{width}}  " + "  ".join(cells)
        largest = curve.random_range(layer)[1]
        if largest:
            label = f"{len(curve.random_names)} random, largest"
            yield f"{label:{width}}  " + "  ".join(f"{value:.3f}".rjust(10) for value in largest)
    yield ""
    yield _summary(curve)


def _summary(curve: WordCurve) -> str:
    own = curve.curves[curve.vectors[0]]
    p, layer, place = max((mean, layer, i) for layer, points in own.items() for i, mean in enumerate(points.mean))
    zero = curve.alphas.index(0.0)
    line = f"unsteered P({curve.word}) = {own[layer].mean[zero]:.3f}; largest with {curve.vectors[0]}: {p:.3f}"
    line += f" (layer {layer}, alpha {curve.alphas[place]:g})"
    beside = [f"{name} {curve.curves[name][layer].mean[place]:.3f}" for name in curve.vectors[1:]]
    largest = curve.random_range(layer)[1]
    beside += [f"random at most {largest[place]:.3f}"] if largest else []
    return f"{line}; there {', '.join(beside)}" if beside else line
