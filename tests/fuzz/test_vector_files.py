"""Vector files, GGUF and .pt files, damaged: a value or one clear line."""

import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lmms_steer import SteeringSpec, SteeringVectors
from lmms_steer.inspection.listing import listing_lines
from lmms_steer.inspection.vectors import describe_vector, description_lines
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.vectors import formats, store
from lmms_steer.vectors.steering_vectors import read_provenance
from tests.fuzz.mutations import (
    damaged_bytes,
    damaged_tree,
    safetensors_of,
    to_json,
    write,
    zip_content,
    zip_with,
)
from tests.fuzz.running import check
from tests.helpers.models import vectors

TINY = ModelFacts("tiny-paligemma2", 5, 96)
KNOWN = {"model": "b", "model_id": "b", "concept": "c", "method": "imported"}


def split_safetensors(data: bytes) -> tuple[Any, bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def use_vector(path: Path) -> None:
    loaded = SteeringVectors.load(path)
    assert read_provenance(path)["layers"] == list(loaded.layers) and len(loaded.sha256) == 64
    list(description_lines(describe_vector(path, with_words=False)))
    resolve(SteeringSpec.parse(f'vector="{path}",layer=1,alpha=1,tokens=both'), TINY).record()


VECTOR = vectors(3, 96, model="tiny-gemma2", concept="spatial", method="pca", settings={"anchors": 3}).to_bytes()
HEADER, DATA = split_safetensors(VECTOR)
METADATA = json.loads(HEADER["__metadata__"]["lmms_steer"])


@given(
    damaged_bytes([VECTOR, VECTOR[:400], DATA])
    | damaged_tree([HEADER]).map(lambda header: safetensors_of(header, DATA))
    | damaged_tree([METADATA]).map(
        lambda data: safetensors_of(
            HEADER | {"__metadata__": {"lmms_steer": to_json(data).decode("utf-8", "surrogatepass")}}, DATA
        )
    )
)
def test_vector_files(seeds: Path, data: bytes) -> None:
    path = write(seeds / "v.safetensors", data)
    check("vector file", lambda: use_vector(path))


@given(damaged_bytes([VECTOR]))
def test_a_store_lists_its_other_vectors(own_cache: Path, data: bytes) -> None:
    write(store.user_store() / "tiny-gemma2/counting/mine.safetensors", data)
    write(store.user_store() / "tiny-gemma2/counting/good.safetensors", VECTOR)
    lines: list[str] = []
    check("listing of a store", lambda: lines.extend(listing_lines("tiny-gemma2/counting", False)))
    assert any("counting/good " in line and "3 layers x 96" in line for line in lines)


def _gguf_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "v.gguf"
        list(formats.export_vector(vectors(3, 8), "gguf", out, None, 1.0))
        return [out.read_bytes(), out.read_bytes()[:150]]


@given(damaged_bytes(_gguf_seeds()))
def test_gguf_files(seeds: Path, data: bytes) -> None:
    path = write(seeds / "v.gguf", data)
    check("GGUF", lambda: formats.import_vector(path, None, KNOWN).sha256)


def _pt(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _pt_seeds() -> list[bytes]:
    ones = torch.ones(8)
    entry = {"steering_vector": ones, "steering_coefficient": 2.0, "action": "add", "bias": None, "head_index": None}
    return [_pt({1: ones, 2: ones}), _pt(torch.ones(2, 8)), _pt({"layers.3": entry}), _pt(torch.nn.Parameter(ones))]


PT = _pt_seeds()


@given(
    damaged_bytes(PT)
    | st.sampled_from(PT).flatmap(
        lambda seed: damaged_bytes([zip_content(seed, "data.pkl")]).map(lambda data: zip_with(seed, "data.pkl", data))
    )
)
def test_pt_files(seeds: Path, data: bytes) -> None:
    path = write(seeds / "v.pt", data)
    check(".pt", lambda: formats.import_vector(path, None, KNOWN).sha256)


def _tensors() -> st.SearchStrategy[Any]:
    makers: list[Callable[[], Any]] = [
        lambda: torch.ones(8),
        lambda: torch.ones(1, 8),
        lambda: torch.ones(2, 8),
        lambda: torch.ones(9),
        lambda: torch.ones(()),
        lambda: torch.ones(0),
        lambda: torch.full((8,), torch.nan),
        lambda: torch.ones(8, dtype=torch.int64),
        lambda: torch.ones(8, dtype=torch.bool),
        lambda: torch.ones(8, dtype=torch.complex64),
        lambda: torch.ones(8, dtype=torch.bfloat16),
        lambda: torch.ones(8, dtype=torch.float64) * 1e300,
        lambda: torch.nn.Parameter(torch.ones(8)),
        lambda: torch.ones(8, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8),
        lambda: torch.eye(8).to_sparse(),
        lambda: torch.ones(1).expand(2**40),
        lambda: torch.ones(16)[::2],
    ]
    values = st.sampled_from(makers).map(lambda make: make()) | st.sampled_from([None, 1, "x", [1.0], {}, {"a": 1}])
    keys = st.sampled_from([0, 1, -1, 2**40, True, None, "1", "layers.1", "layers.01", "a.1.b.2", "x", "", (1, 2), 1.5])
    entries = st.fixed_dictionaries(
        {},
        optional={
            "steering_vector": values,
            "steering_coefficient": st.sampled_from([1.0, 0, 10**400, "x", None, float("nan")]),
            "action": st.sampled_from(["add", "clamp", None]),
            "bias": st.none(),
            "head_index": st.none(),
        },
    )
    return values | st.dictionaries(keys, values | entries, max_size=3) | st.lists(values, max_size=2)


@given(_tensors(), st.sampled_from([None, None, 0, 3]))
def test_odd_tensors(seeds: Path, value: Any, layer: int | None) -> None:
    path = write(seeds / "t.pt", _pt(value))
    check(".pt of odd tensors", lambda: formats.import_vector(path, layer, KNOWN).sha256)
