"""`lmms-steer leaderboard init`: the files of an empty board."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from lmms_steer._util.io import write_atomically
from lmms_steer.board.checks import checks
from lmms_steer.board.entry import ENTRIES
from lmms_steer.board.rules import RULES
from lmms_steer.errors import UserError

_TEMPLATES = {
    RULES: RULES,
    "README.md": "README.md",
    "gitignore": ".gitignore",
    **{name: f".github/workflows/{name}" for name in ("check.yml", "comment.yml", "pages.yml")},
}
"""Asset ▸ the file that it becomes."""


def init_board(folder: Path, title: str, repository: str) -> Iterator[str]:
    """Write the files of an empty board.

    Args:
        folder: need not exist.
        title: of the page.
        repository: its address; "" for none.

    Yields:
        A line for each file; those that are there already stay.

    Raises:
        UserError: for a title that is no single line, or an address that is not https.
    """
    if not title.strip() or not title.isprintable():
        raise UserError(f"--title {title!r}: expected one line")
    if repository and not (repository.startswith("https://") and repository.isprintable()):
        raise UserError(f"--repository {repository}: expected https://github.com/OWNER/NAME")
    for asset, name in _TEMPLATES.items():
        path = folder / name
        if path.exists():
            yield f"kept {path}"
            continue
        text = files("lmms_steer.board").joinpath(f"assets/{asset}").read_text(encoding="utf-8")
        # JSON's texts are YAML's
        values = {"TITLE_YAML": json.dumps(title), "REPOSITORY_YAML": json.dumps(repository), "TITLE": title}
        values["CHECKS"] = "\n".join(
            f"  # {one.description}\n  {name}: {one.default}" for name, one in checks.entries().items()
        )
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        write_atomically(path, text.encode())
        yield f"wrote {path}"
    (folder / ENTRIES).mkdir(parents=True, exist_ok=True)
