"""Tables of what is registered (methods, operations, strategies, …) in the pages, made from the registries.

A page marks the place of a table, and holds a copy of it for readers in the repository:

    <!-- registry:methods -->

    | method | description |
    ...

    <!-- /registry -->

The site gets its tables when it is built, so they include the plugins that are installed there. After a change of a
registry, `python docs/registry_tables.py` updates the copies in the pages; with `--check` it changes nothing and fails
if one is out of date, which the tests do.
"""

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
REGISTRIES = {
    "methods": "lmms_steer.vectors.methods",
    "operations": "lmms_steer.steering.operations",
    "layer_scores": "lmms_steer.search.layer_scores",
    "gates": "lmms_steer.steering.gates",
    "sites": "lmms_steer.steering.sites",
    "strategies": "lmms_steer.search.strategies",
    "prompt_formats": "lmms_steer.models.prompts",
    "contrasts": "lmms_steer.models.contrasts",
    "benchmarks": "lmms_steer.data.benchmarks",
    "checks": "lmms_steer.board.checks",
}
"""The module of each registry. The registry has the name that pages use."""

_PLACE = re.compile(r"<!-- registry:(\w+) -->\n(?:\n(?:\|.*\n)*\n<!-- /registry -->\n)?")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page asks for them (called by mkdocs)."""
    return fill(markdown)


def fill(markdown: str, registries: Mapping[str, Any] | None = None) -> str:
    """Replace every place for a table, and the copy in it, by a current copy.

    Args:
        markdown: a page.
        registries: name of a registry ▸ the registry; default: the package's, loaded when a page asks for them.
    """

    def table(place: re.Match[str]) -> str:
        registry = load(place[1]) if registries is None else registries[place[1]]
        return f"<!-- registry:{place[1]} -->\n\n{render(registry)}\n\n<!-- /registry -->\n"

    return _PLACE.sub(table, markdown)


def load(name: str) -> Any:
    """A registry of the package.

    Raises:
        KeyError: for a name that is none.
    """
    return getattr(import_module(REGISTRIES[name]), name)


def render(registry: Any) -> str:
    """A Markdown table with the name and the description of every entry, sorted by name."""
    # the registry's own order depends on what was imported first
    rows = [f"| `{name}` | {_cell(entry.description)} |" for name, entry in sorted(registry.entries().items())]
    return "\n".join([f"| {registry.kind} | description |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def main(check: bool) -> int:
    """Update the copies in the pages, or name those that are out of date; returns the exit status."""
    outdated = {
        page: new for page in sorted(DOCS.rglob("*.md")) if (new := fill(text := page.read_text("utf-8"))) != text
    }
    for page, new in outdated.items():
        sys.stdout.write(f"{page.relative_to(DOCS.parent)}: {'out of date' if check else 'updated'}\n")
        if not check:
            page.write_text(new, "utf-8")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
