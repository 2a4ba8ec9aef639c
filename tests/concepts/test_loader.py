"""Concept files: the three formats say the same, and a wrong line is named."""

import json
from pathlib import Path

import pytest

from lmms_steer import UserError, concepts
from lmms_steer.concepts import Pair


def concept_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_jsonl_and_csv_give_the_same_concept(tmp_path: Path) -> None:
    pairs = (Pair("left", "It is left, of the door."), Pair("on", "It is on it."))
    other = (Pair("red", "It is red."),)
    yaml = (
        'name: mine\npairs:\n - left: "It is left, of the door."\n - "on": It is on it.\n'
        "contrast:\n - red: It is red.\n"
    )
    jsonl = (
        '{"anchor": "left", "sentence": "It is left, of the door."}\n\n{"anchor": "on", "sentence": "It is on it."}\n'
        '{"anchor": "red", "sentence": "It is red.", "contrast": true}\n'
    )
    csv = 'anchor,sentence,contrast\nleft,"It is left, of the door.",\non,It is on it.,0\nred,It is red.,1\n'
    for suffix, text in (("yaml", yaml), ("jsonl", jsonl), ("csv", csv)):
        read = concepts.load(concept_file(tmp_path / f"mine.{suffix}", text))
        assert (read.name, read.pairs, read.contrast) == ("mine", pairs, other)


def test_a_sentence_of_a_jsonl_file_may_hold_line_separators(tmp_path: Path) -> None:
    sentence = "The lamp is left of\u2028the sofa\x85."
    row = json.dumps({"anchor": "left", "sentence": sentence}, ensure_ascii=False)
    (tmp_path / "c.jsonl").write_bytes(f"{row}\r\n\r\n{row.replace('lamp', 'cup')}\n".encode())
    pairs = concepts.load(str(tmp_path / "c.jsonl")).pairs
    assert [pair.sentence for pair in pairs] == [sentence, sentence.replace("lamp", "cup")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"anchor": "a", "sentence": "a b"}\n{"anchor": "a"', "line 2: not JSON"),
        ("a.jsonl", '{"anchor": "a"}', "line 1: expected an anchor and a sentence, got 'a' and None"),
        ("a.jsonl", '["a", "b"]', "line 1: expected {"),
        ("a.csv", "word,text\na,b\n", "line 1: expected the columns anchor,sentence, got 'word,text'"),
        ("a.csv", "anchor;sentence\na;b\n", "got 'anchor;sentence': separate them by commas"),
        (
            "a.csv",
            "anchor,sentence,sentence\na,a b,c\n",
            "line 1: a column appears twice in 'anchor,sent",
        ),
        ("a.csv", "anchor,sentence\non,it is on\nleft,left, right\n", "line 3: the number of columns differs"),
        ("a.csv", "anchor,sentence,contrast\non,it is on,maybe\n", "line 2: contrast='maybe'"),
        (
            "a.csv",
            "anchor,sentence,Contrast\non,it is on,1\n",
            "line 2: unknown key 'Contrast': did you mean 'contrast'?",
        ),
        ("a.jsonl", '{"anchor": "a", "sentence": "a b", "contarst": true}', "line 1: unknown key 'contarst'"),
        ("a.csv", "anchor,sentence\n", "has no pair"),
        ("a b.csv", "anchor,sentence\non,it is on\n", "the concept's name 'a b' also names a folder"),
        ("a.txt", "It is on.\n", "expected a file that ends in .yaml, .jsonl or .csv, with an anchor for each"),
        ("a.yaml", "name: a\npairs:\n  - on: it is on\n - x", "line 4"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        concepts.load(concept_file(tmp_path / name, text))
    assert expected in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\npairs:\n - just a sentence", "line 3: expected one 'anchor: sentence'"),
        ("name: x\npairs:\n - left: a left b\n - on: a on b", "line 4: put quotes around 'on'"),
        ("name: ../x\npairs: []", "names a folder"),
        ("pairs: []", "'name:' is missing"),
        ("name: x", "'pairs:' is missing"),
        (
            "name: x\npairs:\n - a: a b\ncontrasts:\n - c: c d",
            "line 4: unknown key 'contrasts': did you mean",
        ),
        ("name: x\npairs:\n - left: a left b\n - cold:", "line 4: the sentence of 'cold' is missing"),
        ("a: [", "line 1: not valid YAML"),
    ],
)
def test_a_damaged_concept_file_is_refused_with_the_place(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        concepts.load(path)


@pytest.mark.parametrize(
    ("anchor", "sentence", "found"),
    [
        ("left", "Left of the left-hand door, leftmost", [(0, 4), (12, 16)]),
        ("猫", "猫在桌子上，那只猫", [(0, 1), (8, 9)]),
        ("左", "それは左にある", [(3, 4)]),
        ("手机", "iPhone手机在这里", [(6, 8)]),
        ("AI", "用AI画画, not PAID", [(1, 3)]),
        ("แมว", "ฉันมีแมวหนึ่งตัว", [(5, 8)]),
        ("is", "it is 这is", [(3, 5), (7, 9)]),
        ("ซ้าย", "ที่ซ้ายของมัน", [(3, 7)]),
        ("ที", "ที่ซ้าย", []),
        ("कम", "कमरा, कमी, काम, कम", [(16, 18)]),
        ("दर", "सुदर दर", [(5, 7)]),
        ("नीचे", "मेज़ के नीचे है", [(8, 12)]),
        ("café", "Le cafe\u0301, le cafe", [(3, 8)]),
        ("cafe\u0301", "Le Café", [(3, 7)]),
        ("cafe", "un cafe\u0301", []),
        ("❤", "my ❤\ufe0f", [(3, 4)]),
        (" left ", "the left door", [(4, 8)]),
        ("", "nothing", []),
        (" ", "nothing here", []),
    ],
)
def test_an_anchor_is_a_whole_word_where_spaces_part_words(
    anchor: str, sentence: str, found: list[tuple[int, int]]
) -> None:
    assert Pair(anchor, sentence).spans == found


def test_a_column_of_the_user_s_own_is_left_alone(tmp_path: Path) -> None:
    path = concept_file(tmp_path / "a.csv", "anchor,sentence,source\non,it is on,a book\n")
    assert concepts.load(path).pairs == (Pair("on", "it is on"),)


def test_repeated_sentences_are_found_in_pairs_and_contrast() -> None:
    left, other = Pair("left", "It is left of it."), Pair("it", "It is left of it.")
    concept = concepts.Concept("x", "", (left, other, Pair("Left", "it is left  of it.")), (left, other, left, left))
    assert concept.repeated == [(2, 0), (5, 3), (6, 3)]
    assert not any(shipped.repeated for shipped in concepts.shipped())


def test_eight_concepts_ship_with_twenty_sentences_or_more_and_varied_anchors() -> None:
    names = "spatial counting attribute entity action temporal comparison negation".split()
    for name in names:
        concept = concepts.load(name)
        assert len({pair.sentence for pair in concept.pairs}) == len(concept.pairs) >= 20
        assert len({pair.anchor for pair in concept.pairs}) >= 8


def test_a_file_of_the_name_is_named_where_no_concept_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shade.csv").touch()
    with pytest.raises(UserError, match="unknown concept 'shade': for the sentences in shade.csv give its whole name"):
        concepts.load("shade")
