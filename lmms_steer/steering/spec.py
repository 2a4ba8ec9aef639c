"""What to add, where, how strongly and to which tokens: a value that round-trips to one line.

    vector=spatial,layer=3,alpha=0.5,tokens=image

Several interventions stand in one line with `; ` between them, or in a YAML file (`SteeringSpec.from_yaml`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.steering.intervention import FIELDS, OPERATIONS, PHASES, SCALES, TOKENS, Intervention

__all__ = ["FIELDS", "OPERATIONS", "PHASES", "SCALES", "TOKENS", "Intervention", "SteeringSpec"]

_PAIR = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,;"]*)\s*([,;]|$)')


@dataclass(frozen=True, slots=True)
class SteeringSpec:
    """One or more interventions. An empty spec is the baseline: the model as it is.

    `provenance` is where a spec comes from (a search's study), if its file says so; it plays no part in what is done.
    """

    interventions: tuple[Intervention, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def __str__(self) -> str:
        return "; ".join(map(str, self.interventions))

    @property
    def complete(self) -> bool:
        return all(i.complete for i in self.interventions)

    @classmethod
    def parse(cls, line: str) -> "SteeringSpec":
        """Read the one-line form; `parse(str(spec)) == spec` for every spec."""
        groups: list[dict[str, Any]] = [{}]
        position = 0
        while position < len(line.rstrip()):
            match = _PAIR.match(line, position)
            if match is None:
                raise UserError(
                    f"cannot read the spec at {line[position:]!r}: expected key=value pairs, as in {_SHOWN}"
                )
            key, value, separator = match.groups()
            if key in groups[-1]:
                raise UserError(f"{key!r} is given twice in {shorten(line)!r}: put '; ' between two interventions")
            groups[-1][key] = _unquoted(value) if value.startswith('"') else value.strip()
            if separator == ";":
                groups.append({})
            position = match.end()
        return cls.from_dicts([group for group in groups if group])

    @classmethod
    def from_dicts(cls, entries: list[Mapping[str, Any]]) -> "SteeringSpec":
        """From one mapping an intervention, with the keys `FIELDS`."""
        return cls(tuple(_intervention(entry) for entry in entries))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> "SteeringSpec":
        """From model_args: `steering`, a file; or `FIELDS`, one intervention; or none of them, the baseline."""
        given = {key: args[key] for key in FIELDS if key in args}
        steering = args.get("steering")
        if steering is None:
            return cls.from_dicts([given] if given else [])
        if given:
            raise UserError(f"steering={steering} and {', '.join(given)}: give the file or the single keys, not both")
        return cls.from_yaml(steering)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "SteeringSpec":
        """From a file whose `interventions` is a list of mappings with the keys `FIELDS`, and perhaps `provenance`."""
        data = read_yaml(Path(str(path)), "the steering file").typed()
        made = data.pop("provenance", {}) if isinstance(data, dict) else {}
        entries = data.get("interventions") if isinstance(data, dict) else None
        if not isinstance(made, dict):
            raise UserError(f"{str(path)!r}: provenance is no mapping: {made!r}")
        well_made = isinstance(data, dict) and len(data) == 1
        if not well_made or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(
                f"{str(path)!r} is no steering file: expected 'interventions:' with a list such as - {_SHOWN}"
            )
        return cls(tuple(_in_file(entry, path, number) for number, entry in enumerate(entries, start=1)), made)

    def to_yaml(self) -> str:
        """The text of a file that `from_yaml` reads."""
        entries = [{k: v for k, v in asdict(i).items() if v is not None} for i in self.interventions]
        made = {"provenance": dict(self.provenance)} if self.provenance else {}
        return yaml.safe_dump({"interventions": entries, **made}, sort_keys=False)


def _unquoted(text: str) -> str:
    try:
        # a tab in quotes is a character like others
        return str(json.loads(text, strict=False))
    except ValueError as error:
        raise UserError(f'cannot read {shorten(text)}: in quotes a backslash stands as \\\\, a quote as \\"') from error


_SHOWN = "vector=spatial,layer=3,alpha=0.5,tokens=image"


def _intervention(entry: Mapping[str, Any]) -> Intervention:
    for key in entry:
        if key not in FIELDS:
            raise unknown_name("steering key", key, FIELDS)
    if entry.get("vector") in (None, ""):
        given = ", ".join(f"{key}={shorten(value)}" for key, value in entry.items())
        raise UserError(f"{given or 'a spec'} names no vector: add vector=NAME, as in {_SHOWN}")
    return Intervention(**entry)


def _in_file(entry: Mapping[str, Any], path: str | Path, number: int) -> Intervention:
    try:
        return _intervention(entry)
    except UserError as error:
        raise UserError(f"{str(path)!r}, intervention {number}: {error}") from error
