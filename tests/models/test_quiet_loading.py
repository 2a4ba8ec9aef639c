"""Loading draws transformers' progress bars at a terminal only, and does not change its settings for others."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from lmms_steer import UserError
from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.extraction.extract import Backbone
from lmms_steer.models.loading import load_model
from lmms_steer.tiny_world.checkpoints import weights_dir


def load_as_inspect_and_search_do() -> None:
    source = str(weights_dir("tiny-paligemma2"))
    load_model("tiny-paligemma2", source, torch.device("cpu"), None, dtype=torch.float32)


@pytest.mark.parametrize("load", [lambda: Backbone("tiny-gemma2"), load_as_inspect_and_search_do])
def test_loading_draws_no_bar_without_a_terminal(
    load: object, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert callable(load) and logging.is_progress_bar_enabled()
    load()
    assert "Loading weights" not in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot load the"):
        Backbone(str(tmp_path))
    AutoModelForCausalLM.from_pretrained(weights_dir("tiny-gemma2"))
    assert "Loading weights" in capsys.readouterr().err, "loading by others must not be affected"


def test_bars_are_drawn_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with quiet_in_logs():
        assert not logging.is_progress_bar_enabled()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with quiet_in_logs():
        assert logging.is_progress_bar_enabled()
