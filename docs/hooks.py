"""For mkdocs: the tasks' own read-mes become pages, so that links to them lead somewhere on the site too."""

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
    """In the repository tasks/ lies beside docs/, on the site within it."""
    if page.file.src_uri.startswith("tasks/"):
        return markdown.replace("](../../docs/", "](../../")
    return markdown.replace("](../tasks/", "](tasks/")
