"""The common style of all figures: colours, fonts and axes, and saving by the file's suffix."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer._util.extras import require_extra
from lmms_steer.errors import UserError, reason
from lmms_steer.plots.glyphs import choose_fonts, drawn_length, no_glyph_warnings

if TYPE_CHECKING:
    from lmms_steer.plots.figure import FigureMaker

# Okabe and Ito's colour-blind safe palette; their purple is too pale for thin lines on white, so ours is darker
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#7A5195"
GREY, DARK_GREY = "#999999", "#555555"

ROLE_COLOURS = {"baseline": GREY, "steered": BLUE, "control": VERMILLION, "prompted": GREEN, "other": PURPLE}
"""The colour of each role of a system; where a figure has no roles, blue comes first and vermillion second."""
ROLE_MARKERS = {"baseline": "_", "steered": "o", "control": "D", "prompted": "s", "other": "^"}
"""Each role has a marker of its own, so that colour is never the only difference."""
MARKER_NAMES = {"_": "line", "o": "circle", "D": "diamond", "s": "square", "^": "triangle"}
"""What a caption calls these markers."""

SUFFIXES = (".png", ".svg", ".pdf")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # text stays text in SVG and PDF: it can be searched, and edited for a paper
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_DPI = 140


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the common style: in a `with` block, or to a whole function as `@figure_style()`."""
    require_extra("plots", "a figure")
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def figure_maker() -> "FigureMaker":
    """Return what makes figures, without a screen; matplotlib is imported now."""
    from lmms_steer.plots.figure import FigureMaker

    return FigureMaker()


def check_figure_suffix(path: Path) -> None:
    """Check that a figure can be saved under this name.

    Raises:
        UserError: if the file's suffix is not .png, .svg or .pdf, or matplotlib is not installed.
    """
    require_extra("plots", "a figure")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{str(path)!r}: expected a file that ends in .png, .svg or .pdf")


def save_figure(figure: Any, *paths: Path) -> Path:
    """Write a figure, in the format that each file's suffix names.

    Args:
        figure: matplotlib's figure.
        paths: the files to write.

    Returns:
        The last of the paths.

    Raises:
        UserError: for another suffix than .png, .svg or .pdf, or if a file cannot be written.
    """
    for path in paths:
        check_figure_suffix(path)
    try:
        # SVG first, as it keeps characters that the other formats need escapes for
        for file in sorted(paths, key=lambda path: path.suffix != ".svg"):
            file.parent.mkdir(parents=True, exist_ok=True)
            choose_fonts(figure, escape=file.suffix != ".svg")
            with no_glyph_warnings():
                figure.savefig(file, dpi=_DPI)
    except OSError as error:
        raise UserError(f"cannot write {str(file)!r}: {reason(error)}") from error
    return paths[-1]


def embedded_svg(figure: Any, name: str) -> str:
    """Return a figure as SVG text to embed in an HTML page; the same figure always gives the same text.

    Args:
        figure: matplotlib's figure.
        name: unique on the page; it goes into the ids of the drawing's parts.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    choose_fonts(figure, escape=False)
    with mpl.rc_context({"svg.hashsalt": name}), no_glyph_warnings():
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # every drawing has ids such as axes_1: keep only those that the drawing itself refers to
    used = set(re.findall(r"#([\w-]+)", text))
    return re.sub(r' id="([^"]*)"', lambda match: match.group(0) if match.group(1) in used else "", text)


def literal_text(text: str) -> str:
    """Escape `$`, which matplotlib would read as the start of a formula."""
    return text.replace("$", r"\$")


def wrapped_name(name: str, width: int = 28) -> str:
    """Break a long name into lines, so that an axis has room for it.

    Lines end after underscores, hyphens, slashes and spaces, within a word only where it is longer than a line.
    """
    lines = [""]
    for word in re.findall(r"[^_\-/ ]*[_\-/ ]*", name):
        for part in [word] if drawn_length(word) <= width else word:
            if lines[-1] and drawn_length(lines[-1]) + drawn_length(part) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(lines)
