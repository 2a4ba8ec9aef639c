"""What the training asks: every answer is right for its scene, and is the only right one."""

import random
import re

import pytest

from lmms_steer.smol.questions import ask
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import NUMBERS, Scene, Thing, sample_scene
from training.smol.lessons import lesson, lesson_of_places
from training.smol.turns import by_word, object_list, series


def named(phrase: str, scene: Scene) -> Thing:
    """The only object that a phrase fits."""
    words = set(phrase.split()) - {"object", "shape", "thing"}
    (thing,) = (thing for thing in scene if words <= {thing.colour, thing.shape})
    return thing


@pytest.fixture
def scenes() -> list[Scene]:
    rng = random.Random(5)
    return [sample_scene(rng, 2) for _ in range(100)]


def test_a_relation_by_word_names_its_choices_as_both_axes_have_an_answer(scenes: list[Scene]) -> None:
    rng = random.Random(0)
    for scene in scenes:
        question = ask("relation", scene, rng, benchmark=True)
        if question is not None:
            turn = by_word(question)
            first, second = question.choices
            assert turn.text == f"{question.text} {first.capitalize()} or {second}?"
            assert turn.answer in (first, second)
    asked = "Is the red circle above or below the blue square?"
    named_already = Question("relation", asked, ("above", "below"), "above")
    assert by_word(named_already).text == asked


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_a_series_names_the_place_of_each_object(kind: str, scenes: list[Scene]) -> None:
    rng = random.Random(1)
    for scene in scenes:
        turn = series(scene, rng, kind)
        asked = re.fullmatch(rf"Name the {kind} of these objects: (.*)\.", turn.text)
        assert asked is not None
        things = [named(phrase, scene) for phrase in asked[1].split(", ")]
        assert sorted(things) == sorted(scene)
        assert turn.answer.split(", ") == [
            str((thing.cell % 4 if kind == "columns" else thing.cell // 4) + 1) for thing in things
        ]


def test_a_series_counts_each_group(scenes: list[Scene]) -> None:
    rng = random.Random(2)
    for scene in scenes:
        turn = series(scene, rng, "numbers")
        asked = turn.text.removeprefix("How many of each: ").removesuffix("?").split(", ")
        for group, number in zip(asked, turn.answer.split(", "), strict=True):
            colour = group.removesuffix(" objects")
            shape = {"crosses": "cross"}.get(group, group.removesuffix("s"))
            assert NUMBERS.index(number) + 1 == sum(thing.colour == colour or thing.shape == shape for thing in scene)


def test_lists_name_every_object_from_left_to_right_and_line_by_line(scenes: list[Scene]) -> None:
    rng = random.Random(3)
    for scene in scenes:
        across = object_list(scene, rng, "across")
        things = [named(phrase, scene) for phrase in across.answer.split(", ")]
        assert [thing.cell % 4 for thing in things] == sorted(thing.cell % 4 for thing in scene)
        for line in object_list(scene, rng, "column").answer.split("\n"):
            column, names = line.removeprefix("Column ").split(": ")
            assert {thing.name for thing in scene if thing.cell % 4 == int(column) - 1} == set(names.split(", "))


@pytest.mark.parametrize(("letters", "asked"), [(0.0, "Name the columns"), (0.6, "How many of each")])
def test_half_of_the_lessons_ask_for_columns_before_letters_and_for_numbers_with_them(
    letters: float, asked: str, scenes: list[Scene]
) -> None:
    rng = random.Random(4)
    lessons = [lesson(scene, rng, 5, letters) for scene in scenes]
    with_series = [turns for turns in lessons if any(turn.kind == "series" for turn in turns)]
    assert 35 <= len(with_series) <= 65
    assert all(any(asked in turn.text for turn in turns) and len(turns) == 5 for turns in with_series)


def test_lessons_of_places_end_with_relations_by_word(scenes: list[Scene]) -> None:
    rng = random.Random(6)
    for scene in scenes:
        turns = lesson_of_places(scene, rng)
        assert [turn.kind for turn in turns[:2]] == ["list", "series"]
        assert {turn.kind for turn in turns[2:]} <= {"relation"} and not any(turn.letters for turn in turns)
