"""`lmms-steer extract`: read each concept once in one backbone, store one vector per concept and method.

Everything that can be refused is refused before torch is imported and the model is loaded; so is a vector that would
replace one made from other sentences or weights, or with other options.
"""

import logging
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_steer._util.formatting import count_noun, format_shape
from lmms_steer._util.io import check_writable
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.job import DEFAULT_SETTINGS, ExtractionSettings, NoDirection
from lmms_steer.extraction.store_conflicts import check_store_conflicts, shadowing_note
from lmms_steer.extraction.wanted import check_judge, check_wanted, without_shuffled
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import model_name, short_name
from lmms_steer.vectors.ownership import check_name_is_free, save_own, warn_of_mixed_names
from lmms_steer.vectors.weights import model_source

if TYPE_CHECKING:
    from lmms_steer.extraction.activations import Activations
    from lmms_steer.extraction.extract import Backbone, Extracted


def extract_to_store(
    backbone: str | os.PathLike[str],
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
    backbone = model_name(backbone)
    name = store_name or short_name(backbone)
    asked = methods
    wanted, methods = check_wanted(wanted_concepts, methods, settings, questions, name)
    # of questions about images the name alone is used
    names = [concept.name for concept in wanted] or [str(one) for one in wanted_concepts]
    root = root if root is not None else store.user_store()
    check_judge(settings, name, names, methods)
    _check_store(backbone, store_name, wanted, methods, root, settings, replace)
    # these import torch and transformers, which takes seconds
    from lmms_steer.extraction.extract import Backbone
    from lmms_steer.extraction.progress import Progress

    if questions is not None:
        from lmms_steer.extraction.image_pairs import read_image_pairs

        pairs = read_image_pairs(questions, settings)
        methods = methods if pairs.shuffled else without_shuffled(methods, asked, settings.image_contrast)
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
                methods = without_shuffled(methods, asked, settings.image_contrast)
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
