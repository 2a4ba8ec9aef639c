"""What a spec does to one prompt: which tokens are steered, how strongly, and which next tokens become more likely."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.html import html_table
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.steered_text import SteeredText
from lmms_steer.inspection.continuations import continuations
from lmms_steer.inspection.effects import (
    Effect,
    Place,
    changed_positions,
    in_decoder,
    place_of,
    read_scores,
    record_places,
)
from lmms_steer.inspection.image_grid import image_grid
from lmms_steer.inspection.measured import MeasuredPrompt
from lmms_steer.inspection.prompt_figure import inspection_figure
from lmms_steer.models.media import Audio, Frames
from lmms_steer.models.media_inputs import video_frames
from lmms_steer.models.visuals import Visual
from lmms_steer.steering.anatomy import decoder_layers, keeps_all_positions, kept_logits
from lmms_steer.steering.decoder_inputs import decoder_ids
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.placeholders import MEDIA, Placeholders, placeholders
from lmms_steer.steering.positions import ids_of, kinds_of, media_mask, token_mask
from lmms_steer.steering.recording import record_layers
from lmms_steer.steering.scaled_vectors import active_layers
from lmms_steer.steering.sites import DEFAULT_SITE

if TYPE_CHECKING:
    import pandas

MARKED = "<image>"
"""How a position is shown that a mask marks as an image's."""
ANSWERS = 8
"""How many of the most likely next tokens are shown."""
COMPARED = 5
"""How many of the most likely next tokens of each run are compared with the other run."""


@dataclass(frozen=True, slots=True, repr=False)
class PromptInspection(MeasuredPrompt):
    """One prompt, unsteered and steered. `print` shows it as text, a notebook as a table."""

    def to_pandas(self) -> "pandas.DataFrame":
        """A row for each token of the prompt: `token`, `kind`, `steered` and `norm`."""
        import pandas

        columns = {"token": self.tokens, "kind": self.kinds, "steered": self.steered, "norm": self.norms}
        return pandas.DataFrame(columns)

    def plot(self) -> Any:
        """Draw it as a `matplotlib.figure.Figure`: steered tokens and patches, their norms, and the next tokens."""
        return inspection_figure(self)

    def __str__(self) -> str:
        return "\n".join(inspection_lines(self))

    def __repr__(self) -> str:
        steered = f"{sum(self.steered)} of {count_noun(len(self.tokens), 'token')} steered"
        likeliest = f"likeliest next {self.before[0][0]!r}" if self.before else "no next token"
        changed = f" -> {self.after[0][0]!r}" if self.spec and self.after else ""
        return f"PromptInspection {self.spec or '(the unsteered model)'}: {steered}, {likeliest}{changed}"

    def _repr_html_(self) -> str:
        rows = [
            (repr(word), f"{p:.3f}", repr(other), f"{q:.3f}")
            for (word, p), (other, q) in zip(self.before, self.after, strict=True)
        ]
        written = [f"{one.strength}: {one.text!r}" for one in self.continuations]
        return html_table(("unsteered", "probability", "steered", "probability"), rows, repr(self), written)


def inspect_prompt(
    lm: SteeredVlm | SteeredText,
    visuals: Sequence[Visual],
    prompt: str,
    alphas: Sequence[float] | None = None,
    new_tokens: int = 0,
) -> PromptInspection:
    """Run the prompt with and without the model's spec.

    Args:
        lm: the model, with its spec.
        visuals: images, videos and sounds of the prompt.
        prompt: the question.
        alphas: strengths at which the model continues the prompt; None for 0, half, once and twice the spec's.
        new_tokens: how many tokens it writes at most; 0 for no continuations.

    Raises:
        UserError: for alphas, but a spec of none or several interventions.
    """
    interventions = lm.resolved.spec.interventions
    inputs = lm.model_inputs([prompt], [list(visuals)])
    lm.attachment.remove()
    steered = [i for i in interventions if in_decoder(i)]
    layer = min((number for i in steered for number in i.layer_numbers), default=len(decoder_layers(lm.model)) // 2)
    at_layer = {i.site for i in steered if layer in i.layer_numbers}
    site = next(iter(at_layer)) if len(at_layer) == 1 else DEFAULT_SITE
    with record_places(lm.model, [(site, layer)], before=True) as at_site:
        unsteered, before = _run(lm.model, inputs)
    media = placeholders(lm.model.config)
    model_adds = _added_after(lm.model, inputs, layer, media)
    written = continuations(lm, inputs, alphas, new_tokens) if new_tokens else []
    lm.attachment = attach(lm.model, lm.resolved, lm.tokenizer.all_special_ids)
    every, changed, after = _run_steered(lm, inputs)
    ids = decoder_ids(inputs)[0]
    masks = [_mask(one, lm, inputs, media) for one in every]
    here, elsewhere = list[tuple[Effect, Tensor]](), list[tuple[Effect, Tensor]]()
    for one, mask in zip(every, masks, strict=True):
        is_here = in_decoder(one.intervention) and one.intervention.layer == layer
        (here if is_here else elsewhere).append((one, mask))
    (seen,) = at_site.values()
    norms = seen[0].view(unsteered[layer].shape)[0].float().norm(dim=-1).tolist()
    by_kind = ids_of(inputs)[0]
    kinds = kinds_of(by_kind, media)
    names = lm.tokenizer.convert_ids_to_tokens(ids.tolist())
    # where a mask says which tokens are an image's, their ids mean nothing
    shown = [MARKED if by_mask else str(name) for name, by_mask in zip(names, (by_kind != ids).tolist(), strict=True)]
    skipped = int(lm.text_only and len(ids) > 1)
    means = {kind: _mean(norms, kinds, kind, skipped) for kind in (*MEDIA, "text")}
    return PromptInspection(
        spec=str(lm.resolved.spec),
        layer=layer,
        tokens=[name.replace("\n", "\\n") for name in shown],
        kinds=kinds,
        steered=[any(changed[name, layer][place] for name in at_layer) for place in range(len(ids))],
        norms=norms,
        norms_of=site if at_layer - {DEFAULT_SITE} else "",
        effects=[one.describe(mask) for one, mask in here],
        added={kind: _added([one for one, _ in here], kind, mean, site) for kind, mean in means.items()},
        before=_most_likely(lm, before),
        after=_most_likely(lm, after),
        compared=_compared(lm, before, after),
        skipped=skipped,
        model_adds=model_adds,
        effects_after=[
            f"layer {one.intervention.layer}, {one.describe(mask)}{_count(one, mask, changed)}"
            for one, mask in elsewhere
        ],
        continuations=written,
        picture=next((one for one in visuals if isinstance(one, Image.Image)), None),
        grid=image_grid(inputs, lm.model.config, kinds.count("image")),
        media=_first_media(lm, visuals),
    )


def inspection_lines(inspection: PromptInspection) -> Iterator[str]:
    """The inspection as text, with steered tokens in [brackets] and a count of equal image tokens."""
    yield f"spec: {inspection.spec or 'none (the baseline)'}"
    # at vision towers alone, the layer whose norms follow is one of the decoder, at which nothing is done
    elsewhere = bool(inspection.effects_after) and not inspection.effects
    if elsewhere:
        yield from inspection.effects_after
    of = " of the decoder" if elsewhere else ""
    yield f"layer {inspection.layer}{of}, {'; '.join(inspection.effects) or 'nothing is done'}"
    shown = [kind for kind in MEDIA if kind in inspection.kinds]
    if not shown and not inspection.skipped:
        shown = ["image"]
    yield from (_kind_line(inspection, kind) for kind in (*shown, "text"))
    if inspection.effects and not any(inspection.steered) and "phase=decode" not in inspection.spec:
        yield "  WARNING: no token of this prompt is steered"
    if isinstance(inspection.media, Frames):
        seconds = inspection.media.seconds
        yield f"  video: {count_noun(len(seconds), 'frame')}, from {seconds[0]:.3g} to {seconds[-1]:.3g} s"
    elif inspection.media is not None:
        tokens = inspection.kinds.count("audio")
        length = inspection.media.seconds
        yield f"  audio: {length:.3g} s" + (f", {1000 * length / tokens:.3g} ms for each token" if tokens else "")
    if inspection.model_adds:
        yield (
            f"  after layer {inspection.layer} the model itself adds picture features to the image tokens, of mean norm"
            f" {inspection.model_adds:.4g}; they are not steered"
        )
    if not elsewhere:
        yield from inspection.effects_after
    yield ""
    yield " ".join(_runs(inspection))
    yield ""
    if not inspection.spec:
        yield "unsteered"
        yield from (f"{p:6.3f}  {word!r}" for word, p in inspection.before)
    else:
        yield f"{'unsteered':24}  steered"
        for (word, p), (other, q) in zip(inspection.before, inspection.after, strict=True):
            yield f"{p:6.3f}  {word!r:16}  {q:6.3f}  {other!r}"
    if inspection.continuations:
        yield ""
        yield "greedy continuations"
        width = max(len(one.strength) for one in inspection.continuations)
        # quoted, so that each stays on its line
        yield from (f"  {one.strength:{width}}  {one.text!r}" for one in inspection.continuations)


def _first_media(lm: SteeredVlm | SteeredText, visuals: Sequence[Visual]) -> Frames | Audio | None:
    """The frames of the first video as the model is shown them, or the first sound."""
    first = next((one for one in visuals if not isinstance(one, Image.Image)), None)
    if first is None or isinstance(first, Audio) or isinstance(lm, SteeredText):
        return first if isinstance(first, Audio) else None
    return video_frames(lm.processor, first)


def _kind_line(inspection: PromptInspection, kind: str) -> str:
    """How many tokens of a kind are steered, their mean norm, and how much is added relative to it."""
    places = [place for place, of in enumerate(inspection.kinds) if of == kind]
    steered = sum(inspection.steered[place] for place in places)
    line = f"  {kind} tokens: {steered} of {len(places)} steered, "
    norms = [inspection.norms[place] for place in places if place >= inspection.skipped]
    if not norms:
        return f"{line}none"
    mean = sum(norms) / len(norms)
    line += f"mean |h| = {mean:.4g}{inspection.at_site}"
    if inspection.skipped:
        line += f", the first token ({inspection.norms[0]:.4g}) left out"
    shares = [f"{strength / mean:.2g}" for strength in inspection.added.get(kind, []) if mean] if steered else []
    return f"{line}; {' and '.join(shares)} of that is added" if shares else line


def _runs(inspection: PromptInspection) -> Iterator[str]:
    """Runs of tokens of one kind: `[<image>×256]`, `Where is the cup`."""
    tokens = list(zip(inspection.tokens, inspection.kinds, inspection.steered, strict=True))
    for (token, kind, steered), run in groupby(tokens, key=lambda t: ("" if t[1] == "text" else t[0], t[1], t[2])):
        members = [name for name, _, _ in run]
        text = " ".join(members) if kind == "text" else f"{token}×{len(members)}"
        yield f"[{text}]" if steered else text


def _run(model: Any, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Every layer's output [1, positions, width], and the logits of the next token [vocabulary]."""
    # recorded after the steering hooks, so that their effect is included
    with torch.inference_mode(), record_layers(model) as outputs:
        kept = kept_logits(model, keeps_all_positions(model))
        logits: Tensor = model(**inputs, use_cache=False, **kept).logits[0, -1]
    return outputs, logits


def _run_steered(
    lm: SteeredVlm | SteeredText, inputs: dict[str, Tensor]
) -> tuple[list[Effect], dict[Place, Tensor], Tensor]:
    """What is done, in the order of the layers; which positions change at each place; the next token's logits."""
    layers = active_layers(lm.resolved, placeholders(lm.model.config).kinds)
    places = {place_of(at.intervention) for at in layers if in_decoder(at.intervention)}
    with (
        record_places(lm.model, places, before=True) as before,
        record_places(lm.model, places, before=False) as after,
        read_scores(lm.attachment.gates) as scores,
    ):
        _, logits = _run(lm.model, inputs)
    n = decoder_ids(inputs).shape[1]
    changed = {place: changed_positions(before[place][0], after[place][0], n) for place in places}
    read, every = iter(scores), []
    for at in layers:
        seen = next(read)[0] if at.gate is not None else None
        every += [Effect(i, lm.resolved.operation_of(i), vector, seen) for i, vector in at.parts]
    return sorted(every, key=lambda one: place_of(one.intervention)[1]), changed, logits


def _mask(one: Effect, lm: SteeredVlm | SteeredText, inputs: dict[str, Tensor], media: Placeholders) -> Tensor:
    """The prompt's tokens that an intervention is for, bool [positions]."""
    tokens = str(one.intervention.tokens)
    return token_mask(ids_of(inputs), None, media, tokens, special_ids=lm.tokenizer.all_special_ids)[0].cpu()


def _count(one: Effect, mask: Tensor, changed: Mapping[Place, Tensor]) -> str:
    """How many of its tokens an intervention changes; "" in a vision tower."""
    if not in_decoder(one.intervention):
        return ""
    return f": {int((changed[place_of(one.intervention)] & mask).sum())} of {int(mask.sum())} steered"


def _added(here: Sequence[Effect], kind: str, mean: float, site: str) -> list[float]:
    """The lengths of what is added to tokens of a kind, whose mean norm at the site is known."""
    return [
        abs(float(one.vector.strength)) * (mean if one.vector.per_token else 1.0)
        for one in here
        if one.operation.adds_delta
        and _changes(str(one.intervention.tokens), kind)
        and (one.intervention.site == site or not one.vector.per_token)
    ]


def _mean(norms: Sequence[float], kinds: Sequence[str], kind: str, skipped: int) -> float:
    """The mean norm of the tokens of a kind; 0 without any."""
    own = [norm for norm, of in list(zip(norms, kinds, strict=True))[skipped:] if of == kind]
    return sum(own) / len(own) if own else 0.0


def _added_after(model: Any, inputs: dict[str, Tensor], layer: int, media: Placeholders) -> float:
    """The mean norm of the difference between a layer's output and the next one's input at image and video tokens."""
    layers = decoder_layers(model)
    image = media_mask(ids_of(inputs), media, "image", "video")
    if layer + 1 == len(layers) or not image.any():
        return 0.0
    seen: list[Tensor] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = layers[layer + 1].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        outputs, _ = _run(model, inputs)
    finally:
        handle.remove()
    difference = seen[0].to(outputs[layer]) - outputs[layer]
    return float(difference[image.to(difference.device)].float().norm(dim=-1).mean())


def _changes(tokens: str, kind: str) -> bool:
    """Whether an intervention on `tokens` can change tokens of a kind; the last token and so on are text."""
    return tokens.startswith("both") or (tokens if tokens in MEDIA else "text") == kind


def _most_likely(lm: SteeredVlm | SteeredText, logits: Tensor) -> list[tuple[str, float]]:
    top = logits.float().softmax(-1).topk(ANSWERS)
    return [(lm.tokenizer.decode([i]), p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def _compared(lm: SteeredVlm | SteeredText, before: Tensor, after: Tensor) -> list[tuple[str, float, float]]:
    runs = [logits.float().softmax(-1) for logits in (before, after)]
    ids = dict.fromkeys(i for run in runs for i in run.topk(COMPARED).indices.tolist())
    return [(lm.tokenizer.decode([i]), *(float(run[i]) for run in runs)) for i in ids]
