"""The limits of the fuzzer itself."""

import numpy as np
import pytest

from lmms_steer.errors import UserError
from tests.fuzz import running
from tests.fuzz.running import check


def test_the_limits_stop_a_reader_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.05)

    def endless() -> None:
        while True:
            pass

    with pytest.raises(running.TooSlow):
        check("none", endless)
    with pytest.raises(MemoryError):
        check("none", lambda: np.ones(1 << 32, dtype=np.uint8))
    with pytest.raises(AssertionError, match="not one clear line"):
        check("none", lambda: (_ for _ in ()).throw(UserError("")))
