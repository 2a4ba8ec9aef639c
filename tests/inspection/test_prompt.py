"""`inspect`: the text about one prompt. (Its run through a model is tested with the harness.)"""

import pytest

from lmms_steer.inspection.prompt import PromptInspection, inspection_lines


@pytest.mark.parametrize("spec", ["", "vector=v,layer=1,alpha=1,tokens=image"])
def test_the_most_likely_tokens_are_shown_once_without_a_spec(spec: str) -> None:
    answers = [("yes", 0.75), ("no", 0.25)]
    inspection = PromptInspection(
        spec, 1, ["is", "it"], ["text"] * 2, [bool(spec)] * 2, [1.0] * 2, [], {}, answers, answers, []
    )
    rows = list(inspection_lines(inspection))[-3:]
    if spec:
        assert rows[0].split() == ["unsteered", "steered"] and rows[1].count("'yes'") == 2
    else:
        assert rows == ["unsteered", " 0.750  'yes'", " 0.250  'no'"]


def test_the_tower_s_layers_come_before_the_decoder_s_where_only_they_are_steered() -> None:
    answers = [("yes", 1.0)]
    inspection = PromptInspection(
        "vector=v,layers=0-1,site=vision", 2, ["<image>"], ["image"], [False], [1.0], [], {}, answers, answers, [],
        effects_after=["layer 0, vision: 1 along v is added", "layer 1, vision: 2 along v is added"],
    )  # fmt: skip
    rows = list(inspection_lines(inspection))
    assert rows[1:4] == [*inspection.effects_after, "layer 2 of the decoder, nothing is done"]
    assert sum(row.startswith("layer ") for row in rows) == 3


def test_a_prompt_without_the_tokens_that_a_spec_steers_is_warned_of() -> None:
    warning = "  WARNING: no token of this prompt is steered"
    for spec, steered, is_warned in (
        ("vector=v,layer=1,alpha=1,tokens=audio", [False, False], True),
        ("vector=v,layer=1,alpha=1,tokens=audio", [False, True], False),
        # it is for the tokens that come after the prompt
        ("vector=v,layer=1,alpha=1,tokens=text,phase=decode", [False, False], False),
    ):
        effects, answers = ["1 along v is added"], [("yes", 1.0)]
        inspection = PromptInspection(
            spec, 1, ["is", "it"], ["text"] * 2, steered, [1.0] * 2, effects, {}, answers, answers, []
        )
        assert (warning in inspection_lines(inspection)) == is_warned
