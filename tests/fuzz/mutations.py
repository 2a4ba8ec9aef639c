"""Hypothesis strategies that damage valid files: bytes, texts, and trees of JSON."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lmms_steer._util.yaml import parse_yaml

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = [0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**60, 2**62, 2**63, 2**64 - 1]
SNIPPETS = [
    *(
        "&a ",
        "*a",
        "<<: ",
        "<<: *a\n",
        "!!python/object/apply:os.abort []",
        "!!binary ",
        "!!set ",
        "!!int ",
        "!!float ",
    ),
    *("? ", "- - - ", "{", "}", "[", "]", '"', "'", "\\", "%YAML 9.9\n---\n", "---\n", "...", ": ", ",", ";", "=", "|"),
    *("0x" + "f" * 5000, ":".join(["59"] * 400), "9" * 5000, "1e999", "-", ".nan", ".inf", "NaN", "Infinity", "~"),
    *(
        "2001-13-45",
        "2001-01-01 00:00:00 +99:59",
        "\t",
        "\n",
        "\r",
        "\0",
        "\x1b[31m",
        "\u2028",
        "\ufeff",
        "é",
        "[" * 400,
    ),
    *(
        "{a: " * 400,
        "../" * 5,
        "/dev/zero",
        "~nobody/x",
        "x" * 300,
        "null",
        "true",
        "on",
        "1_000",
        "*",
        "0-99999999999",
    ),
    *("0:1e300:1e-300", "0.1:1:0", "image,text", "random:-1", "control=", "layer=", "alpha=", "vector=", "tokens="),
]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 0.5, 2**31, 2**63, 2**64, 10**250, 10**400, 1e308, float("nan"), float("inf")),
    *(
        "",
        "0",
        "x",
        "x" * 5000,
        "\x1b[31mred",
        "a\nb",
        "\ud800",
        "\0",
        "../../x",
        "layer.1",
        "1e400",
        "<b>",
        "A",
        "a|b",
    ),
    *([], {}, [[]], [{}], {"": ""}, {"a": {"b": 1}}, [1, "a", None], [0] * 500, {"name": 1, "sha256": []}),
]


def nested(depth: int) -> list[Any]:
    """A list inside a list inside a list …"""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


@st.composite
def damaged_bytes(draw: Draw, seeds: Sequence[bytes]) -> bytes:
    """A file with some of its bytes overwritten, removed, repeated, or taken from another file."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 2, 5]))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 16, 64]))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            form = draw(st.sampled_from(["<Q", "<I", ">Q", "<H"]))
            number = draw(st.sampled_from(NUMBERS)) % 256 ** struct.calcsize(form)
            data[place : place + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length] * draw(st.sampled_from([1, 2, 50]))
        elif kind == 4:
            del data[place:]
        elif kind == 5:
            data[place:place] = draw(st.binary(max_size=16))
        else:
            data[place:] = draw(st.sampled_from(seeds))[place:]
    return bytes(data)


@st.composite
def damaged_text(draw: Draw, seeds: Sequence[str]) -> str:
    """A text with some of its parts removed, repeated or replaced, and with hostile pieces put in."""
    text: str = draw(st.sampled_from(seeds))
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        place = draw(st.integers(0, len(text)))
        end = place + draw(st.sampled_from([0, 0, 1, 3, 10, 100]))
        part = draw(
            st.sampled_from(SNIPPETS)
            | st.text(max_size=5)
            | st.just(text[place:end] * 2)
            | st.just(text[end : end + 20])
        )
        text = text[:place] + part + text[end:]
    return text


@st.composite
def damaged_tree(draw: Draw, seeds: Sequence[Any]) -> Any:
    """A tree of JSON with some of its nodes replaced, removed, renamed or doubled."""
    tree = deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 3]))):
        places = list(_places(tree))
        if not places:
            return draw(st.sampled_from(VALUES))
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.integers(0, 5))
        if kind <= 2:
            parent[key] = deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == 3:
            parent[key] = draw(st.sampled_from([nested(90), nested(300), nested(5000)]))
        elif kind == 4:
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "x" * 300, "layer.01", "\x1b[1m", "__class__", "1", "é"]))] = parent[key]
        else:
            parent.append(parent[key])
    return tree


def _places(tree: Any) -> Any:
    """Every parent with the key of a child, not deeper than the seeds are."""
    todo = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in list(keys)[:60]:
            yield node, key
            if depth < 8:
                todo.append((node[key], depth + 1))


def damaged_yaml(texts: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Damaged YAML: as bytes, as text, and as a tree, which is written as JSON and so is YAML."""
    trees = [parse_yaml(text, "seed").typed() for text in texts]
    as_text = damaged_text(texts).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return damaged_bytes([text.encode() for text in texts]) | as_text | damaged_tree(trees).map(to_json)


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


def to_json(tree: Any) -> bytes:
    """JSON text, also of what Python's own writer refuses: deep trees and long numbers."""
    parts: list[str] = []
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, _Raw):
            parts.append(node.text)
        elif isinstance(node, dict):
            pieces = [_Raw("{")]
            for i, (key, value) in enumerate(node.items()):
                pieces += [_Raw((", " if i else "") + json.dumps(str(key)) + ": "), value]
            todo += reversed([*pieces, _Raw("}")])
        elif isinstance(node, list):
            pieces = [_Raw("[")]
            for i, value in enumerate(node):
                pieces += [_Raw(", " if i else ""), value]
            todo += reversed([*pieces, _Raw("]")])
        else:
            parts.append(str(node) if isinstance(node, int) and not isinstance(node, bool) else json.dumps(node))
    return "".join(parts).encode("utf-8", "surrogatepass")


class _Raw:
    def __init__(self, text: str) -> None:
        self.text = text


def safetensors_of(header: Any, data: bytes) -> bytes:
    """A safetensors file with this header, whatever it says."""
    text = to_json(header)
    return struct.pack("<Q", len(text)) + text + data


def zip_with(archive: bytes, name: str, content: bytes) -> bytes:
    """A zip archive with another content of one of its files, and so with correct checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, content if entry.filename.endswith(name) else old.read(entry))
    return out.getvalue()


def zip_content(archive: bytes, name: str) -> bytes:
    """One file of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        content: bytes = file.read(next(entry for entry in file.namelist() if entry.endswith(name)))
        return content
