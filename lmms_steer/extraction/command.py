"""`lmms-steer extract`: load the backbone once, read each concept once, file one vector a concept and method."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer import concepts, store
from lmms_steer.backbones import backbone_checkpoint
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.filing import check_names, hiding
from lmms_steer.extraction.methods import DEFAULT, Settings
from lmms_steer.extraction.sae.judge import judge_named
from lmms_steer.files import check_folder
from lmms_steer.method_names import check_method
from lmms_steer.notes import note
from lmms_steer.vectors import counted, told_shape


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
    replace: bool = False,
) -> Iterator[str]:
    """Yields a line for every vector that was filed, and for every sentence that was skipped.

    Raises:
        UserError: before the backbone is loaded, for a concept, method, judge or tiny model that does not exist, a
            store that cannot be written, or a vector there of that name from other sentences without `replace`.
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
    root = root if root is not None else store.user_store()
    check_folder(root, "the store", "say another with --store")
    check_names(backbone, wanted, methods, root, replace)
    # torch and transformers, which take seconds to import
    from lmms_steer.extraction.extract import Backbone
    from lmms_steer.extraction.places import told

    if questions is not None:
        from lmms_steer.extraction.pictures import concept_of, read_questions

        check_names(backbone, [concept_of(concept_names[0], read_questions(questions))], methods, root, replace)
    source = Backbone(backbone, device=device, dtype=dtype)
    if questions is not None:
        read = iter([source.read_pictures(questions, concept_names[0], batch_size)])
    else:
        read = ((concept, source.read(concept, batch_size)) for concept in wanted)
    names = []
    for concept, activations in read:
        anchors = [activations.texts[p.sentence][p.start : p.end] for p in activations.anchor_places]
        yield from told(concept, source.name, activations.skipped, activations.unknown_words, anchors)
        for method in methods:
            made = source.extract(concept, method, activations, settings)
            path = store.save(made.vectors, root)
            names.append(made.vectors.name)
            yield from made.notes
            used = f"{counted(len(activations.anchors), 'anchor')}, {counted(len(activations.controls), 'control')}"
            shape = told_shape(made.vectors.layers, made.vectors.hidden_size)
            yield f"{made.vectors.name}: {used}, {shape} -> {path}"
    if line := hiding(names, root):
        note(line)
