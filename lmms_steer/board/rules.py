"""`leaderboard.yaml`: what a board is called, and which of its rules an entry may break."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, shorten, unknown_name

RULES = "leaderboard.yaml"
_KEYS = ("format", "title", "repository")


@dataclass(frozen=True)
class Rules:
    """The content of the file.

    Attributes:
        title: of the page.
        repository: the address that entries are linked to, as `https://github.com/OWNER/NAME`; "" for none.
    """

    title: str = "Leaderboard"
    repository: str = ""


def read_rules(board: Path) -> Rules:
    """Read a board's rules.

    Raises:
        UserError: for a folder that is no board, an unknown key or a wrong value.
    """
    path = board / RULES
    if not path.is_file():
        raise UserError(f"{str(board)!r} is no leaderboard, there is no {RULES}: lmms-steer leaderboard init {board}")
    content = read_yaml(path, "the leaderboard's rules").typed()
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r}: expected a mapping with title: and checks:")
    for key in content:
        if key not in _KEYS:
            raise unknown_name("key", key, _KEYS, f"in {str(path)!r}")
    if content.get("format") != 1:
        raise UserError(f"{str(path)!r}: format is {shorten(content.get('format'))}, this lmms-steer reads format 1")
    title, repository = (_text(path, key, content.get(key)) for key in ("title", "repository"))
    if repository and not repository.startswith("https://"):
        raise UserError(f"{str(path)!r}: repository is {shorten(repository)}, expected https://…")
    return Rules(title or "Leaderboard", repository.rstrip("/"))


def _text(path: Path, key: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{str(path)!r}: {key} is {shorten(value)}, not a text")
    return (value or "").strip()
