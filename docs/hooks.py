"""For mkdocs: the tasks' own read-mes become pages, so that links to them lead somewhere on the site too."""

import re
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


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """`[FOLDER]` in a command's usage is an argument that may be left out, no link."""
    return re.sub(r"<autoref[^>]*>(.*?)</autoref>", r"[\1]", html) if page.file.src_uri == "reference/cli.md" else html
