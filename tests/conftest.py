"""Fixtures for all tests."""

import gc
import logging
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# the tests run in several processes; more threads would slow each other down
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lmms_steer._util.logging import LOGGER
from tests.helpers.checkpoints import BUILDERS, build
from tests.helpers.no_skips import pytest_runtest_makereport  # noqa: F401  a hook

# `HYPOTHESIS_PROFILE=long` looks for new failures; `ci` runs the same few examples every time
_COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
settings.register_profile("ci", _COMMON, derandomize=True, max_examples=25)
settings.register_profile("long", _COMMON, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1000")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish() -> None:
    """Leave what the imports made out of garbage collections: with torch loaded, one takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let what was left out be freed: some extension modules report what they still hold at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests away from the user's store."""
    monkeypatch.setenv("LMMS_STEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """Undo the logging setup of a command line that ran in the test."""
    yield
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


@pytest.fixture(autouse=True)
def no_command_line() -> Iterator[None]:
    """Undo the import of lmms-eval's command line, which some tests run in this process."""
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
    """As `vlm`, without the architectures whose prompt attends to later positions.

    PaliGemma generates other tokens without a cache, because each one becomes part of its bidirectional prompt.
    """
    if request.param not in checkpoints:
        checkpoints[request.param] = build(request.param)
    return (request.param, *checkpoints[request.param])
