"""An interrupted extraction is resumed; one that ended is made again."""

from collections.abc import Generator
from pathlib import Path

import pytest

from lmms_steer.extraction.command import extract_to_store
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.vectors.steering_vectors import SteeringVectors

NAMES = [
    f"tiny-gemma2/{concept}/{method}" for concept in ("counting", "spatial") for method in ("mean_shift", "random")
]


def extracted(store: Path, lines: int | None = None, seed: int = 0) -> list[str]:
    """Extract two concepts with two methods; with `lines`, the command is interrupted after so many of them."""
    settings, printed = ExtractionSettings(seed=seed), []
    command = extract_to_store(
        "tiny-gemma2", ["counting", "spatial"], ["mean_shift", "random"], store, settings=settings
    )
    assert isinstance(command, Generator)
    for line in command:
        printed.append(line)
        if len(printed) == lines:
            break
    command.close()
    return printed


def stamps(store: Path) -> dict[str, int]:
    return {str(path.relative_to(store).with_suffix("")): path.stat().st_mtime_ns for path in store.glob("*/*/*.safe*")}


@pytest.mark.slow
def test_vectors_stored_before_an_interruption_are_kept(tmp_path: Path) -> None:
    extracted(tmp_path / "whole")
    store = tmp_path / "store"
    assert [line.split(":")[0] for line in extracted(store, lines=3)] == NAMES[:3]
    before = stamps(store)
    lines = extracted(store)
    assert [line.split(" -> ")[0] for line in lines[:3]] == [
        f"{name}: resumed, stored before the interruption" for name in NAMES[:3]
    ]
    assert lines[3].startswith(f"{NAMES[3]}: 24 anchors") and len(lines) == 4
    assert before.items() <= stamps(store).items()
    for name in NAMES:
        file = f"{name}.safetensors"
        assert (store / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    # it ended: the next one is a new one
    assert not list(store.glob(".extracting*")) and not any("resumed" in line for line in extracted(store))


@pytest.mark.slow
def test_only_the_same_extraction_is_resumed_and_a_damaged_vector_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extracted(tmp_path, lines=3)
    assert not any("resumed" in line for line in extracted(tmp_path, lines=1, seed=1)), "another seed"
    first = tmp_path / f"{NAMES[0]}.safetensors"
    first.write_bytes(first.read_bytes()[:-100])
    second = SteeringVectors.load(tmp_path / f"{NAMES[1]}.safetensors")
    doubled = {layer: 2 * second[layer] for layer in second}
    SteeringVectors(doubled, second.provenance).save(tmp_path / f"{NAMES[1]}.safetensors")
    lines = extracted(tmp_path)
    assert [line.split(":")[0] for line in lines if "resumed" in line] == [NAMES[2]]
    assert any("is damaged (" in text and "mean_shift.safetensors.damaged" in text for text in caplog.messages)
    assert SteeringVectors.load(first).name == NAMES[0]
