"""`leaderboard.yaml`: what a board is called, and which checks an entry must pass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, shorten, unknown_name

RULES = "leaderboard.yaml"
CONTROL_KINDS = ("random", "prior", "blank", "shuffled", "wrong_concept")
"""Kinds of controls: `prior` is a bias on the answers' words, `blank` a run with grey images."""
_KEYS = ("format", "title", "repository", "controls", "checks")


@dataclass(frozen=True)
class Rules:
    """The content of the file.

    Attributes:
        title: of the page.
        repository: the address that entries are linked to, as `https://github.com/OWNER/NAME`; "" for none.
        controls: the kinds of controls that a steered entry needs beside it.
        checks: name ▸ refuse, show or off.
    """

    title: str = "Leaderboard"
    repository: str = ""
    controls: tuple[str, ...] = ("random",)
    checks: Mapping[str, str] = field(default_factory=dict)


def read_rules(board: Path) -> Rules:
    """Read a board's rules. Checks that the file does not name do what their default is.

    Raises:
        UserError: for a folder that is no board, an unknown key or a wrong value.
    """
    from lmms_steer.board.checks import OFF, REFUSE, SHOW, checks

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
    controls, typed = content.get("controls", ["random"]), content.get("checks") or {}
    if not isinstance(controls, list) or not isinstance(typed, dict):
        raise UserError(f"{str(path)!r}: controls is a list, checks a mapping such as scores: refuse")
    for kind in controls:
        if kind not in CONTROL_KINDS:
            raise unknown_name("kind of control", kind, CONTROL_KINDS, f"in {str(path)!r}")
    for name, does in typed.items():
        if name not in checks:
            raise unknown_name("check", name, checks.names(), f"in {str(path)!r}")
        # YAML 1.1 reads an unquoted off as false
        if does not in (REFUSE, SHOW, OFF, False):
            raise unknown_name("value", does, (REFUSE, SHOW, OFF), f"for {name} in {str(path)!r}")
    does = {name: typed.get(name, check.default) or OFF for name, check in checks.entries().items()}
    return Rules(title or "Leaderboard", repository.rstrip("/"), tuple(controls), does)


def _text(path: Path, key: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{str(path)!r}: {key} is {shorten(value)}, not a text")
    return (value or "").strip()
