"""What is measured on a prompt, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from lmms_steer.inspection.continuations import Continuation
from lmms_steer.models.media import Audio, Frames


@dataclass(frozen=True, slots=True)
class MeasuredPrompt:
    """What was measured on one prompt, unsteered and steered.

    Attributes:
        spec: in one line; "" for none.
        layer: the first steered layer; without a spec the middle layer.
        tokens: the prompt's tokens as the tokenizer spells them.
        kinds: of each token: `image`, `video`, `audio` or `text`.
        steered: whether each token changed at the layer: measured, not computed from the mask.
        norms: |h| of each token at the layer, unsteered: of the tensor of the one site that is changed there, otherwise
            of the layer's output.
        effects: the effect of each intervention at the layer, one line each.
        added: kind of tokens ▸ the norms of the vectors that are added to them at the layer.
        before, after: the most likely next tokens with their probabilities, unsteered and steered.
        compared: the first few of either, each with its probability unsteered and steered.
        skipped: tokens at the beginning that do not count in means: the first one of a text model, as for
            `scale=relative` (`lmms_steer.models.residual_norms.measure_norms`).
        continuations: what the model writes at several strengths; empty if that was not asked for.
        effects_after: the effects at further layers, one line each, with how many tokens changed.
        norms_of: the site whose norms these are; "" if nothing but the layer's output is steered there.
        model_adds: the mean norm of what the model itself adds to image and video tokens between the layer and the next
            (picture features of a deepstack), on which the vector has no influence; 0 for nothing.
        picture: the prompt's first image, for the figure.
        grid: the rows and columns of its tokens; None where they are not known.
        media: the frames of its first video, or its first sound.
    """

    spec: str
    layer: int
    tokens: list[str]
    kinds: list[str]
    steered: list[bool]
    norms: list[float]
    effects: list[str]
    added: Mapping[str, Sequence[float]]
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]
    compared: list[tuple[str, float, float]]
    skipped: int = 0
    continuations: Sequence[Continuation] = ()
    model_adds: float = 0.0
    effects_after: Sequence[str] = ()
    norms_of: str = ""
    picture: Image.Image | None = field(default=None, compare=False)
    grid: tuple[int, int] | None = None
    media: Frames | Audio | None = field(default=None, compare=False)

    @property
    def at_site(self) -> str:
        """Where the norms were measured, to be put after the layer; "" for the layer's output alone."""
        return f" at site={self.norms_of}" if self.norms_of else ""
