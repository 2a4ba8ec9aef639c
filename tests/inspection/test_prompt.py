"""`inspect`: the text about one prompt. (Its run through a model is tested with the harness.)"""

import pytest

from lmms_steer.inspection.prompt import PromptInspection, inspection_lines


@pytest.mark.parametrize("spec", ["", "vector=v,layer=1,alpha=1,tokens=image"])
def test_the_most_likely_tokens_are_shown_once_without_a_spec(spec: str) -> None:
    answers = [("yes", 0.75), ("no", 0.25)]
    inspection = PromptInspection(
        spec, 1, ["is", "it"], ["text"] * 2, [bool(spec)] * 2, [1.0] * 2, [], {}, answers, answers
    )
    rows = list(inspection_lines(inspection))[-3:]
    if spec:
        assert rows[0].split() == ["unsteered", "steered"] and rows[1].count("'yes'") == 2
    else:
        assert rows == ["unsteered", " 0.750  'yes'", " 0.250  'no'"]
