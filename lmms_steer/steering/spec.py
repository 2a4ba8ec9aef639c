"""Steering specs: a list of interventions that round-trips to one line of text and to YAML.

    vector=spatial,layer=3,alpha=0.5,tokens=image

In the one-line form, several interventions are separated by `; `. A YAML file (`SteeringSpec.from_yaml`) can hold
several as well.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.steering.intervention import FIELDS, Intervention

_EXAMPLE = "vector=spatial,layer=3,alpha=0.5,tokens=image"
_YAML_EXAMPLE = "{vector: spatial, layer: 3, alpha: 0.5, tokens: image}"

_PAIR = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,;"]*)\s*([,;]|$)')


@dataclass(frozen=True, slots=True, repr=False)
class SteeringSpec:
    """One or more interventions. An empty spec is the baseline, the unsteered model.

    Attributes:
        interventions: applied in this order.
        provenance: where the spec comes from (such as a search's study), if its file says so. It has no effect on the
            model.
    """

    interventions: tuple[Intervention, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def __str__(self) -> str:
        return "; ".join(map(str, self.interventions))

    def __repr__(self) -> str:
        return f"SteeringSpec {str(self) or '(empty: the unsteered model)'}"

    @property
    def complete(self) -> bool:
        """Whether layer, alpha and tokens of every intervention are given."""
        return all(i.complete for i in self.interventions)

    @classmethod
    def parse(cls, line: str) -> "SteeringSpec":
        """Read the one-line form; `parse(str(spec)) == spec` for every spec.

        Raises:
            UserError: for a line that is not a list of key=value pairs, an unknown key, or a wrong value.
        """
        groups: list[dict[str, Any]] = [{}]
        position = 0
        while position < len(line.rstrip()):
            match = _PAIR.match(line, position)
            if match is None:
                raise UserError(
                    f"cannot read the spec at {line[position:]!r}: expected key=value pairs, as in {_EXAMPLE}"
                )
            key, value, separator = match.groups()
            if key in groups[-1]:
                raise UserError(f"{key!r} is given twice in {shorten(line)!r}: put '; ' between two interventions")
            groups[-1][key] = _unquote(value) if value.startswith('"') else value.strip()
            if separator == ";":
                groups.append({})
            position = match.end()
        return cls.from_dicts([group for group in groups if group])

    @classmethod
    def from_dicts(cls, entries: list[Mapping[str, Any]]) -> "SteeringSpec":
        """Build a spec from one mapping for each intervention, with the keys `FIELDS`.

        Raises:
            UserError: for an unknown key or a wrong value.
        """
        return cls(tuple(_intervention(entry) for entry in entries))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> "SteeringSpec":
        """Build a spec from model_args: `steering`, a file or a spec; `FIELDS`, one intervention; or the baseline.

        `control` beside `steering` applies to all of its interventions.

        Raises:
            UserError: for any other key beside a file, or a spec that cannot be read.
        """
        given = {key: args[key] for key in FIELDS if key in args}
        steering = args.get("steering")
        if steering is None:
            return cls.from_dicts([given] if given else [])
        control = given.pop("control", None)
        if given:
            raise UserError(f"steering={steering} and {', '.join(given)}: give the file or the single keys, not both")
        # the harness reads a file's name that is a number as one
        steering = str(steering) if isinstance(steering, int | float) else steering
        if not isinstance(steering, cls | str | Path):
            raise UserError(f"steering is a {type(steering).__name__}: expected a SteeringSpec, or a spec's file")
        if isinstance(steering, str) and "=" in steering and not Path(steering).exists():
            raise UserError(f"steering={shorten(steering)} is no file: give its keys as arguments, vector=… and so on")
        spec = cls.from_yaml(steering) if isinstance(steering, str | Path) else steering
        return spec if control is None else spec._with_control(str(control), f"steering={steering},control={control}")

    @classmethod
    def from_yaml(cls, path: str | Path) -> "SteeringSpec":
        """Read a file with `interventions`, a list of mappings with the keys `FIELDS`, and optionally `provenance`.

        Raises:
            UserError: for a file that cannot be read as a spec.
        """
        node = read_yaml(Path(str(path)), "the steering file")
        data = node.typed()
        provenance = data.pop("provenance", {}) if isinstance(data, dict) else {}
        entries = data.get("interventions") if isinstance(data, dict) else None
        if not isinstance(provenance, dict):
            raise UserError(f"{str(path)!r}: expected a mapping under provenance, got {provenance!r}")
        if (
            not isinstance(data, dict)
            or len(data) != 1
            or not isinstance(entries, list)
            or not all(isinstance(e, dict) for e in entries)
        ):
            raise UserError(
                f"{str(path)!r} is not a steering file: expected 'interventions:' with a list such as - {_YAML_EXAMPLE}"
            )
        # of YAML 1.1, 3:7 is a number to the base of 60, and 010 is 8
        for entry, written in zip(entries, node.untyped()["interventions"], strict=True):
            entry |= {key: written[key] for key in ("layer", "layers") if isinstance(written.get(key), str)}
        interventions = (_read_entry(entry, path, number) for number, entry in enumerate(entries, start=1))
        return cls(tuple(interventions), provenance)

    def _with_control(self, control: str, named: str) -> "SteeringSpec":
        if any(one.control is not None for one in self.interventions):
            raise UserError(f"{shorten(named)}: the file has a control already: leave control out")
        # an alpha that was resolved for a KL budget meets that budget with the vector, not with a control
        kept = {key: value for key, value in self.provenance.items() if not key.startswith("budget")}
        return SteeringSpec(tuple(replace(one, control=control) for one in self.interventions), kept)

    def to_yaml(self) -> str:
        """The text of a file that `from_yaml` reads."""
        entries = [{k: v for k, v in asdict(i).items() if v is not None} for i in self.interventions]
        provenance = {"provenance": dict(self.provenance)} if self.provenance else {}
        return yaml.safe_dump({"interventions": entries, **provenance}, sort_keys=False)


def unknown_key(key: str, value: object) -> UserError:
    """The error for a key that no intervention has."""
    if key != "preset":
        return unknown_name("steering key", key, FIELDS)
    method = shorten(value).partition(":")[0]
    return UserError(
        f"preset={shorten(value)}: presets are for --model_args; here write out the keys that `lmms-steer presets"
        f" {method}` prints"
    )


def _unquote(text: str) -> str:
    try:
        # not strict, so that quotes may hold a tab
        return str(json.loads(text, strict=False))
    except ValueError as error:
        raise UserError(f'cannot read {shorten(text)}: in quotes a backslash is written \\\\, a quote \\"') from error


def _intervention(entry: Mapping[str, Any]) -> Intervention:
    for key in entry:
        if key not in FIELDS:
            raise unknown_key(key, entry[key])
    if entry.get("vector") in (None, ""):
        given = ", ".join(f"{key}={shorten(value)}" for key, value in entry.items())
        raise UserError(f"{given or 'a spec'} names no vector: add vector=NAME, as in {_EXAMPLE}")
    return Intervention(**entry)


def _read_entry(entry: Mapping[str, Any], path: str | Path, number: int) -> Intervention:
    try:
        return _intervention(entry)
    except UserError as error:
        raise UserError(f"{str(path)!r}, intervention {number}: {error}") from error
