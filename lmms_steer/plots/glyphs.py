"""Characters that matplotlib's own font lacks: another installed font draws them, or they are written as escapes.

Without this, matplotlib prints a warning for each character and draws a box, the same for all of them.
"""

import logging
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

logger = logging.getLogger(__name__)

_UNUSABLE = ("last resort", "lastresort", "blank", "color", "colour")
"""Parts of the names of fonts that have only boxes or nothing, or coloured pictures, which matplotlib cannot draw."""
_MAX_NAMED = 10


def choose_fonts(figure: Any, escape: bool = True) -> None:
    """Let other installed fonts draw what the figure's own font lacks. A figure that lacks nothing is left as it is.

    Args:
        figure: matplotlib's figure, complete.
        escape: whether to write characters that no installed font has as escapes such as `\\u4e2d`, with a note. In SVG
            they can stay: the browser that shows it has fonts of its own.
    """
    from matplotlib.text import Text

    missing_anywhere: dict[str, None] = {}
    for axis in _named_axes(figure):
        # set together with the places: changes to a tick's text alone would be overwritten when it is drawn
        texts = [label.get_text() for label in axis.get_majorticklabels()]
        written = [_written(text, missing_anywhere) if escape else text for text in texts]
        if written != texts:
            axis.set_ticks(axis.get_majorticklocs(), written)
    for artist in figure.findobj(Text):
        missing = missing_characters(artist.get_text(), artist.get_fontfamily())
        fonts = dict.fromkeys(font for font in map(font_with, missing) if font is not None)
        if fonts:
            artist.set_fontfamily([*artist.get_fontfamily(), *fonts])
        if missing and escape:
            artist.set_text(_written(artist.get_text(), missing_anywhere))
    if missing_anywhere:
        named = "".join(list(missing_anywhere)[:_MAX_NAMED]) + ("…" if len(missing_anywhere) > _MAX_NAMED else "")
        first = next(iter(missing_anywhere))
        logger.info(
            f"no installed font has {named}: the figure shows escapes such as {_escape(first)} instead; install a font"
            " that has them (Noto Sans CJK, Noto Sans Devanagari, Noto Emoji, …), or save an .svg"
        )


@contextmanager
def no_glyph_warnings() -> Iterator[None]:
    """Hide matplotlib's warnings about missing characters inside the block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield


def missing_characters(text: str, families: list[str]) -> str:
    """The characters of a text that none of some font families has, each once."""
    if text.isascii():
        return ""
    from matplotlib.font_manager import FontProperties, findfont

    known = set().union(*(_characters(findfont(FontProperties(family=[family]))) for family in families))
    return "".join(c for c in dict.fromkeys(text) if ord(c) not in known and c.isprintable() and not c.isspace())


@lru_cache(maxsize=4096)
def font_with(character: str) -> str | None:
    """The family of an installed font that has a character; None if there is none."""
    return next((family for family, path in _installed() if ord(character) in _characters(path)), None)


def drawn_length(text: str) -> int:
    """The length of a text as a figure shows it, in letters: with escapes, and two for each wide character."""
    if text.isascii():
        return len(text)
    written = _written(text, {})
    return len(written) + sum(unicodedata.east_asian_width(character) in "WF" for character in written)


def _written(text: str, missing_anywhere: dict[str, None]) -> str:
    """The text with characters that no installed font has as escapes; adds them to `missing_anywhere`."""
    from matplotlib import rcParams

    lost = [c for c in missing_characters(text, list(rcParams["font.family"])) if font_with(c) is None]
    missing_anywhere.update(dict.fromkeys(lost))
    return "".join(_escape(c) if c in lost else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _named_axes(figure: Any) -> Iterator[Any]:
    """The axes whose ticks were set by hand, whose labels may be names."""
    from matplotlib.ticker import FixedLocator

    for ax in figure.axes:
        yield from (axis for axis in (ax.xaxis, ax.yaxis) if isinstance(axis.get_major_locator(), FixedLocator))


@lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, str], ...]:
    """The families and files of installed fonts, regular ones first."""
    from matplotlib.font_manager import fontManager

    usable = [f for f in fontManager.ttflist if not any(part in f.name.lower() for part in _UNUSABLE)]
    usable.sort(key=lambda font: (font.style != "normal", str(font.weight) not in ("400", "normal"), font.name))
    return tuple((font.name, font.fname) for font in usable)


@lru_cache(maxsize=512)
def _characters(path: str) -> frozenset[int]:
    """The code points that a font's file has; none for a file that cannot be used."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
