"""A cell: one command line, what it waits for, and what it leaves."""

import shlex
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """One command.

    Attributes:
        name: `KIND/MODEL/…`; it is also where its log and its mark lie.
        kind: extract, search, evaluate, compare or command.
        command: the words of the command line.
        needs: cells that must be done before.
        reads: files and folders of others whose content it depends on.
        makes: files and folders that it must leave.
        folder: a folder of its own, with nobody else's files in it.
        loads: checkpoint and dtype of the multimodal model that it loads, where its memory can be told.
        answers: questions asked times settings, where that is known.
        show: whether what it prints is shown at the end.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    folder: str | None = None
    loads: tuple[str, str] | None = None
    answers: int | None = None
    show: bool = False

    def __str__(self) -> str:
        return shlex.join(self.command)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Cell":
        """Of JSON, where tuples are lists."""
        words: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**words)
