"""What an extraction was asked for: its concepts, methods and settings, checked before torch is imported."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lmms_steer import concepts
from lmms_steer.concepts import Concept
from lmms_steer.concepts.given import read_concept
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.extraction.image_contrasts import check_image_contrast, no_shuffled_images
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.extraction.patches import PATCHES
from lmms_steer.extraction.sae_endpoint import configured_endpoint
from lmms_steer.extraction.sae_judge import get_judge
from lmms_steer.extraction.sae_verdicts import Verdicts
from lmms_steer.vectors import store
from lmms_steer.vectors.methods import check_method, split_method
from lmms_steer.vectors.methods import methods as method_registry

QUESTION_TOKENS = ("last", "image", "text", "both", PATCHES)
"""The tokens at which questions about images can be read, or the patches of the vision tower."""
SHUFFLED = "shuffled_images"
CHECK_SECONDS = 20.0
"""How long to wait for a judge's first answer: a local server may still be loading its model."""


def check_wanted(
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
        UserError: as `check_wanted`; for a concept that cannot be a vector's name.
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


def without_shuffled(methods: Sequence[str], asked: Sequence[str], kind: str | None) -> Sequence[str]:
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


def check_judge(settings: ExtractionSettings, model: str, concept_names: Sequence[str], methods: Sequence[str]) -> None:
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
