"""Print how many examples each reader was run on."""

from pathlib import Path

import pytest

from tests.fuzz.running import COUNTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With several processes each has its own counts, and none are printed."""
    if not COUNTS:
        return
    terminalreporter.section("fuzzed readers")
    for reader in sorted({reader for reader, _ in COUNTS}):
        values, errors = COUNTS[reader, "value"], COUNTS[reader, "UserError"]
        terminalreporter.write_line(f"{reader:24} {values + errors:7} examples: {values:6} read, {errors:6} refused")
    terminalreporter.write_line(f"{'together':24} {sum(COUNTS.values()):7} examples")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the examples of a module share: one of its own for each would take longer than the example."""
    return tmp_path_factory.mktemp("seeds")
