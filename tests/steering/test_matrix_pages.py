"""The pages of architectures say what the matrices measured, and are what the matrices write."""

import re

from tests.helpers.documents import ROOT
from tests.helpers.outcomes import Rows, read_sections, sections
from tests.media_matrix import COLUMNS as MEDIA_COLUMNS
from tests.media_matrix import END_OF_PAGE, START_OF_PAGE, table
from tests.support_matrix import COLUMNS, page

COLUMNS_OF_TOYS = ("image", "text", "replay")
TOYS: Rows = {
    "alpha": {"image": "exact", "text": "exact", "replay": "exact"},
    "beta": {"image": "exact", "text": "exact", "replay": "hooks: it cannot be replayed"},
    "gamma": {"all": "refused: it reads proteins"},
    "delta": {"image": "", "text": "exact", "replay": "exact"},
    "epsilon": {"image": "WRONG: off by 3", "text": "exact", "replay": "hooks: it cannot be replayed"},
    "zeta": {"all": "not made: ValueError: a | b"},
    "eta": {"image": "refused: tokens=image: it has no images", "text": "", "replay": ""},
}


def test_a_page_of_outcomes_counts_them_and_shows_only_the_exceptions_in_tables() -> None:
    text = "\n".join(sections(TOYS, COLUMNS_OF_TOYS))
    counts = [int(number) for number in re.findall(r"^\| [^|]+ \| (\d+) \|$", text, re.MULTILINE)]
    # steered, refused by the config, refused at each target, not tried, wrong
    assert counts == [4, 1, 1, 1, 1]
    assert text.index("## Refused") < text.index("## Exact") < text.index("## Exceptions")
    assert "Exact in every column:\n\nalpha\n" in text
    assert "Exact in every column but image, which they do not take:\n\ndelta\n" in text
    table = ["architecture | image | replay", "beta | exact | hooks (1)", "epsilon | WRONG (2) | hooks (1)"]
    assert [f"| {row} |" in text for row in table] == [True] * 3 and "| alpha" not in text
    assert text.endswith("1. it cannot be replayed\n2. off by 3")


def test_the_outcomes_can_be_read_back_from_a_page() -> None:
    read = read_sections(
        "\n".join(["# Title", "", *sections(TOYS, COLUMNS_OF_TOYS), "", "## More", ""]), COLUMNS_OF_TOYS
    )
    assert read == TOYS | {"zeta": {"all": "not made: ValueError: a / b"}}


def test_the_page_of_architectures_is_what_the_matrix_writes() -> None:
    text = (ROOT / "docs" / "support.md").read_text("utf-8")
    rows = read_sections(text, COLUMNS)
    version = re.search(r"in transformers ([\d.]+) was\nmade", text)
    assert version and len(rows) == 100
    assert page(rows, version[1]) == text


def test_the_lists_of_video_and_audio_are_what_the_matrix_writes() -> None:
    text = (ROOT / "docs" / "video-audio.md").read_text("utf-8")
    written = text[text.index(START_OF_PAGE) : text.index(END_OF_PAGE) + len(END_OF_PAGE)]
    rows = read_sections(written, MEDIA_COLUMNS, level="###")
    assert len(rows) == 60 and rows["qwen2_audio"]["video"] == "" and rows["qwen2_audio"]["audio"] == "exact"
    assert table(rows) == written
