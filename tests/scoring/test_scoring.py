"""The scorers, on answers like those of real models."""

from collections.abc import Sequence
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.scoring.choice import choice_text, parse_choice, parse_text
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.rows import check_rows, reads_choices, reads_prompt
from lmms_steer.scoring.task_results import (
    doc_to_text,
    process_results,
    process_results_strict,
    score_losses,
    score_number,
)
from lmms_steer.scoring.unparsed import unparsed_warning

COUNT = ("3", "2", "1", "0")
SIDES = ("left", "right")
PLACES = ("above", "below")
YES = ("yes", "no")
CAPTIONS = (
    "A mug on a table",
    "A mug under a table",
    "A mug to the left of a table",
    "A mug to the right of a table",
)
THINGS = ("chair", "table", "chair leg", "lamp")

CHOICES = [
    # a letter
    ("C", COUNT, "C"),
    ("c", COUNT, "C"),
    ("(C)", COUNT, "C"),
    ("(c)", COUNT, "C"),
    ("C.", COUNT, "C"),
    ("C)", COUNT, "C"),
    ("[B]", COUNT, "B"),
    ("**B**", COUNT, "B"),
    ("`A`", COUNT, "A"),
    (" D \n", COUNT, "D"),
    ("A", SIDES, "A"),
    ('"B"', SIDES, "B"),
    ("B:", SIDES, "B"),
    ("E", COUNT, ""),
    ("(Z)", COUNT, ""),
    ("C", SIDES, ""),
    # a choice's own text
    ("left", SIDES, "A"),
    ("Left", SIDES, "A"),
    ("RIGHT.", SIDES, "B"),
    ("3", COUNT, "A"),
    ("three", COUNT, "A"),
    ("Zero", COUNT, "D"),
    ("0", COUNT, "D"),
    ("yes", YES, "A"),
    ("No.", YES, "B"),
    ("A mug on a table.", CAPTIONS, "A"),
    ("a mug to the right of a table", CAPTIONS, "D"),
    ("chair leg", THINGS, "C"),
    ("chair", THINGS, "A"),
    ("7", COUNT, ""),
    # a letter and the text of its choice
    ("B) 2", COUNT, "B"),
    ("B. 2", COUNT, "B"),
    ("(B) 2", COUNT, "B"),
    ("B: 2", COUNT, "B"),
    ("(B) two", COUNT, "B"),
    ("A) left", SIDES, "A"),
    ("A. The cup is left of the plate", SIDES, "A"),
    ("B) 3", COUNT, ""),
    ("(A) right", SIDES, ""),
    ("C - because I count one", COUNT, "C"),
    ("(D) A mug to the right of a table", CAPTIONS, "D"),
    # a stated conclusion
    ("The answer is (C).", COUNT, "C"),
    ("The answer is B", COUNT, "B"),
    ("The answer is B.", SIDES, "B"),
    ("The correct answer is (A) left.", SIDES, "A"),
    ("Answer: C", COUNT, "C"),
    ("answer: d", COUNT, "D"),
    ("answer is left", SIDES, "A"),
    ("The answer is right.", SIDES, "B"),
    ("The best answer is: (B)", PLACES, "B"),
    ("Option B", COUNT, "B"),
    ("The correct option is A.", COUNT, "A"),
    ("I choose option (D)", COUNT, "D"),
    ("Final answer: B", SIDES, "B"),
    ("<answer>B</answer>", SIDES, "B"),
    ("<think>A or B</think><answer>(A)</answer>", SIDES, "A"),
    ("So it is \\boxed{C}.", COUNT, "C"),
    ("\\boxed{2}", COUNT, "B"),
    ("The answer should be A. There are 3 cups.", COUNT, "A"),
    ("The answer is A because the cup is not right", SIDES, "A"),
    ("The answer is not clear", SIDES, ""),
    # a sentence that names one choice
    ("The cup is on the left side.", SIDES, "A"),
    ("It is located above the car.", PLACES, "A"),
    ("Yes, the car is beneath the cat.", YES, "A"),
    ("No, it is not.", YES, "B"),
    ("There are 2 organs in the image.", COUNT, "B"),
    ("I can see three of them", COUNT, "A"),
    ("The object closer to the camera is the lamp", THINGS, "D"),
    ("It is the chair leg", THINGS, "C"),
    ("I think it's (B), the second", COUNT, "B"),
    ("Looking at it, B seems right to me", COUNT, "B"),
    ("The mug is shown; a mug under a table, I would say", CAPTIONS, "B"),
    # no choice, or more than one
    ("", COUNT, ""),
    ("   ", SIDES, ""),
    ("apple apple apple", COUNT, ""),
    ("depth depth", COUNT, ""),
    ("left or right", SIDES, ""),
    ("(A) or (B)", SIDES, ""),
    ("There are 3 and 2", COUNT, ""),
    ("A cup", SIDES, ""),
    ("I do not know", COUNT, ""),
    ("A dog is here", COUNT, ""),
    ("yes and no", YES, ""),
    ("????", SIDES, ""),
    ("\n\n", COUNT, ""),
    ("the the the the", SIDES, ""),
    ("É", SIDES, ""),
    ("12", COUNT, ""),
    ("leftover", SIDES, ""),
    ("notable", YES, ""),
    ("A B C D", COUNT, ""),
]

NUMBERS = [
    ("3", 3),
    ("3.", 3),
    (" 3 \n", 3),
    ("three", 3),
    ("Three", 3),
    ("(3)", 3),
    ("**3**", 3),
    ("3 apples", 3),
    ("three cups", 3),
    ("There are 3 apples.", 3),
    ("There are three apples in the image.", 3),
    ("I count 12.", 12),
    ("twelve", 12),
    ("twenty-one", 21),
    ("twenty one", 21),
    ("twenty", 20),
    ("0", 0),
    ("zero", 0),
    ("none", 0),
    ("There are none.", 0),
    ("There are no cats.", 0),
    ("no cats", 0),
    ("no idea", None),
    ("There is not one dog.", 0),
    ("There are no dogs", 0),
    ("There are no dogs in the image; the answer is 0", 0),
    ("There is no one in the image.", 0),
    ("There are not any cups on the table.", 0),
    ("There are no more dogs than cats.", 0),
    ("There are no fewer than 3 dogs", 3),
    ("There are no more than 4 chairs in the image.", 4),
    ("There is no less than one cup", 1),
    ("There is no dog but there are 2 cats", None),
    ("There are no dogs, not even one.", None),
    ("There is no dog, but 2.5 cats", None),
    ("There are no cups, 3 plates and 2 forks: 5 in total", 5),
    ("The answer is 5.", 5),
    ("Answer: 7", 7),
    ("<answer>4</answer>", 4),
    ("\\boxed{6}", 6),
    ("The answer is five", 5),
    ("3.0", 3),
    ("1,000", 1000),
    ("5 red and 3 blue, so 8 in total", 8),
    ("5 + 3 = 8", 8),
    ("Five red, three blue: the total is 8.", 8),
    ("2 cups and 2 plates, 4 altogether", 4),
    ("There are 3 cubes. So the answer is 3.", 3),
    ("I see 4. Yes, 4.", 4),
    ("Total number of items: 9", 9),
    ("there are 10 different items", 10),
    ("There are 3 and 4", None),
    ("3 or 4", None),
    ("3-4 cubes", None),
    ("", None),
    ("  ", None),
    ("apple apple apple", None),
    ("many", None),
    ("3.5", None),
    ("-3", None),
    ("1/2", None),
    ("C", None),
    ("several things", None),
    ("between 3 and 5", None),
    ("someone", None),
    ("often", None),
    ("12 34", None),
    ("version2", None),
    ("The answer is unclear", None),
    ("one hundred", None),
    ("There are two hundred and five cubes.", None),
    ("2 dozen", None),
    ("three and a half", None),
    ("\u22123", None),
    ("one-third", None),
    ("ten-twenty", None),
    ("There is a two-story house and 3 cars", 3),
]


@pytest.mark.parametrize(("answer", "choices", "expected"), CHOICES)
def test_choice_is_read(answer: str, choices: tuple[str, ...], expected: str) -> None:
    assert parse_choice(answer, choices) == expected


@pytest.mark.parametrize(("answer", "expected"), NUMBERS)
def test_number_is_read(answer: str, expected: int | None) -> None:
    assert parse_number(answer) == expected


def test_there_are_at_least_100_answers() -> None:
    assert len(CHOICES) + len(NUMBERS) >= 100


@pytest.mark.parametrize(
    "answer", ["9" * 5000, "1,000" + ",000" * 2000, "The total is " + "1" * 5000, "2" * 5000 + ".0"]
)
def test_more_digits_than_python_converts_are_no_number(answer: str) -> None:
    scores = score_number(answer, 3)
    assert (scores["acc"], scores["unparsed"], scores["unparsed_strict"], scores["acc_paper"]) == (0.0, 1.0, 1.0, 0.0)
    assert parse_choice(answer, COUNT) == parse_choice(answer, COUNT, strict=True) == ""
    # a conversion that Python does
    assert parse_number("4" * 4000) == int("4" * 4000)


def test_choice_that_is_a_letter_has_no_text() -> None:
    assert [choice_text(letter, ["NO", "(B)", "C"]) for letter in "ABCD"] == ["NO", "", "", ""]


def test_rows_without_a_stored_prompt_get_cv_bench_s_wording() -> None:
    row = {"question": "How many organs are in the image?", "choices": ["3", "2"], "answer": "(A)"}
    # CV-Bench's first sample, as its card prints it
    prompt = "How many organs are in the image? Select from the following choices.\n(A) 3\n(B) 2"
    assert doc_to_text(row) == prompt
    assert doc_to_text(row | {"prompt": "as stored"}, {"pre_prompt": "answer en "}) == "answer en as stored"


@pytest.mark.parametrize(("answer", "choices", "lenient"), CHOICES)
def test_strict_reading_agrees_with_the_lenient_one_or_reads_nothing(
    answer: str, choices: tuple[str, ...], lenient: str
) -> None:
    assert parse_choice(answer, choices, strict=True) in (lenient, "")


@pytest.mark.parametrize(
    ("answer", "choices", "strict"),
    [
        ("C", COUNT, "C"),
        ("left", SIDES, "A"),
        ("B) 2", COUNT, "B"),
        ("The answer is B because it is right of it", SIDES, "B"),
        ("The correct answer is (A) left.", SIDES, "A"),
        ("I would not say it is left", SIDES, ""),
        ("I think it's (B), the second", COUNT, ""),
        ("The answer is on the left side", SIDES, ""),
        ("Looking at it, B seems right to me", COUNT, ""),
    ],
)
def test_strict_reading_takes_no_choice_from_among_other_words(
    answer: str, choices: tuple[str, ...], strict: str
) -> None:
    assert parse_choice(answer, choices, strict=True) == strict


VEHICLES = ("truck", "school bus", "bus", "mountain bike")


@pytest.mark.parametrize(
    ("answer", "texts", "lenient", "strict"),
    [
        ("Truck.", VEHICLES, "truck", "truck"),
        ("A school bus", VEHICLES, "school bus", "school bus"),
        ("The answer is the bus.", VEHICLES, "bus", "bus"),
        ("It is a truck", VEHICLES, "truck", ""),
        ("It is the school bus", VEHICLES, "school bus", ""),
        ("a school bus or a bus", VEHICLES, "", ""),
        ("a truck, not a mountain bike", VEHICLES, "", ""),
        ("xx yy", VEHICLES, "", ""),
        ("", VEHICLES, "", ""),
        # letters that no question shows
        ("A", YES, "", ""),
        ("The answer is A", YES, "", ""),
        ("The answer is B.", YES, "", ""),
        ("A: the cube", YES, "", ""),
        ("Object C is it", ("cube", "sphere", "cylinder"), "", ""),
        ("Object C is a cube", ("cube", "sphere", "cylinder"), "cube", ""),
        ("Answer: A", ("large", "small"), "", ""),
        # more of them than there are letters
        ("thing 29", [f"thing {number}" for number in range(30)], "thing 29", "thing 29"),
    ],
)
def test_a_text_is_read_where_no_letters_are_shown(
    answer: str, texts: Sequence[str], lenient: str, strict: str
) -> None:
    assert (parse_text(answer, texts), parse_text(answer, texts, strict=True)) == (lenient, strict)


@pytest.mark.parametrize(
    ("answer", "lenient", "strict"),
    [
        # no part of another number
        ("-3", "", ""),
        ("The answer is -3.", "", ""),
        ("3.5", "", ""),
        ("2-3", "", ""),
        ("between 3 and 5", "", ""),
        ("about 10,000", "", ""),
        ("1/3", "", ""),
        ("three hundred", "", ""),
        # the number that `parse_number` reads
        ("(3)", "A", "A"),
        ("3.0", "A", "A"),
        ("three!", "A", "A"),
        ("about 10", "B", ""),
        ("5 red and 5 blue, so 10 in total", "B", ""),
        ("There are no cups.", "C", ""),
        ("I see 5 of them; B", "B", ""),
    ],
)
def test_choices_that_are_numbers_are_read_as_numbers(answer: str, lenient: str, strict: str) -> None:
    choices = ["3", "10", "0"]
    assert (parse_choice(answer, choices), parse_choice(answer, choices, strict=True)) == (lenient, strict)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("Here are the items:\n1. Red cube", None),
        ("1. Red cube", None),
        ("1. Red cube\n2. Blue", None),
        ("Here are the items: 1) a red cube 2) a blue", None),
        ("1. A cup\n2. A fork\nThere are 2 things.", 2),
        ("1. A cup\n2. A fork\nSo there are 2.", 2),
        ("1.", 1),
        ("3. There are three cups", 3),
        ("1. There is one cup", 1),
        ("1.\nThe dog is there", 1),
        ("Total: 1. Nothing else is shown", 1),
        ("Count: 1. That is all", 1),
        ("1. The image shows a dog", 1),
    ],
)
def test_the_marks_of_a_list_are_no_numbers(answer: str, number: int | None) -> None:
    assert parse_number(answer) == number
    assert parse_choice(answer, ["3", "2", "1"]) == ({3: "A", 2: "B", 1: "C"}[number] if number else "")


@pytest.mark.parametrize(
    ("answer", "choices", "lenient", "strict"),
    [
        ("3", ["3", "-3", "0", "1"], "A", "A"),
        ("5", ["$5", "5%", "5", "50"], "C", "C"),
        ("It is $5.", ["$5", "5%", "5", "50"], "A", ""),
        ("about 5% of it", ["$5", "5%", "5", "50"], "B", ""),
        ("-2", ["-3", "-2", "-1", "2"], "B", "B"),
        ("\u22122", ["-3", "-2", "-1", "2"], "B", "B"),
        ("-5 m", ["5 m", "1 m"], "", ""),
        ("3.5 m", ["5 m", "1 m"], "", ""),
        ("about 1.5 m", ["5 m", "1.5 m"], "B", ""),
        ("It is 12.5 m", ["5 m", "1.5 m"], "", ""),
        ("It is 5 m.", ["5 m", "1.5 m"], "A", ""),
        ("the top-left corner", ["top left", "top right"], "A", ""),
        ("20", ["10%", "20%", "30%"], "B", "B"),
        ("20 percent", ["10%", "20%", "30%"], "B", ""),
        ("The answer is 20", ["10%", "20%", "30%"], "B", "B"),
        ("$ 10", ["$5", "$10", "$15"], "B", "B"),
        ("10 dollars", ["$5", "$10", "$15"], "B", ""),
        ("It is 90 degrees", ["45°", "90°", "180°"], "B", ""),
        ("90 °", ["45°", "90°", "180°"], "B", "B"),
        ("20", ["20%", "$20", "30"], "", ""),
        ("It is a square", ["A", "B", "C", "D"], "", ""),
        ("The pattern follows a rotation, so C", ["A", "B", "C", "D"], "C", ""),
    ],
)
def test_a_choice_is_not_found_in_another_number_or_an_article(
    answer: str, choices: list[str], lenient: str, strict: str
) -> None:
    assert (parse_choice(answer, choices), parse_choice(answer, choices, strict=True)) == (lenient, strict)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("There isn't one", 0),
        ("There isn't a single one.", 0),
        ("There aren't any.", 0),
        ("Not a single one", 0),
        ("Not one.", 0),
        ("I don't see one", 0),
        ("I cannot see even one cube", 0),
        ("There is not one dog", 0),
        ("There are not more than 4", 4),
        ("There is not one but 3", None),
        ("I see one", 1),
        ("6 = 3 + 3", 6),
        ("3 + 3 = 6", 6),
        ("1+1", None),
        ("2^2", None),
    ],
)
def test_negations_and_sums_are_read_as_they_are_meant(answer: str, number: int | None) -> None:
    assert parse_number(answer) == number


@pytest.mark.parametrize("part", ["<answer>", "A ", "(A", "\\boxed{", "1. a ", "B\n", "the answer is "])
def test_reading_an_answer_does_not_take_the_square_of_its_length(part: str) -> None:
    # each would take hours if it did
    answer = part * 50_000
    parse_number(answer)
    assert parse_choice(answer, ["left", "right"]) in ("", "A", "B")


@pytest.mark.parametrize(
    "answer",
    [
        *(r"\boxed{\text{B}}", r"\boxed{\mathrm{B}}", r"\boxed{\textbf{(B)}}"),
        r"Is it (A)? No. $\boxed{\text{B. right}}$",
    ],
)
def test_letters_in_a_formula_s_font_are_read(answer: str) -> None:
    assert parse_choice(answer, ["left", "right"]) == parse_choice(answer, ["left", "right"], strict=True) == "B"
    assert parse_number(r"2 cubes and 1 sphere: \boxed{\text{3}}") == 3


def test_a_letter_that_is_repeated_to_the_end_is_read() -> None:
    assert parse_choice("B\n" * 5000, ["1", "2"]) == parse_choice("B\n" * 5000, ["1", "2"], strict=True) == "B"
    assert parse_choice("B\n" * 5000 + "A", ["1", "2"]) == ""


def test_strict_reading_of_numbers() -> None:
    read = {"3": 3, "Three.": 3, "The answer is 5.": 5, "There are 3 apples.": None, "5 + 3 = 8": None}
    assert {answer: parse_number(answer, strict=True) for answer in read} == read
    scores = score_number("There are 3 apples.", 3)
    assert (scores["acc"], scores["acc_strict"], scores["unparsed_strict"]) == (1.0, 0.0, 1.0)


def test_both_readings_are_counted_and_a_task_may_choose_the_strict_one() -> None:
    doc, wordy = {"choices": ["left", "right"], "answer": "A"}, ["I would not say it is left"]
    scores, strict = process_results(doc, wordy), process_results_strict(doc, wordy)
    names = ("acc", "score", "unparsed", "parsed", "acc_strict", "unparsed_strict")
    assert [scores[name] for name in names] == [1.0, 1.0, 0.0, "A", 0.0, 1.0]
    names = ("acc", "score", "unparsed", "parsed", "acc_lenient", "unparsed_lenient")
    assert [strict[name] for name in names] == [0.0, 0.0, 1.0, "", 1.0, 0.0]


GOOD = {"question": "what is left?", "choices": ["cup", "fork", "plate", "spoon"], "answer": "(D)"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answer": "E"}, "the answer is 'E', but its choices have the letters A to D"),
        ({"answer": "b"}, "the answer is 'b', but"),
        ({"answer": 1}, "the answer is 1, but"),
        ({"answer": None}, "the answer is None, but"),
        ({"answer": ""}, "the answer is '', but"),
        ({"answer": "AB"}, "the answer is 'AB', but"),
        ({"choices": []}, r"choices are \[\]: expected a list of 1 to 26 texts"),
        ({"choices": None}, "choices are None: expected a list"),
        ({"choices": "cup"}, "choices are the text 'cup': expected a list"),
        ({"choices": ["cup", " "]}, "choice B is empty"),
        ({"choices": ["cup", 3]}, "choice B is 3: expected a text"),
        ({"choices": ["cup", "fork", "Cup "]}, "choices A and C are both 'Cup '"),
        ({"question": None}, "the question is None: expected a text"),
        ({"question": " ", "prompt": ""}, "the question is ' ': expected a text"),
    ],
)
def test_malformed_rows_are_named_by_their_number(change: dict[str, Any], problem: str) -> None:
    check_rows("kitchen", [GOOD, {**GOOD, "answer": "A"}, {**GOOD, "question": None, "prompt": "Left?"}], True)
    with pytest.raises(UserError, match=f"^kitchen, document 2: {problem}"):
        check_rows("kitchen", [GOOD, GOOD, {**GOOD, **change}], True)


def test_only_tasks_that_read_choices_are_checked() -> None:
    assert reads_choices(process_results) and reads_choices("{{answer}}", process_results_strict)
    assert not reads_choices(None, "text", doc_to_text)
    assert reads_prompt(doc_to_text) and not reads_prompt("{{question}}")
    assert doc_to_text({**GOOD, "prompt": None}) == doc_to_text(GOOD) and "what is left?" in doc_to_text(GOOD)


def test_the_warning_says_from_when_on_scores_are_not_to_be_trusted() -> None:
    assert unparsed_warning("a", {"s": 0.0499, "t": float("nan")}) == ""
    assert unparsed_warning("a", {"s": 0.05, "t": 0.0}).startswith(
        "a: 5.0% (s) of the answers name no choice or number, or several, and count as wrong"
    )
    assert "trust" not in unparsed_warning("a", {"": 0.19}) and "trust" in unparsed_warning("a", {"": 0.2})


@pytest.mark.parametrize(
    "answer",
    [
        "A, B, C, D",
        "A and B",
        "A or B",
        "A) left B) right C) above D) below",
        "A. left\nB. right",
        "(A) left, (B) right",
        "The answer is A, B, C and D",
        "B: right, D: below",
        "The answer is A or B",
        "Answer: A, B",
        "Option A or B",
        "I think D or A, but not the others",
        "Either A or C.",
    ],
)
def test_nothing_is_read_from_a_list_of_choices(answer: str) -> None:
    choices = ["left", "right", "above", "below"]
    assert parse_choice(answer, choices) == parse_choice(answer, choices, strict=True) == ""


@pytest.mark.parametrize(
    ("answer", "choices"),
    [
        ("B. A, C and D are wrong", ["1", "2", "3", "4"]),
        ("B, B, B", ["1", "2"]),
        ("B) vitamin A", ["iron", "vitamin A"]),
        ("A and B", ["A", "A and B"]),
        ("B because it is right", ["left", "right"]),
        ("Option B, A cat is there", ["1", "2"]),
    ],
)
def test_an_answer_that_mentions_other_letters_is_no_list(answer: str, choices: list[str]) -> None:
    assert parse_choice(answer, choices) == "B"


@pytest.mark.parametrize(
    ("form", "strict"),
    [
        ("{}\nExplanation: it fits", True),
        ("**{}**\n\nThe cup is there.", True),
        ("{}!", True),
        ("The answer is {} which is there", True),
        ("The correct option is {} since it fits", True),
        ("**{}** is the correct answer.", False),
        ("{} - it fits", False),
        ("{} because it fits", False),
        ("{}, because it fits", False),
        ("Option {} is correct.", False),
        ("I choose {} here", False),
        ("Point {} is closer", False),
        ("{} is closer to the camera.", False),
        ("Based on the image, {} is it", False),
    ],
)
def test_the_letter_a_is_read_wherever_other_letters_are(form: str, strict: bool) -> None:
    choices = ["elm", "oak", "ash", "fir"]
    assert [parse_choice(form.format(letter), choices) for letter in "ABCD"] == list("ABCD")
    strictly = [parse_choice(form.format(letter), choices, strict=True) for letter in "ABCD"]
    assert strictly == list("ABCD") if strict else set(strictly) <= {*"ABCD", ""}


@pytest.mark.parametrize("answer", ["A\nB", "A\nThe answer is B", "A cup\nis there", "It is A cup", "A red cup"])
def test_the_letter_a_is_not_read_from_other_answers(answer: str) -> None:
    assert parse_choice(answer, ["elm", "oak"]) in ("", "B")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_nothing_is_read_from_a_model_that_overflows(loss: float) -> None:
    # lmms-eval's own models return pairs, which the harness turns into text
    for pair in ((loss, False), str((loss, False))):
        result = score_losses([pair, pair], right=0)
        assert (result["acc"], result["unparsed"], result["letters"]) == (0.0, 1.0, {})
    assert score_losses(["(0.5, True)", "(inf, False)"], right=0)["unparsed"] == 1.0
    assert score_losses([(0.5, True), (2.0, False)], right=0)["acc"] == 1.0
