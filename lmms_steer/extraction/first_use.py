"""Extract on first use: `vector=spatial` for a known multimodal model, where no store has the vector yet.

The vector is extracted from the multimodal model's text backbone, and stored; a line tells the user.
"""

from collections.abc import Iterator

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, checkpoint
from lmms_steer.vectors.controls import parse_control, wrong_concept_name
from lmms_steer.vectors.methods import DEFAULT_METHOD, check_method
from lmms_steer.vectors.ownership import check_name_is_free, save_own
from lmms_steer.vectors.weights import model_source


def extract_missing(spec: SteeringSpec, model: str) -> Iterator[str]:
    """Extract the spec's vectors that are in no store, if they can be made from a shipped concept; a line for each.

    If two processes need the same vector, the first one makes it and the second one waits for it. Vectors that cannot
    be made here are left to `resolve`, whose error says what is missing.

    Raises:
        UserError: when the backbone cannot be loaded, its name in the user's store belongs to other weights, or the
            method finds nothing.
    """
    missing = [name for name in dict.fromkeys(vector_names(spec, backbone_of(model))) if not _stored(name)]
    if not missing:
        return
    from filelock import FileLock

    root = store.user_store()
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".extracting.lock"):
        missing = [name for name in missing if not _stored(name)]
        for backbone in dict.fromkeys(name.split("/")[0] for name in missing):
            yield f"extracting {', '.join(n for n in missing if n.startswith(f'{backbone}/'))}: no store has it yet"
            yield from _extract([name.split("/") for name in missing if name.startswith(f"{backbone}/")])


def check_vectors(spec: SteeringSpec, model: str) -> None:
    """Check that each vector of a spec is in a store, or would be extracted on first use.

    Raises:
        UserError: for any other, with the known ones; for a misspelt model.
    """
    backbone = backbone_of(model)
    gates = [Intervention(i.gate_vector) for i in spec.interventions if i.gate_vector is not None]
    for intervention in (*spec.interventions, *gates):
        if not any(vector_names(SteeringSpec((intervention,)), backbone)):
            try:
                store.find(intervention.vector, backbone)
            except UserError as error:
                if backbone is None:
                    # the table of backbones lacks the model, whose name may be misspelt
                    checkpoint(model, make=False)
                    raise UserError(f"{model}: {error}") from error
                raise


def vector_names(spec: SteeringSpec, backbone: str | None) -> Iterator[str]:
    """`backbone/concept/method` of each vector that could be made here, including the vectors of gates and controls.

    Args:
        spec: names vectors.
        backbone: of the model to be steered, for names that leave it out.
    """
    shipped = concepts.names()
    gates = [Intervention(i.gate_vector) for i in spec.interventions if i.gate_vector is not None]
    for intervention in (*spec.interventions, *gates):
        for backbone_name, concept, method in _readings(intervention, backbone):
            try:
                check_method(method)
            except UserError:
                continue
            if concept in shipped:
                yield f"{backbone_name}/{concept}/{method}"
                yield from _control_names(intervention, backbone_name, concept, method, shipped)
                break


def _extract(parts: list[list[str]]) -> Iterator[str]:
    from lmms_steer.extraction.extract import Backbone

    check_name_is_free(model_source(parts[0][0]), store.user_store())
    source = Backbone(parts[0][0])
    for _, name, method in parts:
        concept = concepts.load(name)
        extracted = source.extract(concept, method, source.read(concept))
        yield from extracted.notes
        yield f"{extracted.vectors.name} -> {save_own(extracted.vectors, store.user_store())}"


def _readings(intervention: Intervention, backbone: str | None) -> Iterator[tuple[str, str, str]]:
    """The possible readings of a name as (backbone, concept, method), in the order in which the store tries them."""
    parts = intervention.vector.split("/")
    if len(parts) == 3:
        yield parts[0], parts[1], parts[2]
    if backbone is not None and len(parts) == 2:
        yield backbone, parts[0], parts[1]
    if len(parts) == 2 and parts[0] == backbone:
        yield parts[0], parts[1], DEFAULT_METHOD
    if backbone is not None and len(parts) == 1:
        yield backbone, parts[0], DEFAULT_METHOD


def _control_names(
    intervention: Intervention, backbone: str, concept: str, method: str, shipped: list[str]
) -> Iterator[str]:
    """The stored vectors that the intervention's control needs."""
    kind, detail = parse_control(intervention.control) if intervention.control else ("", "")
    if kind == "shuffled":
        yield f"{backbone}/{concept}/{method}-shuffled"
    if kind == "wrong_concept":
        other = wrong_concept_name(concept, shipped, detail)
        if other in shipped:
            yield f"{backbone}/{other}/{method}"


def _stored(name: str) -> bool:
    return any(entry.name == name for entry in store.entries())
