"""Verdicts on SAE features, stored in a YAML file that a person can read and edit.

A verdict says whether a feature means the concept. A feature that has one is not judged again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line

UNCHECKED = "UNCHECKED and left in the vector"
"""What a warning says of features without a verdict."""
_HEADER = """\
# Does a feature of an SAE mean the concept? 'means: true' keeps it in the vector, 'means: false' drops it.
# You can edit this file: features with an entry are not judged again. Delete an entry to have its feature judged again.
# An entry counts for the concept's sentences of its 'sentences_sha256' only; without that line it counts for any.
"""
_Entries = dict[str, dict[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a feature means the concept.

    Attributes:
        means_concept: yes, no, or None: unchecked.
        reason: the judge's, or why there is no verdict.
        by: the judge: a model's name, `person`, or `none` if there was no judge.
    """

    means_concept: bool | None
    reason: str
    by: str


class Verdicts:
    """One concept's verdicts on one backbone's features: SAE name ▸ feature ▸ verdict.

    Several processes, and a person, may write to one file: adding a verdict keeps all others.

    Args:
        backbone: short name.
        concept: name.
        path: the file; by default one in the cache folder.
        sentences_sha256: of the concept. A verdict that was reached for other sentences of that name does not count.

    Raises:
        UserError: when the file is damaged, now or later; it is never overwritten then.
    """

    def __init__(
        self, backbone: str, concept: str, path: Path | None = None, sentences_sha256: str | None = None
    ) -> None:
        self.path = path or cache_dir() / "verdicts" / backbone / f"{concept}.yaml"
        self._sentences = sentences_sha256
        self._entries = _read(self.path)

    def get(self, sae: str, feature: int) -> Verdict | None:
        """The stored verdict, or None."""
        entry = self._entries.get(sae, {}).get(feature)
        # one that a person has written names no sentences
        if entry is None or (self._sentences and entry.get("sentences_sha256", self._sentences) != self._sentences):
            return None
        return Verdict(entry["means"], str(entry.get("reason", "")), str(entry.get("by", "person")))

    def add(self, sae: str, feature: int, verdict: Verdict, contexts: list[str]) -> Verdict:
        """Store a verdict at once, so that an interrupted run loses none. "Unchecked" is not stored.

        Returns:
            The verdict that counts: one that another process has stored in the meantime, else `verdict`.
        """
        if verdict.means_concept is None:
            return verdict
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.stem}.lock")):
            self._entries = _read(self.path)
            stored = self.get(sae, feature)
            if stored is not None:
                return stored
            entry = {"means": verdict.means_concept, "reason": verdict.reason, "by": verdict.by, "contexts": contexts}
            if self._sentences:
                entry["sentences_sha256"] = self._sentences
            self._entries.setdefault(sae, {})[feature] = entry
            text = yaml.safe_dump(self._entries, sort_keys=True, allow_unicode=True, width=120)
            write_atomically(self.path, (_HEADER + text).encode())
        return verdict


def _read(path: Path) -> _Entries:
    if not path.is_file():
        return {}
    damaged = f"the verdicts in {str(path)!r} are damaged"
    expected = "expected 'SAE name:', under it 'feature number: {means: true or false, reason: …}'"
    try:
        data: _Entries = read_yaml(path).typed() or {}
    except UserError as error:
        raise UserError(f"{damaged}: {first_line(error)}") from error
    if not isinstance(data, dict) or not all(isinstance(features, dict) for features in data.values()):
        raise UserError(f"{damaged}: {expected}")
    for sae, features in data.items():
        for feature, entry in features.items():
            if not isinstance(feature, int) or not isinstance(entry, dict) or not isinstance(entry.get("means"), bool):
                raise UserError(f"{damaged} at {sae}, {feature!r}: {expected}")
    return data
