"""For mkdocs: make a page of each notebook in `docs/notebooks/`, with the output that is stored in it."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parent / "notebooks"


def on_files(files: Files, config: Any) -> Files:
    """Add `notebooks/NAME.md`; the notebook itself is next to it, to be downloaded."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Link to the page in place of the notebook, which is what the repository has."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"\]\(((?:\.\./)?notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)


def page(path: Path) -> str:
    """The notebook as Markdown."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    title, *others = (_cell(cell) for cell in cells)
    return "\n\n".join([title, f"[Download the notebook]({path.name})", *others]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="the figure of the cell above" src="data:image/png;base64,{image}">'
    if "text/html" in data:
        # a blank line would end the block, and the styles of pandas apply to its own table only
        html = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        return re.sub(r"\n\s*", "\n", html).strip()
    text = "".join(output.get("text") or data["text/plain"])
    return f"```output\n{text.rstrip()}\n```"
