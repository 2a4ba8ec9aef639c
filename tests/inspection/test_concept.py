"""`concepts show`: anchors as the tokenizer splits them, and the same warnings and errors as `extract`."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.concepts import Pair
from lmms_steer.extraction.tokens import SentenceTokens, TokenSpan
from lmms_steer.inspection.concept import mark_anchors, show_concept


def concept_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_concept_is_shown_with_its_anchors_as_the_tokenizer_splits_them() -> None:
    assert mark_anchors(Pair("left", "Left of it, left.")) == "[Left] of it, [left]."
    assert "does not occur" in mark_anchors(Pair("up", "The lamp is left."))
    shown = list(show_concept("spatial", "tiny-gemma2"))
    assert "  The lamp stands to the [left] of the sofa." in shown and shown[-1] == "every anchor is one token"

    tokens = SentenceTokens(
        anchors=((TokenSpan(0, 2, 6), (1, 2)),), spans=((0, 2), (2, 4), (4, 6), (6, 8)), unknown=(2,)
    )
    assert mark_anchors(Pair("left", "a left b"), tokens, "<unk>") == "a [le|ft=<unk>] b"


def shown_and_extracted(path: Path, text: str) -> tuple[Result, Result]:
    file = str(concept_file(path / "mine.yaml", text))
    run = CliRunner().invoke
    return (
        run(app, ["concepts", "show", file, "--backbone", "tiny-gemma2"]),
        run(app, ["extract", "--concept", file, "--backbone", "tiny-gemma2", "--store", str(path / "store")]),
    )


def test_unknown_anchors_are_shown_with_the_warning_of_extract(tmp_path: Path) -> None:
    shown, extracted = shown_and_extracted(
        tmp_path, "name: mine\npairs:\n - bright: A bright zebra.\n - Dim: The lamp is dim.\n"
    )
    warning = (
        "WARNING: mine: tiny-gemma2 does not know zebra, dim;"
        " among them these anchors, which it cannot distinguish: dim"
    )
    assert warning in shown.output.splitlines() and warning in extracted.output.splitlines()
    assert "[dim=<unk>]" in shown.output and "2 sentences, 2 anchors" in shown.output
    assert "every anchor is one token" not in shown.output and shown.exit_code == extracted.exit_code == 0


def test_too_few_known_anchors_are_a_warning(tmp_path: Path) -> None:
    def text(known: int) -> str:
        rows = [" - left: It is left of the door.\n"] * known + [" - dim: The lamp is dim.\n"] * 3
        return f"name: mine\npairs:\n{''.join(rows)}"

    few = "WARNING: mine: {} that tiny-gemma2 knows, fewer than 10: "
    for known, counted in ((9, "9 anchors"), (1, "1 anchor")):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        for done in shown_and_extracted(tmp_path, text(known)):
            assert few.format(counted) in done.output and done.exit_code == 0
    shutil.rmtree(tmp_path / "store")
    for done in shown_and_extracted(tmp_path, text(10)):
        assert "fewer than" not in done.output and "WARNING: mine: tiny-gemma2 does not know dim" in done.output


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    file = str(concept_file(tmp_path / "mine.yaml", "name: mine\npairs:\n - left: it left\n"))
    done = CliRunner().invoke(app, ["extract", "--concept", file, "--backbone", "tiny-gemma2"])
    assert "tiny-gemma2/mine/mean_shift: 1 anchor, 1 control, 5 layers x 96 -> " in done.output
    listed = CliRunner().invoke(app, ["vectors", "list", "mine"]).output
    assert re.search(r"5 layers x 96 +1 anchor\n\n1 vector; yours", listed)


def test_an_anchor_that_is_not_in_its_sentence_is_not_counted(tmp_path: Path) -> None:
    shown, extracted = shown_and_extracted(
        tmp_path, "name: mine\npairs:\n - left: It is left of it.\n - up: The lamp is left.\n"
    )
    skipped = "skipped, mine sentence 2: 'up' is not in 'The lamp is left.'"
    assert skipped in shown.output.splitlines() and skipped in extracted.output.splitlines()
    counted = "1 of 2 sentences (left out: sentence 2: 'up' is not in 'The lamp is left.'), 1 anchor\n"
    assert counted in shown.output and "every anchor" not in shown.output
    assert shown.exit_code == extracted.exit_code == 0


def test_sentences_that_are_left_out_are_not_counted_without_a_tokenizer_either(tmp_path: Path) -> None:
    text = "name: mine\npairs:\n - left: It is left.\n - up: It is left.\n - up: It is on.\n"
    (heading,) = (
        line for line in show_concept(str(concept_file(tmp_path / "mine.yaml", text)), None) if "of 3" in line
    )
    assert heading == "\n1 of 3 sentences (left out: sentence 2: 'up' is not in it; and 1 more, marked below), 1 anchor"


def test_the_sentences_of_a_contrast_are_numbered_as_its_own(tmp_path: Path) -> None:
    rows = "pairs:\n - left: It is left.\ncontrast:\n - up: It is over.\n - over: It is over.\n - over: It is over.\n"
    for done in shown_and_extracted(tmp_path, f"name: mine\n{rows}"):
        assert "skipped, mine contrast sentence 1: 'up' is not in 'It is over.'" in done.output
        assert "the first: contrast sentence 3 is contrast sentence 2, 'It is over.'" in done.output


def test_sentences_given_twice_are_one_warning(tmp_path: Path) -> None:
    rows = " - left: It is left of the lamp.\n - left: It is  LEFT of the lamp.\n - lamp: It is left of the lamp.\n"
    shown, extracted = shown_and_extracted(tmp_path, f"name: mine\npairs:\n{rows} - left: It is left of the lamp.\n")
    warning = (
        "WARNING: mine: 2 sentences given before, which count more than the others; the first: sentence 2 is"
        " sentence 1, 'It is  LEFT of the lamp.'"
    )
    for done in (shown, extracted):
        assert warning in done.output.splitlines() and done.output.count("given before") == 1 and done.exit_code == 0


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (" - up: The lamp is left.\n", "no sentence contains its anchor"),
        (" - left: left\n", "contain only anchors"),
        (" - left: It is left.\ncontrast:\n - up: It is left.\n", "no contrast sentence contains its anchor"),
    ],
)
def test_a_concept_that_extract_refuses_is_refused_after_its_sentences(
    tmp_path: Path, pairs: str, expected: str
) -> None:
    shown, extracted = shown_and_extracted(tmp_path, f"name: mine\npairs:\n{pairs}")
    assert isinstance(shown.exception, UserError) and expected in str(shown.exception)
    assert str(shown.exception) == str(extracted.exception) and "1 sentence" in shown.output
