"""The wording that errors share."""

from pathlib import Path

import pytest

from lmms_steer.errors import MAX_MESSAGE_LENGTH, UserError, reason, unknown_name


def test_the_reason_of_a_system_error_has_neither_path_nor_number(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "none").read_text()
    assert reason(caught.value) == "No such file or directory"


def test_the_reason_of_another_error_is_its_first_line() -> None:
    assert reason(ValueError("\n  not a number\nline 2")) == "not a number"
    assert reason(OSError("cut off")) == "cut off"
    assert reason(ValueError()) == "ValueError"


def test_an_unknown_name_comes_before_its_place_and_the_known_names() -> None:
    error = unknown_name("key", "vectr", ["vector", "alpha"], "in --model_args")
    assert str(error) == "unknown key 'vectr' in --model_args: did you mean 'vector'? known: alpha, vector"
    assert str(unknown_name("key", "x", ["alpha"])) == "unknown key 'x': known: alpha"


def test_another_word_is_not_taken_for_a_misspelling() -> None:
    error = unknown_name("key", "strength", ["alpha", "steering"])
    assert str(error) == "unknown key 'strength': known: alpha, steering"


def test_an_error_is_one_line_without_control_characters() -> None:
    assert str(UserError("a\x1b[31m\nb\u2028\ud800é")) == r"a\x1b[31m\nb\u2028\ud800é"
    assert len(str(UserError("x" * 10**6))) == MAX_MESSAGE_LENGTH
