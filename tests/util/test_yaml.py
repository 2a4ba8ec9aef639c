"""Strict YAML: duplicate keys, lines in messages, types, and documents that are too large."""

import os
from pathlib import Path

import pytest
import yaml

from lmms_steer._util.yaml import MAX_BYTES, MAX_NODES, nodes_below, parse_yaml, read_yaml
from lmms_steer.errors import UserError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(8)
)

MERGE_BOMB = "a0: &a0 {}\n" + "".join(f"a{i + 1}: &a{i + 1}\n  <<: [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12))
"""No value is ever added, so a count of the result's values would not end it."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml, line 3: 'a' is given twice"),
        ("a:\n  b: 1\n  b: 2", "f.yaml, line 3: 'b' is given twice"),
        ("- {a: 1, a: 2}", "f.yaml, line 1: 'a' is given twice"),
        ("a: 1\n'a': 2", "f.yaml, line 2: 'a' is given twice"),
        ("a: 1\n? [b, c]\n: 2", "f.yaml, line 2: a key must be a single value, not a list or a mapping"),
        ("a: [1\nb: 2", "f.yaml, line 2: not valid YAML"),
        ("a: *b", "f.yaml, line 1: not valid YAML"),
        ("a: 1\n---\nb: 2", "f.yaml, line 2: not valid YAML"),
        ("a: \x00", "f.yaml is not valid YAML"),
        ('a: "\\UFFFFFFFF"', "f.yaml is not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1", "f.yaml is not valid YAML"),
        ("a: 1\nb: " + "[" * 3000, "f.yaml, line 2: nested too deeply, more than 100 levels"),
        ("a: 1\nb: &b [*b]", "f.yaml, line 2: the alias *b is inside the value that it stands for"),
        (BOMB, f"f.yaml, line 5: more than {MAX_NODES} values"),
        (MERGE_BOMB, f"f.yaml, line 11: more than {MAX_NODES} values"),
        (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]", f"f.yaml, line 2: more than {MAX_NODES} values"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f.yaml")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_values_are_read_as_text_or_with_their_types() -> None:
    node = parse_yaml("alphas: 10:50:10\nlimit: 5\non: true\nempty:\nlist: [a, 1.5]", "f.yaml")
    assert node.untyped() == {"alphas": "10:50:10", "limit": "5", "on": "true", "empty": None, "list": ["a", "1.5"]}
    # YAML 1.1: a number to base 60, and a key that is a boolean
    assert node.typed() == {"alphas": 39010, "limit": 5, True: True, "empty": None, "list": ["a", 1.5]}
    assert parse_yaml("", "f.yaml").typed() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object/apply:os.abort []", "f.yaml, line 1: the tag .* is not supported"),
        ("a: !!python/object:os.X {b: 1}", "f.yaml, line 1: the tag .* is not supported"),
        ("a: !!python/tuple [1, 2]", "f.yaml, line 1: the tag .* is not supported"),
        ("a: !!set {b}", "f.yaml, line 1: the tag .* is not supported"),
        ("a: !!python/name:os.abort ''", "f.yaml, line 1: could not determine a constructor for the tag"),
    ],
)
def test_no_tag_runs_code(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_yaml(text, "f.yaml").typed()


def test_aliases_are_expanded_within_the_limit() -> None:
    text = "a: &a [1, 2]\nb: [*a, *a]"
    assert parse_yaml(text, "f.yaml").typed() == yaml.safe_load(text)


def test_equal_keys_of_different_spelling_are_refused() -> None:
    with pytest.raises(UserError, match="f.yaml, line 1: two of the keys are equal"):
        parse_yaml("{1: a, 0x1: b}", "f.yaml").typed()


def test_merge_keys_are_taken_over_and_explicit_keys_win() -> None:
    text = "- &a {x: 1, y: 2}\n- &b {y: 3, z: 4}\n- {<<: *a, y: 5}\n- <<: [*a, *b]\n"
    assert (
        parse_yaml(text, "f.yaml").typed()[2:]
        == yaml.safe_load(text)[2:]
        == [{"x": 1, "y": 5}, {"x": 1, "y": 2, "z": 4}]
    )
    with pytest.raises(UserError, match="f.yaml, line 1: << takes a mapping, or a list of mappings"):
        parse_yaml("<<: 3", "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int b",
        "a: !!float b",
        "a: 2020-13-45",
        "a: !mine b",
        "a: !!bool maybe",
        "a: !!int ''",
        "a: !!timestamp foo",
        "a: 2001-01-01 00:00:00 +99:59",
        "a: 0x" + "f" * 5000,
        "a: " + ":".join(["59"] * 5000),
    ],
)
def test_a_value_that_does_not_fit_its_tag_is_named_with_its_line(text: str) -> None:
    with pytest.raises(UserError, match=r"f.yaml, line 2: "):
        parse_yaml(f"\n{text}", "f.yaml").typed()


def test_every_node_knows_its_line() -> None:
    node = parse_yaml("a:\n  - x\n  - b: 1\n    c: 2\n", "f.yaml")
    assert node.at(("a", 1, "c")).where == "f.yaml, line 4"
    assert node.at(("a", 1, "none")).where == node.at(("a", 1)).where == "f.yaml, line 3", "the nearest above"
    assert node.at(("a", 7)).where == "f.yaml, line 1" and node.at(()) is node
    assert [below.value for below in nodes_below(node) if isinstance(below.value, str)] == ["x", "1", "2"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the steering file '.*none.yaml': No such file"):
        read_yaml(tmp_path / "none.yaml", "the steering file")
    (tmp_path / "latin.yaml").write_bytes("a: \xe4".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read '.*latin.yaml': 'utf-8' codec"):
        read_yaml(tmp_path / "latin.yaml")
    # as Windows editors write it
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "mark.yaml").typed() == {"a": 1}


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    for name, expected in {
        "pipe.yaml": "a pipe or a device",
        "zero.yaml": "a pipe or a device",
        "large.yaml": "larger than 2 MiB",
        ".": "Is a directory",
        "x" * 300: "File name too long",
        "a\0b": "null",
    }.items():
        with pytest.raises(UserError, match=f"cannot read .*{expected}"):
            read_yaml(tmp_path / name)
