"""JSON of other people: nested too deeply, or with a number beyond all use, it is a `ValueError`."""

import json
from pathlib import Path

import pytest

from lmms_steer._util.json import MAX_DEPTH, parse_json, read_json


def test_valid_json_is_read_as_python_reads_it(tmp_path: Path) -> None:
    text = '{"a": [1, -2.5, 1e3, true, null, "é"], "b": {"c": [' + "{}, " * 200 + "{}]}}"
    (tmp_path / "a.json").write_text(text)
    assert parse_json(text) == parse_json(text.encode()) == read_json(tmp_path / "a.json") == json.loads(text)
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) == json.loads(deep)


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, "[" * 100_000, '{"a": ' * 500 + "1" + "}" * 500, "9" * 301])
def test_a_hostile_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|digits"):
        parse_json(text)
