"""Where `LMMS_STEER_NO_SKIPS` is set, as in `.ci/run`, a test that is skipped fails, with the reason."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into that of a failed one."""
    report = yield
    # a failure that was expected is reported as skipped too
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("LMMS_STEER_NO_SKIPS"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"LMMS_STEER_NO_SKIPS is set. {reason}"
    return report
