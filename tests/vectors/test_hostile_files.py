"""Vector files that are made to do harm: one line each, the other files are still served, nothing blocks or grows."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmms_steer import SteeringSpec, SteeringVectors, UserError
from lmms_steer.cli import app
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.vectors import formats, store
from lmms_steer.vectors.file_checks import MAX_HEADER
from lmms_steer.vectors.steering_vectors import read_provenance
from tests.helpers.models import vectors

TINY = ModelFacts("tiny-paligemma2", 5, 96)
KNOWN = {"model": "b", "model_id": "b", "concept": "c", "method": "imported"}
GOOD = vectors(5, 96, model="tiny-gemma2").to_bytes()
LENGTH = struct.unpack("<Q", GOOD[:8])[0]
HEADER: dict[str, Any] = json.loads(GOOD[8 : 8 + LENGTH])
DATA = GOOD[8 + LENGTH :]


def safetensors(header: dict[str, Any] | bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + DATA


def with_metadata(**more: Any) -> bytes:
    metadata = json.loads(HEADER["__metadata__"]["lmms_steer"]) | more
    return safetensors({**HEADER, "__metadata__": {"lmms_steer": json.dumps(metadata)}})


def with_layer(**more: Any) -> bytes:
    return safetensors({**HEADER, "layer.0": HEADER["layer.0"] | more})


def renamed(old: str, new: str) -> bytes:
    return safetensors({new if key == old else key: value for key, value in HEADER.items()})


FILES: dict[str, tuple[bytes, str]] = {
    "nested metadata": (
        safetensors({**HEADER, "__metadata__": {"lmms_steer": "[" * 100_000 + "]" * 100_000}}),
        "metadata cannot be read: nested too deeply",
    ),
    "nested settings": (
        safetensors({**HEADER, "__metadata__": {"lmms_steer": '{"a": ' + "[" * 900 + "]" * 900 + "}"}}),
        "metadata cannot be read: nested too deeply",
    ),
    "nested header": (safetensors(b'{"__metadata__": ' + b"[" * 100_000), "cut off or no safetensors"),
    "header beyond the file": (safetensors(HEADER, 1 << 20), "cut off or no safetensors"),
    "header of 2^63 bytes": (safetensors(HEADER, 1 << 63), "cut off or no safetensors"),
    "large header": (safetensors({**HEADER, "pad": "x" * MAX_HEADER}), "of them in the header"),
    "overlapping offsets": (with_layer(data_offsets=HEADER["layer.1"]["data_offsets"]), "cut off or no safetensors"),
    "offsets beyond the file": (with_layer(data_offsets=[0, 1 << 40], shape=[1 << 38]), "cut off or no safetensors"),
    "shape that overflows": (with_layer(shape=[2**32, 2**32, 96]), "cut off or no safetensors"),
    "negative shape": (with_layer(shape=[-96]), "cut off or no safetensors"),
    "unknown dtype": (with_layer(dtype="Q4"), "cut off or no safetensors"),
    "whole numbers": (with_layer(dtype="I32"), "layer.0 has the dtype I32, not one of F16, F32, F64"),
    "complex numbers": (with_layer(dtype="C64", shape=[48]), "layer.0 has the dtype C64"),
    "8-bit floats": (with_layer(dtype="F8_E4M3", shape=[384]), "layer.0 has the dtype F8_E4M3"),
    "two widths": (with_layer(shape=[2, 48]), "not all one width"),
    "two names for a layer": (renamed("layer.0", "layer.01"), "tensor 'layer.01' is not named layer.0"),
    "foreign name": (renamed("layer.0", "layer.٣"), "is not named layer.0"),
    "a name twice": (
        safetensors(
            json.dumps(HEADER)[:-1].encode() + b', "layer.0": ' + json.dumps(HEADER["layer.0"]).encode() + b"}"
        ),
        "header has 'layer.0' twice",
    ),
    "no tensor": (safetensors({"__metadata__": HEADER["__metadata__"]})[: -len(DATA)], "it has 0 tensors"),
    "wrong width": (with_metadata(hidden_size=95), "says hidden_size 95, but its directions have 96"),
    "width of a wrong type": (with_metadata(hidden_size="96"), "hidden_size is '96', not a number"),
    "settings of a wrong type": (with_metadata(settings=[1]), r"settings is \[1\], not an object"),
    "name of a wrong type": (with_metadata(concept=["\x1b[31m"]), "concept is .*, not a text"),
    "lone surrogate": (with_metadata(concept="\ud800"), "metadata cannot be read"),
    "number of 5000 digits": (
        safetensors({**HEADER, "__metadata__": {"lmms_steer": '{"n_layers": ' + "9" * 5000 + "}"}}),
        "a number of 5000 digits",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_in_one_line_with_its_name(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    readers: list[Callable[[Path], Any]] = [SteeringVectors.load, read_provenance]
    for read in readers:
        with pytest.raises(UserError, match=expected) as caught:
            read(path)
        assert str(path) in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_store_with_all_of_them_lists_and_serves_the_others(own_cache: Path) -> None:
    root = store.user_store() / "tiny-gemma2"
    for number, (data, _) in enumerate(FILES.values()):
        (root / f"hostile{number}").mkdir(parents=True)
        (root / f"hostile{number}" / "pca.safetensors").write_bytes(data)
    (root / "folder" / "pca.safetensors").mkdir(parents=True)
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "pca.safetensors")
    (root / "device").mkdir()
    (root / "device" / "pca.safetensors").symlink_to("/dev/zero")
    (root / "gone").mkdir()
    (root / "gone" / "pca.safetensors").symlink_to("/nowhere")
    path = store.save(SteeringVectors.load(write(own_cache / "good.safetensors", GOOD)))
    listed = CliRunner().invoke(app, ["vectors", "list", "tiny-gemma2"])
    assert listed.exit_code == 0 and listed.output.count("damaged: ") == len(FILES) + 4
    assert "\x1b" not in listed.output
    assert store.find("tiny-gemma2/spatial", None).path == path
    for concept, expected in {"folder": "a folder, a pipe", "pipe": "a pipe", "gone": "no such file"}.items():
        with pytest.raises(UserError, match=f"cannot read the vector .*{expected}"):
            SteeringVectors.load(store.find(f"tiny-gemma2/{concept}/pca", None).path)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_escapes_in_metadata_do_not_reach_the_terminal(own_cache: Path) -> None:
    write(store.user_store() / "m/c/x.safetensors", with_metadata(settings={"anchors": "\x1b]0;owned\x07\x1b[2J"}))
    for command in (["vectors", "list", "m"], ["vectors", "show", "m/c/x", "--no-words"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0 and "\x1b" not in done.output and "owned" in done.output


def test_a_direction_of_norm_0_is_refused_where_it_would_be_attached(tmp_path: Path) -> None:
    directions: dict[int, Any] = {layer: np.full(96, layer != 3).astype(np.float32) for layer in range(5)}
    path = SteeringVectors(directions, {"model": "tiny-gemma2"}).save(tmp_path / "v.safetensors")

    def resolved(layer: int, **more: str) -> Any:
        rest = "".join(f",{key}={value}" for key, value in more.items())
        return resolve(SteeringSpec.parse(f"vector={path},layer={layer},alpha=1,tokens=both{rest}"), TINY)

    assert resolved(2).vectors
    for more in ({}, {"scale": "unit"}, {"control": "random:1"}):
        with pytest.raises(UserError, match="vector .* has norm 0 at layer 3: it would steer nothing"):
            resolved(3, **more)


def test_values_and_layers_that_no_vector_has_are_refused() -> None:
    with pytest.raises(UserError, match="needs one direction per layer"):
        SteeringVectors({0: np.ones(0, np.float32)}, {})
    with pytest.raises(UserError, match="not finite at layer 0"):
        SteeringVectors({0: np.array([1.0, np.inf], np.float32)}, {})


def test_a_name_that_no_file_can_have_is_one_line(own_cache: Path) -> None:
    long = vectors(model="m" * 300)
    with pytest.raises(UserError, match="cannot be the name of a vector: 'm*…' has more than 200 bytes") as caught:
        store.save(long)
    assert len(str(caught.value)) < 400
    assert store.save(vectors(model="m" * 200)).is_file(), "its temporary file has a longer name"
    for name in ("x" * 300 + ".safetensors", "./" + "x" * 300, "x" * 5000, "~nobody-of-this-name/x", "a\0b", "./a\0b"):
        with pytest.raises(UserError):
            store.find(name, "tiny-gemma2")
    with pytest.raises(UserError, match="no home folder"):
        store.find("~nobody-of-this-name/x", None)


def imported(path: Path, value: Any, layer: int | None = None) -> SteeringVectors:
    torch.save(value, path)
    return formats.import_vector(path, layer, KNOWN)


ONES = torch.ones(8)
ENTRY = {"steering_vector": ONES, "steering_coefficient": 2.0, "action": "add", "bias": None, "head_index": None}


def test_a_saved_parameter_is_its_tensor(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(8.0))
    assert imported(tmp_path / "v.pt", parameter, 3)[3].tolist() == list(range(8))
    assert imported(tmp_path / "v.pt", {"layers.2": parameter})[2].tolist() == list(range(8))
    assert imported(tmp_path / "v.pt", {2: parameter.bfloat16()})[2].tolist() == list(range(8))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.ones(8, device="meta"), "has no data"),
        ({1: torch.ones(8, device="meta")}, "1 has no data"),
        (torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8), "is quantised"),
        (torch.eye(8).to_sparse(), "is sparse"),
        (torch.ones(8, dtype=torch.int64), "has the dtype torch.int64"),
        (torch.ones(8, dtype=torch.complex64), "has the dtype torch.complex64"),
        (torch.ones(1).expand(2**40), "has the shape"),
        (torch.ones(0), "has no numbers"),
        ({1: torch.full((8,), torch.nan)}, "not finite"),
        ({"layers.1": ONES, "model.layers.01": ONES}, "two directions for layer 1, the second is 'model.layers.01'"),
        ({1: ONES, "1": ONES}, "two directions for layer 1"),
        ({"layers.1": ENTRY, "layers.2": {"action": "add"}}, "'layers.2' has no steering_vector"),
        ({"layers.1": {**ENTRY, "steering_vector": [1.0]}}, "steering_vector is a list, not a tensor"),
        ({"layers.1": {**ENTRY, "steering_coefficient": "2"}}, "steering_coefficient is a str, not a number"),
        ({"layers.1": {**ENTRY, "steering_coefficient": 10**400}}, "steering_coefficient is too large"),
        ({"layers.1": {"a": {"b": ONES}}}, "not a plain addition"),
        ({(1, 2): ONES}, "a key is a tuple"),
        ({"blocks.1.2": ONES}, "two numbers"),
        ({"layers.3.mlp": ENTRY}, "'layers.3.mlp' is a module inside of a layer"),
        ({"model.layers.3.self_attn.o_proj": ONES}, "is a module inside of a layer"),
        ({"vision_tower.layers.3": ONES}, "is a layer of an encoder, not of the language model"),
        ({"layers.99999": ONES}, "layer 99999: expected at most "),
        ([ONES], "contains a list"),
        ({}, "contains a dict"),
    ],
)
def test_what_is_no_direction_is_named(tmp_path: Path, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        imported(tmp_path / "v.pt", value)
    assert str(tmp_path / "v.pt") in str(caught.value) or "not finite" in expected


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    import zipfile

    with (
        zipfile.ZipFile(tmp_path / "v.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("v/data/0", "w") as file,
    ):
        for _ in range(1100):
            file.write(bytes(1 << 20))
    assert (tmp_path / "v.pt").stat().st_size < 2 << 20
    with pytest.raises(UserError, match="bytes: too many for steering vectors"):
        formats.import_vector(tmp_path / "v.pt", None, KNOWN)


def test_layers_that_the_file_names_cannot_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names its layers itself: leave --layer out"):
        imported(tmp_path / "v.pt", {1: ONES}, 2)


def gguf_header(
    tensors: int = 0, entries: int = 0, rest: bytes = b"", magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, entries) + rest


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def control_vector(path: Path, *tensors: tuple[str, Any], **more: Any) -> Path:
    writer = gguf.GGUFWriter(path, "controlvector")
    for name, tensor in tensors:
        writer.add_tensor(name, tensor, **more)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ARRAY = gguf_text("a") + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "ends inside its header"),
        (gguf_header(magic=b"GGML"), "does not begin with GGUF"),
        (gguf_header(version=1), "has version 1"),
        (gguf_header(version=3 << 24), "little-endian"),
        (gguf_header(tensors=2**60), f"claims {2**60} tensors"),
        (gguf_header(entries=2**60), f"claims {2**60} entries"),
        (gguf_header(entries=1, rest=struct.pack("<Q", 2**62)), f"claims a text of {2**62} bytes"),
        (gguf_header(entries=1, rest=ARRAY + struct.pack("<IQ", 0, 2**60)), f"claims {2**60} elements"),
        (gguf_header(entries=1, rest=ARRAY + struct.pack("<IQ", 9, 1) * 100), "nested more than 4 deep"),
        (gguf_header(entries=1, rest=gguf_text("a") + struct.pack("<I", 99)), "unknown type 99"),
        (gguf_header(tensors=1, rest=gguf_text("direction.1") + struct.pack("<I", 2**31)), "dimensions"),
        (
            gguf_header(tensors=1, rest=gguf_text("direction.1") + struct.pack("<IQIQ", 1, 2**62, 0, 0)),
            "ends after the end of the file",
        ),
        (
            gguf_header(tensors=1, rest=gguf_text("direction.1") + struct.pack("<IQIQ", 1, 8, 0, 2**63)),
            "ends after the end of the file",
        ),
        (
            gguf_header(entries=1, rest=gguf_text("general.alignment") + struct.pack("<II", 4, 0)),
            "alignment is 0",
        ),
        (gguf_header(entries=2, rest=(gguf_text("a") + struct.pack("<IB", 0, 0)) * 2), "has the entry 'a' twice"),
    ],
)
def test_a_gguf_file_whose_numbers_lie_is_one_line(tmp_path: Path, data: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        formats.import_vector(write(tmp_path / "v.gguf", data), None, KNOWN)
    assert str(caught.value).isprintable() and "v.gguf" in str(caught.value)


def test_a_gguf_file_with_other_tensors_is_refused(tmp_path: Path) -> None:
    ones = np.ones(32, np.float32)
    for tensors, more, expected in (
        ([("direction.1", ones), ("direction.01", ones)], {}, "two directions for layer 1"),
        ([("direction.1", ones), ("output.weight", ones)], {}, "'output.weight' is not the direction"),
        ([("direction.1", np.ones((2, 32), np.float32))], {}, "has the shape"),
        ([("direction.1", np.ones(34, np.uint8))], {"raw_dtype": gguf.GGMLQuantizationType.Q8_0}, "is quantised"),
        ([], {}, "0 tensors, not a control vector"),
    ):
        with pytest.raises(UserError, match=expected):
            formats.import_vector(control_vector(tmp_path / "v.gguf", *tensors, **more), None, KNOWN)
    half = control_vector(tmp_path / "v.gguf", ("direction.3", np.arange(32, dtype=np.float16)))
    assert formats.import_vector(half, None, KNOWN)[3].tolist() == list(range(32))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for suffix in ("gguf", "pt", "safetensors"):
        os.mkfifo(tmp_path / f"v.{suffix}")
    for suffix in ("gguf", "pt"):
        with pytest.raises(UserError, match="no such file"):
            formats.import_vector(tmp_path / f"v.{suffix}", None, KNOWN)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "v.safetensors"))):
        SteeringVectors.load(tmp_path / "v.safetensors")
