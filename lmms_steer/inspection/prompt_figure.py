"""The figure of `lmms-steer inspect --plot FILE`: the image's patches or a
video's frames, the prompt's tokens, and the next tokens."""

from pathlib import Path
from typing import Any

from PIL import Image

from lmms_steer.inspection.measured import MeasuredPrompt
from lmms_steer.inspection.media_figure import draw_media, media_kind
from lmms_steer.plots.style import GREY, ROLE_COLOURS, VERMILLION, figure_maker, figure_style, literal_text, save_figure

_STEERED, _UNSTEERED = ROLE_COLOURS["steered"], GREY
# the colour of steered tokens is hard to see as a frame on an image
_FRAME = VERMILLION
_MAX_TOKENS = 60
_OFF_SCALE = 3
"""A text model's first token is cut off if its norm exceeds all others by this factor."""


@figure_style()
def draw_inspection(inspection: MeasuredPrompt, path: Path) -> Path:
    """Draw the figure into a file, whose suffix selects PNG, SVG or PDF.

    Raises:
        UserError: for another suffix, or a file that cannot be written.
    """
    return save_figure(inspection_figure(inspection), path)


@figure_style()
def inspection_figure(inspection: MeasuredPrompt) -> Any:
    """Draw the figure, as a `matplotlib.figure.Figure`."""
    maker, image = figure_maker(), inspection.picture
    shown = media_kind(inspection)
    if shown or "image" in inspection.kinds or image is not None:
        figure, axes = maker.subplot_mosaic(
            [["image", "norms", "answers"], ["tokens", "tokens", "tokens"]],
            figsize=(14, 8), height_ratios=[1.5, 1], layout="constrained",
        )  # fmt: skip
        if shown:
            draw_media(axes["image"], axes["norms"], inspection)
        else:
            _patches(axes["image"], axes["norms"], inspection, image)
    else:
        figure, axes = maker.subplot_mosaic(
            [["tokens", "answers"]], figsize=(14, 4.5), width_ratios=[2, 1], layout="constrained"
        )
    figure.suptitle(literal_text(inspection.spec) or "no spec: the baseline", fontsize=11)
    _answers(axes["answers"], inspection)
    _tokens(axes["tokens"], inspection)
    return figure


def _patches(axes: Any, norm_axes: Any, inspection: MeasuredPrompt, image: Image.Image | None) -> None:
    """The image with frames around its steered patches, and each patch's norm in a second panel."""
    axes.axis("off")
    norm_axes.axis("off")
    patches = [
        (norm, steered)
        for norm, steered, kind in zip(inspection.norms, inspection.steered, inspection.kinds, strict=True)
        if kind == "image"
    ]
    steered = sum(s for _, s in patches)
    axes.set_title(f"{steered} of {len(patches)} image tokens steered")
    if image is None or not patches:
        axes.text(0.5, 0.5, "no image", ha="center", transform=axes.transAxes)
        return
    aspect = image.height / image.width
    axes.imshow(image, extent=(0, 1, 0, 1), aspect=aspect)
    if inspection.grid is None:
        return
    rows, columns = inspection.grid
    norms = [norm for norm, _ in patches]
    grid = [norms[row * columns : (row + 1) * columns] for row in range(rows)]
    heatmap = norm_axes.imshow(grid, extent=(0, 1, 0, 1), cmap="viridis", aspect=aspect)
    norm_axes.figure.colorbar(heatmap, ax=norm_axes, shrink=0.6)
    norm_axes.set_title(f"image tokens: |h| at layer {inspection.layer}{inspection.at_site}")
    for number, (_, changed) in enumerate(patches):
        if changed:
            row, column = divmod(number, columns)
            corner = (column / columns, 1 - (row + 1) / rows)
            axes.add_patch(_rectangle(corner, 1 / columns, 1 / rows))


def _rectangle(corner: tuple[float, float], width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor=_FRAME, linewidth=1)


def _answers(axes: Any, inspection: MeasuredPrompt) -> None:
    words, before, after = zip(*inspection.compared, strict=True)
    places = range(len(words))
    axes.barh([p - 0.2 for p in places], before, 0.38, color=_UNSTEERED, label="unsteered")
    axes.barh([p + 0.2 for p in places], after, 0.38, color=_STEERED, label="steered")
    axes.set_yticks(places, [literal_text(repr(word)) for word in words])
    axes.invert_yaxis()
    axes.set(title="next token", xlabel="probability", xlim=(0, 1))
    axes.legend(loc="best")


def _tokens(axes: Any, inspection: MeasuredPrompt) -> None:
    shown = [
        (token, norm, steered)
        for token, norm, steered, kind in zip(
            inspection.tokens, inspection.norms, inspection.steered, inspection.kinds, strict=True
        )
        if kind == "text"
    ]
    left_out = max(len(shown) - _MAX_TOKENS, 0)
    shown = shown[left_out:]
    colours = [_STEERED if steered else _UNSTEERED for _, _, steered in shown]
    axes.bar(range(len(shown)), [norm for _, norm, _ in shown], color=colours)
    strengths = sorted({strength for strengths in inspection.added.values() for strength in strengths})
    for added in strengths:
        axes.axhline(added, color=_STEERED, linestyle=":")
    names = [literal_text(token) for token, _, _ in shown]
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right", fontsize=8)
    rest = f", the first {left_out} left out" if left_out else ""
    dotted = "; dotted line: norm of the added vector" if strengths else ""
    others = [norm for _, norm, _ in shown[inspection.skipped :]] + strengths
    if inspection.skipped and not left_out and shown[0][1] > _OFF_SCALE * max(others):
        # its bar would hide all others
        axes.set_ylim(0, 1.1 * max(others))
        rest = f", the first one off the scale: {shown[0][1]:.4g}"
    axes.set(
        title=f"text tokens: |h| at layer {inspection.layer}{inspection.at_site} (coloured: steered{dotted}{rest})",
        ylabel="norm",
    )
