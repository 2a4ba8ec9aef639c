"""`lmms-steer extract`: read each concept once in one backbone, store one vector per concept and method.

Everything that can be refused is refused before torch is imported and the model is loaded; so is a vector that would
replace one made from other sentences or weights, or with other options.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_steer import concepts
from lmms_steer._util.formatting import count_noun, format_layers, format_shape
from lmms_steer._util.io import check_writable
from lmms_steer.concepts import Concept
from lmms_steer.concepts.given import read_concept
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.extraction.image_contrasts import check_image_contrast, no_shuffled_images
from lmms_steer.extraction.job import DEFAULT_SETTINGS, ExtractionSettings, NoDirection
from lmms_steer.extraction.patches import PATCHES
from lmms_steer.extraction.sae_endpoint import configured_endpoint
from lmms_steer.extraction.sae_judge import get_judge
from lmms_steer.extraction.sae_verdicts import Verdicts
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.methods import check_method, split_method
from lmms_steer.vectors.methods import methods as method_registry
from lmms_steer.vectors.ownership import check_name_is_free, have_same_directions, save_own, warn_of_mixed_names
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import model_source

if TYPE_CHECKING:
    from lmms_steer.extraction.activations import Activations
    from lmms_steer.extraction.extract import Backbone, Extracted

QUESTION_TOKENS = ("last", "image", "text", "both", PATCHES)
"""The tokens at which questions about images can be read, or the patches of the vision tower."""
SHUFFLED = "shuffled_images"
CHECK_SECONDS = 20.0
"""How long to wait for a judge's first answer: a local server may still be loading its model."""


def extract_to_store(
    backbone: str,
    wanted_concepts: Sequence[str | Path | Concept],
    methods: Sequence[str],
    root: Path | None,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
    settings: ExtractionSettings = DEFAULT_SETTINGS,
    questions: Path | None = None,
    replace: bool = False,
    store_name: str | None = None,
) -> Generator[str, None, dict[str, Path]]:
    """Extract vectors into a store.

    Args:
        backbone: as `Backbone` takes it.
        wanted_concepts: concepts that ship, files, or concepts themselves; `["all"]`: every concept that ships.
        methods: as `lmms_steer.vectors.methods` names them.
        root: the store; None: the user's.
        batch_size: sentences per forward pass.
        device, dtype: as `Backbone` takes them.
        settings: for the methods.
        questions: a file of questions about images (`lmms_steer.extraction.image_pairs`), read instead of a concept's
            sentences; the concept's name then only names the vectors.
        replace: also replace vectors that were made from other sentences or weights, or with other options.
        store_name: the name that the vectors are stored under, in place of the backbone's own.

    Yields:
        A line for every stored vector, and for every sentence that was skipped.

    Returns:
        The name and the file of each vector.

    Raises:
        UserError: before the backbone is loaded: for a concept, method, judge or tiny model that does not exist, a
            judge's endpoint that does not answer, a store that cannot be written, or, without `replace`, a stored
            vector of that name from other sentences or a store in which the backbone's name belongs to other weights.
            At the end, for wanted concepts without a direction, unless all are wanted.
    """
    name = store_name or short_name(backbone)
    asked = methods
    wanted, methods = _checked(wanted_concepts, methods, settings, questions, name)
    # of questions about images the name alone is used
    names = [concept.name for concept in wanted] or [str(one) for one in wanted_concepts]
    root = root if root is not None else store.user_store()
    _check_judge(settings, name, names, methods)
    _check_store(backbone, store_name, wanted, methods, root, settings, replace)
    # these import torch and transformers, which takes seconds
    from lmms_steer.extraction.extract import Backbone
    from lmms_steer.extraction.progress import Progress

    if questions is not None:
        from lmms_steer.extraction.image_pairs import read_image_pairs

        pairs = read_image_pairs(questions, settings)
        methods = methods if pairs.shuffled else _without_shuffled(methods, asked, settings.image_contrast)
        check_store_conflicts(name, [pairs.concept(names[0])], methods, root, settings, replace)
    source = Backbone(backbone, device=device, dtype=dtype, store_name=store_name)
    progress = Progress(root, source, settings, batch_size)
    kept = progress.kept(wanted, methods)
    yield from (f"{name}: resumed, stored before the interruption -> {path}" for name, path in kept.items())
    if questions is not None:
        readings = iter([source.read_image_pairs(questions, names[0], batch_size, settings)])
    else:
        unfinished = [c for c in wanted if any(f"{source.name}/{c.name}/{method}" not in kept for method in methods)]
        readings = ((concept, source.read(concept, batch_size)) for concept in unfinished)
    stored, failed = dict(kept), list[str]()
    with progress:
        for concept, activations in readings:
            yield from activations.warnings(concept, source.name)
            if activations.shuffled_images is None:
                methods = _without_shuffled(methods, asked, settings.image_contrast)
            found = ", ".join(map(count_noun, activations.counts, ("anchor", "control")))
            for method in methods:
                if f"{source.name}/{concept.name}/{method}" in kept:
                    continue
                extracted = _extracted(source, concept, method, activations, settings)
                if isinstance(extracted, NoDirection):
                    failed.append(str(extracted))
                    yield f"WARNING: left out: {extracted}"
                    continue
                vectors = extracted.vectors
                path = save_own(vectors, root, replace)
                progress.record(vectors, path)
                stored[vectors.name] = path
                yield from extracted.notes
                shape = format_shape(vectors.layers, vectors.hidden_size, vectors.patches)
                yield f"{vectors.name}: {found}, {shape} -> {path}"
    if failed and list(wanted_concepts) != ["all"]:
        raise UserError(f"not made: {'; '.join(failed)}")
    warn_of_mixed_names(source.source, root, stored.values())
    if note := shadowing_note(list(stored), root):
        logging.getLogger(__name__).info(note)
    return stored


def _check_store(
    backbone: str,
    store_name: str | None,
    wanted: list[Concept],
    methods: Sequence[str],
    root: Path,
    settings: ExtractionSettings,
    replace: bool,
) -> None:
    """Check, before the backbone is loaded, that its vectors can be stored."""
    name = store_name or short_name(backbone)
    if not store.is_name_part(name):
        raise UserError(f"{name!r} cannot be a model's name in a store: name the model with --name")
    for concept in wanted:
        for method in methods:
            store.check_name(f"{name}/{concept.name}/{method}")
    check_writable(root, "the store", "name another with --store")
    check_store_conflicts(name, wanted, methods, root, settings, replace)
    if not replace:
        check_name_is_free(model_source(backbone, store_name=store_name), root)


def _extracted(
    source: "Backbone", concept: Concept, method: str, activations: "Activations", settings: ExtractionSettings
) -> "Extracted | NoDirection":
    """The vectors, or why there are none, so that the other concepts are made all the same."""
    try:
        return source.extract(concept, method, activations, settings, log_warnings=False)
    except NoDirection as error:
        return error


def _checked(
    wanted: Sequence[str | Path | Concept],
    methods: Sequence[str],
    settings: ExtractionSettings,
    questions: Path | None,
    model: str,
) -> tuple[list[Concept], Sequence[str]]:
    """The concepts whose sentences are read, and the methods.

    Raises:
        UserError: for a concept, method, image contrast, place or vector that does not exist; for an option that no
            method of these uses.
    """
    for method in methods:
        check_method(method)
    _check_sae_options(settings, methods)
    if settings.image_contrast is None:
        for method in filter(_is_shuffled, methods):
            raise no_shuffled_images(method, settings.image_contrast)
    if settings.orthogonal_to is not None:
        store.find(settings.orthogonal_to, model)
    if questions is None:
        if settings.image_contrast is not None or settings.at != "last":
            raise UserError("--image_contrast and --at are for questions about images: --questions FILE")
        every = list(wanted) == ["all"]
        chosen = list(concepts.shipped()) if every else [read_concept(one) for one in wanted]
        removed = _removed_of(chosen, methods, settings.orthogonal_to, model)
        if removed and not every:
            raise UserError(
                f"--orthogonal_to {settings.orthogonal_to}: nothing is left of that vector itself: leave {removed} out"
            )
        return [concept for concept in chosen if concept.name != removed], methods
    return [], _checked_for_questions(wanted, methods, settings)


def _removed_of(chosen: Sequence[Concept], methods: Sequence[str], removed: str | None, model: str) -> str:
    """The concept, of those that are wanted, whose vector by one of the methods is the removed one; "" for none."""
    if removed is None:
        return ""
    about = store.load_vectors(removed, model).provenance
    same = (one.name for one in chosen if one.sentences_sha256 == about.get("sentences_sha256"))
    return next(same, "") if about.get("method") in methods and about.get("model") == model else ""


def _checked_for_questions(
    wanted: Sequence[str | Path | Concept], methods: Sequence[str], settings: ExtractionSettings
) -> Sequence[str]:
    """The methods for questions about images.

    With an image contrast, each is followed by its control with the images of other questions, unless patches are read,
    which do not depend on the question.

    Raises:
        UserError: as `_checked`; for a concept that cannot be a vector's name.
    """
    if len(wanted) != 1 or wanted[0] == "all" or not isinstance(wanted[0], str):
        raise UserError("--questions are about one concept: give its vector's name with --concept NAME")
    if not store.is_name_part(wanted[0]):
        raise UserError(
            f"--concept {shorten(wanted[0])} cannot name the vectors of --questions: use letters, digits and"
            " _.+-, not beginning with a dot"
        )
    if settings.at not in QUESTION_TOKENS:
        raise unknown_name("--at", settings.at, QUESTION_TOKENS)
    if settings.at == PATCHES:
        _check_patches(methods, settings)
    if settings.image_contrast is None:
        return methods
    check_image_contrast(settings.image_contrast)
    if settings.image_contrast == "absent" and settings.at == "image":
        raise UserError("--at image: a prompt without an image has no image tokens: use another --image_contrast")
    if settings.at == PATCHES:
        return methods
    with_controls = [
        name for method in methods for name in (method, *([] if split_method(method)[1] else [f"{method}-{SHUFFLED}"]))
    ]
    return list(dict.fromkeys(with_controls))


def _is_shuffled(method: str) -> bool:
    return split_method(method)[1] == SHUFFLED


def _without_shuffled(methods: Sequence[str], asked: Sequence[str], kind: str | None) -> Sequence[str]:
    """The methods without their controls with other images.

    Args:
        methods: with the controls.
        asked: those that the user typed.
        kind: the image contrast.

    Raises:
        UserError: where the user asked for such a control.
    """
    left_out = list(filter(_is_shuffled, methods))
    for method in left_out:
        if method in asked:
            raise no_shuffled_images(method, kind)
        logging.getLogger(__name__).warning(f"left out: {no_shuffled_images(method, kind)}")
    return [method for method in methods if method not in left_out]


def _check_sae_options(settings: ExtractionSettings, methods: Sequence[str]) -> None:
    """Check that what is said about SAEs concerns one of the methods.

    Raises:
        UserError: where it does not.
    """
    used = [method_registry.get(split_method(name)[0]) for name in methods]
    judged = any(method.uses_judge for method in used)
    unused = {
        "--sae": settings.sae is not None and not any(method.uses_sae for method in used),
        "--neutral": settings.neutral is not None and not judged,
        "--paper-exact": settings.paper_exact and not judged,
    }
    for option in (name for name, is_unused in unused.items() if is_unused):
        raise UserError(f"{option} is for methods with an SAE, and --method is {', '.join(methods)}: try --method sae")


def _check_patches(methods: Sequence[str], settings: ExtractionSettings) -> None:
    """Check that directions of patches can be extracted as the user wants.

    Raises:
        UserError: for contrasting prompts, which the vision tower does not see, and for contrasts and controls that
            show the same images to other questions; for a method that needs each question.
    """
    if settings.image_contrast in (None, "absent", "other"):
        raise UserError(
            f"--at {PATCHES}: the vision tower sees images only: contrast them with --image_contrast masked"
        )
    if settings.orthogonal_to is not None:
        raise UserError(f"--at {PATCHES}: --orthogonal_to needs one direction for each layer")
    for method in methods:
        base, control = split_method(method)
        if control == SHUFFLED:
            raise no_shuffled_images(method, settings.image_contrast)
        if base != "mean_shift" or control not in ("", "random"):
            raise UserError(f"--at {PATCHES}, --method {method}: only the mean over the questions is kept: mean_shift")


def _check_judge(
    settings: ExtractionSettings, model: str, concept_names: Sequence[str], methods: Sequence[str]
) -> None:
    """Check that the judge exists, and that its endpoint answers where a concept has no verdicts yet.

    Raises:
        UserError: when it does not.
    """
    get_judge(settings.judge)
    uses_judge = any(method_registry.get(split_method(name)[0]).uses_judge for name in methods)
    if settings.judge != "llm" or not uses_judge or all(Verdicts(model, name).path.is_file() for name in concept_names):
        return
    endpoint = configured_endpoint()
    problem = endpoint.problem(CHECK_SECONDS) if endpoint is not None else None
    if problem:
        raise UserError(f"{problem}; or use --judge ask (you check the features) or --judge none (all are kept)")


def check_store_conflicts(
    model: str,
    wanted: Sequence[Concept],
    methods: Sequence[str],
    root: Path,
    settings: ExtractionSettings,
    replace: bool,
) -> None:
    """Check that no vector would replace one that was made otherwise.

    Raises:
        UserError: for a stored vector of that name from other sentences, at layers that are not wanted now, with
            another component removed or from other tokens of a question, unless `replace`; for two concepts of one
            name.
    """
    removed = None
    if settings.orthogonal_to is not None:
        removed = store.load_vectors(settings.orthogonal_to, model).name
    hashes: dict[str, str] = {}
    for concept in wanted:
        if hashes.setdefault(concept.name, concept.sentences_sha256) != concept.sentences_sha256:
            raise UserError(f"two of the concepts are named {concept.name!r}: one's vectors would replace the other's")
        for path in [] if replace else _paths(root, model, concept, methods):
            if found := _other_way(path, concept, settings, removed):
                raise UserError(
                    f"{str(path)!r} was made {found}: give the concept another name, or add --replace to lose that"
                    " vector"
                )


def shadowing_note(names: Sequence[str], root: Path) -> str | None:
    """A note on vectors in the user's store that hide shipped vectors of the same names with other directions."""
    if root.resolve() != store.user_store().resolve():
        return None
    hidden = [name for name in dict.fromkeys(names) if _differs(root, store.shipped_store(), name)]
    if not hidden:
        return None
    return f"these vectors in {str(root)!r} now hide the shipped ones of the same names: {', '.join(hidden)}"


def _paths(root: Path, model: str, concept: Concept, methods: Sequence[str]) -> Iterator[Path]:
    for method in methods:
        yield root / model / concept.name / f"{method}.safetensors"


def _other_way(path: Path, concept: Concept, settings: ExtractionSettings, removed: str | None) -> str:
    """How a stored vector was made, if otherwise than the one that would replace it; else "".

    Args:
        path: of the stored vector, if there is one.
        concept, settings: of the new vector.
        removed: the name of the vector whose component is removed from the new one.
    """
    if not path.is_file():
        return ""
    try:
        stored = SteeringVectors.load(path)
    except UserError:
        return ""  # damaged: there is nothing to lose
    made, layers = stored.provenance.get("settings", {}), settings.layers
    theirs = made.get("orthogonal_to")
    problems = {
        f"from other sentences than this {concept.name!r}": stored.provenance.get("sentences_sha256")
        != concept.sentences_sha256,
        f"for the layers {format_layers(stored.layers)}": layers is not None and not set(stored.layers) <= set(layers),
        f"with --orthogonal_to {theirs}" if theirs else "without --orthogonal_to": theirs != removed,
        f"with --at {made.get('at')}": made.get("at", settings.at) != settings.at,
    }
    return next((problem for problem, applies in problems.items() if applies), "")


def _differs(root: Path, shipped: Path, name: str) -> bool:
    mine, theirs = (folder / f"{name}.safetensors" for folder in (root, shipped))
    if not (mine.is_file() and theirs.is_file()):
        return False
    return not have_same_directions(SteeringVectors.load(mine), SteeringVectors.load(theirs))
