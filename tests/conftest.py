"""Fixtures that every test may use."""

import logging
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# the tests run in two processes on two cores: more threads than that fight one another
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmms_steer._util.logging import LOGGER
from tests.helpers.checkpoints import BUILDERS, build


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's store."""
    monkeypatch.setenv("LMMS_STEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """What a command line set up for notes and warnings is gone after the test."""
    yield
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


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
