"""What the pages of a comparison and of a leaderboard share: the frame with its security policy, and packed data."""

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from lmms_steer import __version__


def render_page(
    template: str, title: str, data: Any, styles: Sequence[str], scripts: Sequence[str], **values: Any
) -> str:
    """Fill a page. Every value is escaped, so that what a run contains is shown as text.

    Args:
        template: extends `frame.html`; PACKAGE/FILE, as all assets here, such as `comparison/page_assets/page.html`.
        title: of the page.
        data: what its scripts read, as JSON.
        styles, scripts: our own files, with nothing from a run in them.
        values: of the template.
    """
    loader = DictLoader({"page.html": _asset(template), "frame.html": _asset("comparison/page_assets/frame.html")})
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")
    return page.render(
        title=title,
        data=data,
        style=Markup("\n".join(map(_asset, styles))),
        script=Markup("\n".join(map(_asset, scripts))),
        version=__version__,
        **values,
    )


def packed(content: Any) -> str:
    """JSON, compressed and without any character that HTML interprets; the page unpacks it when it is needed."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # an answer may hold half of a surrogate pair, which a browser shows as U+FFFD
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), 6, mtime=0)).decode()


@cache
def _asset(name: str) -> str:
    package, _, path = name.partition("/")
    return files(f"lmms_steer.{package}").joinpath(path).read_text(encoding="utf-8")
