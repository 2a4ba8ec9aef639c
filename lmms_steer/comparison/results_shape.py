"""Check that a results file has the types that a comparison relies on; it may come from anyone."""

from collections.abc import Mapping
from typing import Any

from lmms_steer.errors import shorten

_NONE = type(None)
_STEERING: dict[str, Any] = {
    "spec": (str, _NONE),
    "sha256": (str, _NONE),
    "provenance": (dict, _NONE),
    "vectors": [{"name": str, "sha256": str}],
    "divergence": {"*": {"nats": (int, float), "questions": int}},
}
_SHAPE: dict[str, Any] = {
    "results": {"*": dict},
    "config": {"resolved_cli_args": (dict, _NONE), "steering": _STEERING},
    "configs": {"*": {"metric_list": (list, _NONE), "tag": (str, list, _NONE)}},
    "higher_is_better": {"*": (dict, _NONE)},
    "n-samples": {"*": {"effective": int}},
    "n-shot": dict,
    "versions": dict,
    "group_subtasks": {"*": list},
    "steering": _STEERING,
}
"""Key ▸ what its value must be: types; for an object its keys, of which `*` is every key; for a list its elements."""
_REQUIRED = {"name", "sha256"}
"""Keys that an element of a list must have."""


def checked_results(content: object) -> dict[str, Any]:
    """The content of a results file without the entries of a known shape that are null.

    Raises:
        ValueError: for content that is no results file, or an entry of another type.
    """
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise ValueError("it holds no results")
    content = {key: value for key, value in content.items() if value is not None or key not in _SHAPE}
    _check(content, _SHAPE, "")
    for group, members in content.get("group_subtasks", {}).items():
        if not all(isinstance(member, str) for member in members):
            raise ValueError(f"group_subtasks.{shorten(group)} is not a list of names")
    for task, config in content.get("configs", {}).items():
        if isinstance(config.get("tag"), list) and not all(isinstance(tag, str) for tag in config["tag"]):
            raise ValueError(f"configs.{shorten(task)}.tag is not a list of names")
    for task, metrics in content.get("higher_is_better", {}).items():
        if not all(isinstance(value, bool | _NONE) for value in (metrics or {}).values()):
            raise ValueError(f"higher_is_better.{shorten(task)} is not of true and false")
    return content


def _check(value: object, shape: Any, place: str) -> None:
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise _wrong(value, place, "an object")
        for key, child in value.items():
            if key in shape or "*" in shape:
                _check(child, shape.get(key, shape.get("*")), f"{place}.{key}" if place else str(key))
    elif isinstance(shape, list):
        if value is None:
            return
        if not isinstance(value, list):
            raise _wrong(value, place, "a list")
        for entry in value:
            _check(entry, shape[0], place)
            if not entry.keys() >= _REQUIRED:
                raise ValueError(f"{shorten(place)} has an entry without {' and '.join(sorted(_REQUIRED))}")
    elif not isinstance(value, shape):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        raise _wrong(value, place, " or ".join(_WORDS[kind] for kind in kinds if kind is not _NONE))


_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number", float: "a number"}


def _wrong(value: object, place: str, expected: str) -> ValueError:
    return ValueError(f"{shorten(place)} is {shorten(repr(value))}, not {expected}")
