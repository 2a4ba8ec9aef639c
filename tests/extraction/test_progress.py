"""An interrupted extraction is resumed; one that ended is made again."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_steer.extraction.command import extract_to_store
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.extraction.sae_verdicts import Verdict, Verdicts
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors

NAMES = [
    f"tiny-gemma2/{concept}/{method}" for concept in ("counting", "spatial") for method in ("mean_shift", "random")
]


def extracted(
    store: Path, lines: int | None = None, methods: Sequence[str] = ("mean_shift", "random"), **settings: Any
) -> list[str]:
    """Extract two concepts with some methods; with `lines`, the command is interrupted after so many of them."""
    printed: list[str] = []
    command = extract_to_store(
        "tiny-gemma2", ["counting", "spatial"], methods, store, settings=ExtractionSettings(**settings)
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


@pytest.mark.slow
def test_a_vector_of_features_that_were_unchecked_or_are_judged_otherwise_by_now_is_made_again(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def resumed() -> bool:
        return any("resumed" in line for line in extracted(tmp_path, lines=2, methods=["sae"]))

    def judge(change: bool) -> None:
        """Store a verdict on each feature of the vector; with `change`, another one on the strongest."""
        provenance = SteeringVectors.load(tmp_path / "tiny-gemma2/counting/sae.safetensors").provenance
        verdicts = Verdicts("tiny-gemma2", "counting", sentences_sha256=provenance["sentences_sha256"])
        for layer in provenance["settings"]["layers"].values():
            for row in layer["features"]:
                verdicts.add(layer["sae"], row["feature"], Verdict(True, "r", "person"), [])
        if change:
            verdicts.path.write_text(verdicts.path.read_text().replace("  means: true", "  means: false", 1))

    assert "UNCHECKED" in extracted(tmp_path, lines=2, methods=["sae"])[0]
    assert not resumed(), "no feature was checked"
    judge(change=False)
    assert not resumed(), "there are verdicts by now"
    assert resumed()
    judge(change=True)
    assert not resumed(), "a person has edited a verdict"


@pytest.mark.slow
def test_a_vector_without_the_component_of_another_is_made_again_where_that_one_changed(
    tmp_path: Path, own_cache: Path
) -> None:
    other = SteeringVectors(
        {layer: np.eye(96)[layer] for layer in range(5)}, {"model": "tiny-gemma2", "concept": "other", "method": "own"}
    )
    store.save(other)
    extracted(tmp_path, lines=1, orthogonal_to="other/own")
    assert any("resumed" in line for line in extracted(tmp_path, lines=2, orthogonal_to="other/own"))
    store.save(SteeringVectors({layer: np.eye(96)[50 + layer] for layer in range(5)}, other.provenance))
    assert not any("resumed" in line for line in extracted(tmp_path, lines=2, orthogonal_to="other/own"))
