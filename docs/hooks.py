"""For mkdocs: make pages of the READMEs under `tasks/`, so that links to them work on the site too."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

TASKS = Path(__file__).parent.parent / "tasks"


def on_files(files: Files, config: Any) -> Files:
    """Add `tasks/NAME/README.md`."""
    for path in sorted(TASKS.glob("*/README.md")):
        files.append(File.generated(config, f"tasks/{path.parent.name}/README.md", content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt links: `tasks/` is next to `docs/` in the repository, and inside it on the site."""
    if page.file.src_uri.startswith("tasks/"):
        return markdown.replace("](../../docs/", "](../../")
    return markdown.replace("](../tasks/", "](tasks/")
