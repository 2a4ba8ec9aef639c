"""`lmms_steer.extract`: what `lmms-steer extract` does, with the vectors as its result."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from lmms_steer._util.formatting import join_values
from lmms_steer._util.layers import read_layers
from lmms_steer._util.logging import log_lines
from lmms_steer.concepts import Concept
from lmms_steer.concepts.given import is_one, listed_concepts
from lmms_steer.extraction.command import extract_to_store
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.vectors.steering_vectors import SteeringVectors


# a text is a sequence of texts, too: the first signature is the one that counts for it
@overload
def extract(  # type: ignore[overload-overlap]
    backbone: str | Path,
    concept: str | Path | Concept,
    method: str = "mean_shift",
    *,
    store: str | Path | None = None,
    replace: bool = False,
    name: str | None = None,
    seed: int = 0,
    layers: str | int | Iterable[int] | None = None,
    sae: str | None = None,
    judge: str = "llm",
    neutral: str | Path | None = None,
    questions: str | Path | None = None,
    image_contrast: str | None = None,
    at: str = "last",
    orthogonal_to: str | None = None,
    paper_exact: bool = False,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
) -> SteeringVectors: ...


@overload
def extract(
    backbone: str | Path,
    concept: str | Path | Concept | Sequence[str | Path | Concept],
    method: str | Sequence[str] = "mean_shift",
    *,
    store: str | Path | None = None,
    replace: bool = False,
    name: str | None = None,
    seed: int = 0,
    layers: str | int | Iterable[int] | None = None,
    sae: str | None = None,
    judge: str = "llm",
    neutral: str | Path | None = None,
    questions: str | Path | None = None,
    image_contrast: str | None = None,
    at: str = "last",
    orthogonal_to: str | None = None,
    paper_exact: bool = False,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
) -> dict[str, SteeringVectors]: ...


def extract(
    backbone: str | Path,
    concept: str | Path | Concept | Sequence[str | Path | Concept],
    method: str | Sequence[str] = "mean_shift",
    *,
    store: str | Path | None = None,
    replace: bool = False,
    name: str | None = None,
    seed: int = 0,
    layers: str | int | Iterable[int] | None = None,
    sae: str | None = None,
    judge: str = "llm",
    neutral: str | Path | None = None,
    questions: str | Path | None = None,
    image_contrast: str | None = None,
    at: str = "last",
    orthogonal_to: str | None = None,
    paper_exact: bool = False,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
) -> SteeringVectors | dict[str, SteeringVectors]:
    """Extract a concept's vectors from a text model and store them, as `lmms-steer extract` does.

    What the command prints is logged under `lmms_steer`.

    Args:
        backbone: a text model (a Hub id, a folder, `tiny-gemma2`), or a multimodal model, for its language model.
        concept: a concept that ships, a YAML, JSONL or CSV file, or a `lmms_steer.concepts.Concept`; or a list of them,
            `["all"]` for all that ship.
        method: an extraction method (`lmms_steer.extraction.methods`) or a control, or a list of them.
        store: the folder to write to; default: the user's store.
        replace: replace vectors of the same names made from other sentences or weights.
        name: the model's name in the store; default: the end of `backbone`.
        seed: of every random choice.
        layers: of the vector: `"5-20"`, 3, `[3, 7]`, …; default: all.
        sae, judge, neutral, paper_exact: as `lmms_steer.extraction.job.ExtractionSettings` says.
        questions: JSONL of image, prompt, contrast: extract from a multimodal model's images.
        image_contrast, at: of these questions, as `ExtractionSettings` says.
        orthogonal_to: the name or the file of vectors, whose component is removed.
        batch_size: sentences per forward pass.
        device: cpu, cuda:0, …; default: a GPU if there is one.
        dtype: float32, bfloat16 or float16; default: float32 on a CPU, else the checkpoint's own.

    Returns:
        One concept's vectors by one method; where one of them was given as a list, name ▸ vectors.

    Raises:
        UserError: for an unknown name, what is no concept, a model that cannot be loaded, or a store that cannot be
            written.
    """
    settings = ExtractionSettings(
        seed=seed,
        layers=None if layers is None else read_layers(join_values(layers), "layers="),
        paper_exact=paper_exact,
        sae=sae,
        judge=judge,
        neutral=Path(neutral) if neutral is not None else None,
        image_contrast=image_contrast,
        at=at,
        orthogonal_to=orthogonal_to,
    )
    concepts = listed_concepts(concept)
    methods = [method] if isinstance(method, str) else list(method)
    stored = log_lines(
        extract_to_store(
            backbone,
            concepts,
            methods,
            Path(store) if store is not None else None,
            batch_size,
            device,
            dtype,
            settings,
            Path(questions) if questions is not None else None,
            replace,
            name,
        )
    )
    vectors = {key: SteeringVectors.load(path) for key, path in stored.items()}
    if is_one(concept) and concept != "all" and isinstance(method, str):
        # an image contrast makes its control too
        (asked,) = (one for key, one in vectors.items() if key.endswith(f"/{method}"))
        return asked
    return vectors
