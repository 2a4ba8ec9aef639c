import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# the tests run in two processes on two cores: more threads than that fight one another
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BUILDERS, build, inputs
from PIL import Image

from lmms_steer.vectors import SteeringVectors


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's store."""
    monkeypatch.setenv("LMMS_STEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_command_line() -> Iterator[None]:
    """lmms-eval's command line, which some tests run in this process, is over when they are."""
    yield
    sys.modules.pop("lmms_eval.__main__", None)


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Any]:
    return {}


@pytest.fixture(params=list(BUILDERS))
def vlm(request: pytest.FixtureRequest, checkpoints: dict[str, Any]) -> Any:
    """(name, model, processor) of each architecture in turn."""
    if request.param not in checkpoints:
        checkpoints[request.param] = build(request.param)
    return (request.param, *checkpoints[request.param])


@pytest.fixture(params=[name for name in BUILDERS if not name.startswith("paligemma")])
def causal_vlm(request: pytest.FixtureRequest, checkpoints: dict[str, Any]) -> Any:
    """As `vlm`, of the architectures whose prompt does not see what comes after it.

    PaliGemma itself gives other tokens without a cache: its bidirectional prompt grows by each one.
    """
    if request.param not in checkpoints:
        checkpoints[request.param] = build(request.param)
    return (request.param, *checkpoints[request.param])


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def batch_of(name: str, processor: Any, *texts: str) -> dict[str, Any]:
    return inputs(name, processor, list(texts), [picture(i) for i in range(len(texts))])


def vectors(layers: int = 4, width: int = 48, seed: int = 0, scale: float = 1.0, **provenance: Any) -> SteeringVectors:
    """Random directions with the provenance that an extraction would have given them."""
    drawn = np.random.default_rng(seed).standard_normal((layers, width)) * scale
    made = {
        "model": "some-backbone",
        "concept": "spatial",
        "method": "mean_shift",
        "n_layers": layers,
        "hidden_size": width,
    }
    return SteeringVectors(dict(enumerate(drawn)), {**made, "settings": {}, "sentences_sha256": "0", **provenance})


def record(model: Any, fn: Any) -> list[torch.Tensor]:
    """Every decoder layer's output in one call of `fn`, by hooks of the test's own."""
    seen: list[torch.Tensor] = []
    layers = model.get_decoder().layers
    handles = [
        layer.register_forward_hook(lambda m, a, o: seen.append((o[0] if isinstance(o, tuple) else o).clone()))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            fn()
    finally:
        for handle in handles:
            handle.remove()
    return seen
