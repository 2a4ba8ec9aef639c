"""`lmms-steer extract`: load the backbone once, read each concept once, file one vector a concept and method."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer import concepts, store
from lmms_steer.errors import unknown


def extract(
    backbone: str,
    concept_names: Sequence[str],
    methods: Sequence[str],
    root: Path | None,
    batch_size: int = 16,
    device: str | None = None,
) -> Iterator[str]:
    """Yields a line for every vector that was filed, and for every sentence that was skipped.

    Raises:
        UserError: before the backbone is loaded, for a concept or method that does not exist.
    """
    wanted = (
        list(concepts.shipped()) if list(concept_names) == ["all"] else [concepts.load(name) for name in concept_names]
    )
    from lmms_steer.extraction.extract import METHODS, Backbone

    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    source = Backbone(backbone, device=device)
    for concept in wanted:
        activations = source.read(concept, batch_size)
        for line in activations.skipped:
            yield f"skipped, {concept.name} {line}"
        if activations.unknown_words:
            yield f"{concept.name}: {source.name} does not know {', '.join(activations.unknown_words)}"
        for method in methods:
            vectors = source.vectors(concept, method, activations)
            path = store.save(vectors, root)
            used = f"{len(activations.anchors)} anchors, {len(activations.controls)} controls"
            yield f"{vectors.name}: {used}, {len(vectors.layers)} layers x {vectors.hidden_size} -> {path}"
