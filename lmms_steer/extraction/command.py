"""`lmms-steer extract`: load the backbone once, read each concept once, file one vector a concept and method."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer import concepts, store
from lmms_steer.backbones import backbone_checkpoint
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.methods import DEFAULT, Settings
from lmms_steer.extraction.sae.judge import judge_named
from lmms_steer.method_names import check_method


def extract(
    backbone: str,
    concept_names: Sequence[str],
    methods: Sequence[str],
    root: Path | None,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
    settings: Settings = DEFAULT,
    questions: Path | None = None,
) -> Iterator[str]:
    """Yields a line for every vector that was filed, and for every sentence that was skipped.

    Raises:
        UserError: before the backbone is loaded, for a concept, method, judge or tiny model that does not exist.
    """
    if questions is not None and (len(concept_names) != 1 or concept_names[0] == "all"):
        raise UserError("--questions are about one concept: give its vector's name with --concept NAME")
    wanted: list[Concept] = []
    if questions is None:
        every = list(concept_names) == ["all"]
        wanted = list(concepts.shipped()) if every else [concepts.load(name) for name in concept_names]
    for method in methods:
        check_method(method)
    judge_named(settings.judge)
    backbone_checkpoint(backbone)
    # torch and transformers, which take seconds to import
    from lmms_steer.extraction.extract import Backbone
    from lmms_steer.extraction.places import told

    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    source = Backbone(backbone, device=device, dtype=dtype)
    if questions is not None:
        read = iter([source.read_pictures(questions, concept_names[0], batch_size)])
    else:
        read = ((concept, source.read(concept, batch_size)) for concept in wanted)
    for concept, activations in read:
        yield from told(concept, source.name, activations.skipped, activations.unknown_words)
        for method in methods:
            made = source.extract(concept, method, activations, settings)
            path = store.save(made.vectors, root)
            yield from made.notes
            used = f"{len(activations.anchors)} anchors, {len(activations.controls)} controls"
            shape = f"{len(made.vectors.layers)} layers x {made.vectors.hidden_size}"
            yield f"{made.vectors.name}: {used}, {shape} -> {path}"
