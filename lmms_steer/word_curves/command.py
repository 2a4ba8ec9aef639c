"""`lmms-steer curve`: measure P(word) against alpha, print it, and write a table and a figure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer import concepts
from lmms_steer._util.extras import require_extra
from lmms_steer._util.io import check_writable
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.models.visuals import open_image
from lmms_steer.search.options import parse_alphas, parse_layers, parse_targets
from lmms_steer.search.resolved_cells import resolved_vector, steerable_layers
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.spec import SteeringSpec

PANELS = 4
"""Layers that are measured if the user names none: from the first to the last but one, equally spaced."""
PROMPT = "What colour is the {shape}? Answer with one word."
"""The question about drawn pictures, if the user types none."""
PICTURES = 96
"""Pictures that are drawn, or questions of a task, if the user names no number."""
SHOWN = "yellow,orange"
"""The colours of the things on drawn pictures, if the user names none."""


@dataclass(frozen=True, slots=True)
class CurveOptions:
    """What `lmms-steer curve` takes.

    Attributes:
        model, model_args: the unsteered model.
        vectors: names or files; the first is the word's own.
        output: the folder for `curve.csv`, `curve.svg` and `curve.png`.
        word: the answer; empty for the word after `-` in the first vector's name (`red` of `colour-red`).
        every_word: whether the words of all vectors are measured.
        layers, alphas, tokens: as typed; no layers means `PANELS` of them.
        controls: number of random vectors with the norms of the first.
        prompt: the question; on a drawn picture `{shape}` stands for the shape of the thing; empty for `PROMPT`.
        pictures: how many pictures are drawn, or questions of the task asked; 0 for `PICTURES`.
        shown: the colours of the things on drawn pictures, with commas between; empty for `SHOWN`.
        images: the user's own pictures, about each of which the prompt is asked, instead of drawn ones.
        task: a task whose questions are asked, with their images, videos or sounds, instead of the prompt; "" for none.
        batch_size: questions in one forward pass.
    """

    model: str
    model_args: str
    vectors: tuple[str, ...]
    output: Path
    word: str = ""
    every_word: bool = False
    layers: str = ""
    alphas: str = "0.25:2:0.25"
    tokens: str = "image"
    controls: int = 3
    prompt: str = ""
    pictures: int = 0
    shown: str = ""
    images: tuple[Path, ...] = ()
    task: str = ""
    batch_size: int = 16


def run_curve(options: CurveOptions) -> Iterator[str]:
    """Measure the curve; yields lines for the user.

    Raises:
        UserError: for an invalid option, before the model is loaded where that is possible.
    """
    require_extra("plots", "a curve")
    alphas = tuple(sorted({0.0, *parse_alphas(options.alphas)}))
    tokens = parse_targets(options.tokens)
    if len(tokens) != 1:
        raise UserError(f"--tokens {options.tokens}: a curve has one token target")
    unsteered = "--model_args of a curve must name the unsteered model: give vector, layers and alphas as options"
    pretrained, _ = check_model_args(options.model, options.model_args, unsteered)
    if pretrained is not None:
        for vector in options.vectors:
            check_vectors(SteeringSpec.parse(f"vector={vector}"), pretrained)
    words = _words(options)
    check_writable(options.output, "the output folder", "choose another with --output")
    _check_asked(options)
    # these import torch
    from torch import OutOfMemoryError

    from lmms_steer.harness.steered import create_model
    from lmms_steer.word_curves.measure import WordCurve, measure_curves, with_random, write_curves

    questions = _questions(options)
    lm = create_model(options.model, options.model_args)
    facts = facts_of_config(lm.config, lm.pretrained)
    layers = parse_layers(options.layers, facts.n_layers) if options.layers else _spread(facts.n_layers)
    steerable = steerable_layers(options.vectors, layers, facts)
    if missing := sorted(set(layers) - set(steerable)):
        yield f"layers where a vector has no direction are left out: {', '.join(map(str, missing))}"
    vectors = {name: resolved_vector(name, steerable[0], facts) for name in options.vectors}
    all_vectors = with_random(vectors, options.controls)
    ids = first_tokens(lm, words)
    try:
        measured, why = measure_curves(
            lm, questions, list(ids.values()), all_vectors, steerable, alphas, tokens[0], options.batch_size
        )
    except OutOfMemoryError as error:
        raise UserError(
            f"out of memory: {first_line(error)}: use a smaller --batch_size, now {options.batch_size}"
        ) from error
    asked = f"questions of {options.task}" if options.task else "pictures"
    curves = tuple(
        WordCurve(word, options.vectors, alphas, tokens[0], curve, why, asked)
        for word, curve in zip(words, measured, strict=True)
    )
    if why:
        yield f"measured with hooks instead of by replay: {why}"
    yield from _token_notes(lm, ids)
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "curve.csv"
    write_curves(curves, table)
    yield from _lines_and_figure(curves, options, table)


def _lines_and_figure(curves: Any, options: CurveOptions, table: Path) -> Iterator[str]:
    from lmms_steer.word_curves.figure import draw_word_curve
    from lmms_steer.word_curves.matrix import WordMatrix, draw_word_matrix, matrix_lines
    from lmms_steer.word_curves.measure import curve_lines

    if options.every_word:
        matrix = WordMatrix(curves)
        yield from matrix_lines(matrix)
        figure = draw_word_matrix(matrix, options.output / "words.svg", options.output / "words.png")
    else:
        yield from curve_lines(curves[0])
        figure = draw_word_curve(curves[0], options.output / "curve.svg", options.output / "curve.png")
    yield f"written: {table}, {figure.with_suffix('.svg')}, {figure}"


def _words(options: CurveOptions) -> tuple[str, ...]:
    """The answers that are measured: the first vector's, or each vector's.

    Raises:
        UserError: if one is not known, or with `every_word` if there is one only, two are the same, or one is typed.
    """
    if not options.every_word:
        return (options.word or word_of(options.vectors[0], "--word is missing"),)
    if options.word:
        raise UserError("--every_word takes the words from the vectors' names, so leave --word out")
    words = tuple(word_of(vector, "--every_word") for vector in options.vectors)
    if len(words) < 2:
        raise UserError("--every_word needs the vectors of two words or more: --vector colour-red,colour-blue")
    for place, word in enumerate(words):
        if word in words[:place]:
            other = options.vectors[words.index(word)]
            raise UserError(f"--every_word: {other} and {options.vectors[place]} are both of the word {word}")
    return words


def _check_asked(options: CurveOptions) -> None:
    """Check that what is asked, and about what, is clear.

    Raises:
        UserError: for an option that has no effect beside another one; for a single picture; for pictures of one's own
            without a question about them.
    """
    if len(options.images) == 1:
        raise UserError("--image: an interval needs at least two pictures, so give the option again for each")
    typed = {"--image": options.images, "--prompt": options.prompt, "--pictures": options.pictures}
    typed["--shown"] = options.shown
    for name in ("--image", "--prompt", "--shown"):
        if options.task and typed[name]:
            raise UserError(f"--task {options.task} brings its own images and questions, so leave {name} out")
    for name in ("--pictures", "--shown"):
        if options.images and typed[name]:
            raise UserError(f"{name} is for drawn pictures, so leave it out with --image")
    if options.images and not options.prompt:
        raise UserError("--image: give the question about your pictures with --prompt")
    if options.images and "{shape}" in options.prompt:
        raise UserError("--prompt: {shape} is known on drawn pictures only, so leave it out with --image")


def _questions(options: CurveOptions) -> Any:
    """The questions that are asked: of a task, about the user's own pictures, or about drawn ones."""
    from lmms_steer.word_curves.measure import coloured_things, task_questions

    if options.task:
        return task_questions(options.task, options.model, options.pictures or PICTURES)
    if options.images:
        return [(options.prompt, open_image(path)) for path in options.images]
    shown = (options.shown or SHOWN).split(",")
    return coloured_things(options.pictures or PICTURES, shown, options.prompt or PROMPT)


def word_of(vector: str, option: str) -> str:
    """The word of a vector's concept: `red` of `colour-red`.

    Raises:
        UserError: for a vector whose name holds no such concept; its line begins with `option`.
    """
    shipped = concepts.names()
    # the last part that names a word: backbones contain hyphens, too
    parts = reversed(Path(vector).with_suffix("").parts)
    name = next((part for part in parts if part in shipped and "-" in part), "")
    if not name:
        raise UserError(f"{option}: {vector} does not name a word, as colour-red does")
    return name.split("-", 1)[1]


def first_tokens(lm: Any, words: tuple[str, ...]) -> dict[str, int]:
    """The id of each word's first token.

    Raises:
        UserError: for a word that the tokenizer does not know (all such words would have one probability), and for
            words that begin with the same token.
    """
    ids = {word: int(lm.first_token(word)) for word in words}
    for word, word_id in ids.items():
        if word_id == lm.tokenizer.unk_token_id:
            raise UserError(f"--word {word}: the tokenizer of {lm.pretrained} does not know this word: choose another")
        if (first := next(other for other in ids if ids[other] == word_id)) != word:
            raise UserError(f"the answers {first!r} and {word!r} begin with the same token: measure them one by one")
    return ids


def _token_notes(lm: Any, ids: Mapping[str, int]) -> Iterator[str]:
    """Say where the probability is that of a part of the word."""
    for word, word_id in ids.items():
        token = str(lm.tokenizer.decode([word_id])).strip()
        if token != word:
            yield f"WARNING: an answer {word!r} begins with the token {token!r}, whose probability is measured"


def _spread(n_layers: int) -> tuple[int, ...]:
    last = max(n_layers - 2, 0)
    return tuple(sorted({round(i * last / (PANELS - 1)) for i in range(PANELS)}))
