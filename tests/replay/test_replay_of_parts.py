"""The contracts of replays on models whose language model generates by itself: BLIP-2, InstructBLIP and Kosmos-2."""

from typing import Any

import pytest

from tests.helpers.checkpoints import GENERATING_PARTS, build
from tests.replay.test_replay import (
    test_a_slope_equals_the_effect_of_a_small_alpha_on_the_margin,
    test_stacked_cells_equal_the_hooks_at_every_layer_and_target,
    test_text_generated_after_a_replayed_prompt_is_that_of_the_model_with_hooks,
    test_the_check_accepts_correct_replays_in_bfloat16_on_every_architecture,
)

__all__ = [
    "test_a_slope_equals_the_effect_of_a_small_alpha_on_the_margin",
    "test_stacked_cells_equal_the_hooks_at_every_layer_and_target",
    "test_text_generated_after_a_replayed_prompt_is_that_of_the_model_with_hooks",
    "test_the_check_accepts_correct_replays_in_bfloat16_on_every_architecture",
]


@pytest.fixture(scope="module", params=list(GENERATING_PARTS))
def vlm(request: pytest.FixtureRequest) -> Any:
    """(name, model, processor) of each in turn."""
    return request.param, *build(request.param)
