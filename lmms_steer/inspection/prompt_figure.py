"""`lmms-steer inspect --picture FILE`: the image's patches, the prompt's tokens and the answers in one figure."""

import math
from pathlib import Path
from typing import Any

from PIL import Image

from lmms_steer.inspection.prompt import PromptInspection
from lmms_steer.plots.style import GREY, ROLE_COLOURS, VERMILLION, figure_style, literal_text, pyplot_for, save_figure

_STEERED, _PLAIN = ROLE_COLOURS["steered"], GREY
# the colour of steered tokens is hard to see as a frame on an image
_FRAME = VERMILLION
_MOST_TOKENS = 60


@figure_style()
def draw_inspection(seen: PromptInspection, image: Image.Image | None, path: Path) -> Path:
    """Write the picture; PNG, SVG or PDF by the file's suffix.

    Raises:
        UserError: for another suffix, or a file that cannot be written.
    """
    pyplot = pyplot_for(path)
    figure, axes = pyplot.subplot_mosaic(
        [["image", "norms", "answers"], ["tokens", "tokens", "tokens"]],
        figsize=(14, 8), height_ratios=[1.5, 1], layout="constrained",
    )  # fmt: skip
    figure.suptitle(seen.spec or "no spec: the baseline", fontsize=11)
    _patches(axes["image"], axes["norms"], seen, image)
    _answers(axes["answers"], seen)
    _tokens(axes["tokens"], seen)
    return save_figure(figure, path)


def _patches(axes: Any, beside: Any, seen: PromptInspection, image: Image.Image | None) -> None:
    """The picture with its steered patches framed, and beside it each patch's norm."""
    axes.axis("off")
    beside.axis("off")
    patches = [(norm, s) for norm, s, i in zip(seen.norms, seen.steered, seen.image, strict=True) if i]
    steered = sum(s for _, s in patches)
    axes.set_title(f"{steered} of {len(patches)} image tokens steered")
    if image is None or not patches:
        axes.text(0.5, 0.5, "no image", ha="center", transform=axes.transAxes)
        return
    aspect = image.height / image.width
    axes.imshow(image, extent=(0, 1, 0, 1), aspect=aspect)
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        # cut into pieces, or of several images: which token is where is the processor's secret
        return
    norms = [norm for norm, _ in patches]
    grid = [norms[row * side : (row + 1) * side] for row in range(side)]
    shades = beside.imshow(grid, extent=(0, 1, 0, 1), cmap="viridis", aspect=aspect)
    beside.figure.colorbar(shades, ax=beside, shrink=0.6)
    beside.set_title(f"image tokens: |h| at layer {seen.layer}")
    for number, (_, changed) in enumerate(patches):
        if changed:
            row, column = divmod(number, side)
            corner = (column / side, 1 - (row + 1) / side)
            axes.add_patch(_rectangle(corner, 1 / side))


def _rectangle(corner: tuple[float, float], side: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, fill=False, edgecolor=_FRAME, linewidth=1)


def _answers(axes: Any, seen: PromptInspection) -> None:
    words = list(dict.fromkeys([w for w, _ in seen.before[:5]] + [w for w, _ in seen.after[:5]]))
    before, after = dict(seen.before), dict(seen.after)
    places = range(len(words))
    axes.barh([p - 0.2 for p in places], [before.get(w, 0.0) for w in words], 0.38, color=_PLAIN, label="unsteered")
    axes.barh([p + 0.2 for p in places], [after.get(w, 0.0) for w in words], 0.38, color=_STEERED, label="steered")
    axes.set_yticks(places, [literal_text(repr(word)) for word in words])
    axes.invert_yaxis()
    axes.set(title="next token", xlabel="probability", xlim=(0, 1))
    axes.legend(loc="best")


def _tokens(axes: Any, seen: PromptInspection) -> None:
    shown = [
        (token, norm, steered)
        for token, norm, steered, image in zip(seen.tokens, seen.norms, seen.steered, seen.image, strict=True)
        if not image
    ]
    left_out = max(len(shown) - _MOST_TOKENS, 0)
    shown = shown[left_out:]
    colours = [_STEERED if steered else _PLAIN for _, _, steered in shown]
    axes.bar(range(len(shown)), [norm for _, norm, _ in shown], color=colours)
    for added in seen.added:
        axes.axhline(added, color=_STEERED, linestyle=":")
    names = [literal_text(token) for token, _, _ in shown]
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right", fontsize=8)
    rest = f", the first {left_out} left out" if left_out else ""
    dotted = "; dotted line: norm of what is added" if seen.added else ""
    axes.set(title=f"text tokens: |h| at layer {seen.layer} (coloured: steered{dotted}{rest})", ylabel="norm")
