"""What was said about features, in a YAML that a person can read and edit; nothing in it is asked again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from lmms_steer.errors import UserError, one_line
from lmms_steer.files import write_atomically
from lmms_steer.store import cache_dir

_HEAD = """\
# Does a feature of an SAE mean the concept? 'means: true' keeps it in the vector, 'means: false' drops it.
# Edit as you like: what stands here is not asked again. Take an entry out to have it asked again.
"""
_Entries = dict[str, dict[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a feature means the concept.

    Attributes:
        means: yes, no, or None: unchecked.
        reason: the judge's, or why there is no verdict.
        by: who said it: a model's name, `person`, or `none` where nobody was asked.
    """

    means: bool | None
    reason: str
    by: str


class Verdicts:
    """One concept's verdicts on one backbone's features: SAE name ▸ feature ▸ verdict.

    Several processes, and a person, may write to one file: what is there when a verdict is added stays.

    Raises:
        UserError: when the file is damaged, now or later; it is never overwritten then.
    """

    def __init__(self, backbone: str, concept: str, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "verdicts" / backbone / f"{concept}.yaml"
        self._entries = _read(self.path)

    def get(self, sae: str, feature: int) -> Verdict | None:
        """What stands in the file, or None."""
        entry = self._entries.get(sae, {}).get(feature)
        if entry is None:
            return None
        return Verdict(entry["means"], str(entry.get("reason", "")), str(entry.get("by", "person")))

    def add(self, sae: str, feature: int, verdict: Verdict, contexts: list[str]) -> Verdict:
        """Write one down at once, so that nothing that was asked is lost. Unchecked ones are not written.

        Returns:
            The one that counts: what somebody else has written down meanwhile, else `verdict`.
        """
        if verdict.means is None:
            return verdict
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.stem}.lock")):
            self._entries = _read(self.path)
            theirs = self.get(sae, feature)
            if theirs is not None:
                return theirs
            entry = {"means": verdict.means, "reason": verdict.reason, "by": verdict.by, "contexts": contexts}
            self._entries.setdefault(sae, {})[feature] = entry
            text = yaml.safe_dump(self._entries, sort_keys=True, allow_unicode=True, width=120)
            write_atomically(self.path, (_HEAD + text).encode())
        return verdict


def _read(path: Path) -> _Entries:
    if not path.is_file():
        return {}
    damaged = f"the verdicts in {str(path)!r} are damaged"
    wanted = "expected 'SAE name:', under it 'feature number: {means: true or false, reason: …}'"
    try:
        data: _Entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{damaged}: {one_line(error)}") from error
    if not isinstance(data, dict) or not all(isinstance(features, dict) for features in data.values()):
        raise UserError(f"{damaged}: {wanted}")
    for sae, features in data.items():
        for feature, entry in features.items():
            if not isinstance(feature, int) or not isinstance(entry, dict) or not isinstance(entry.get("means"), bool):
                raise UserError(f"{damaged} at {sae}, {feature!r}: {wanted}")
    return data
