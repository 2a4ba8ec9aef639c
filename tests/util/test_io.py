"""Damaged files are put aside under a name of their own, and a file in a folder's place is named."""

import logging
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer._util.io import put_aside, write_atomically, write_text


def test_a_damaged_file_is_renamed_with_one_warning_and_nothing_is_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plan.json"
    for content in ("first", "second"):
        path.write_text(content)
        put_aside(path, ValueError("line 1\nis cut"))
    # another process was faster
    put_aside(path, "gone")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.json.damaged", "plan.json.damaged-2"]
    assert (tmp_path / "plan.json.damaged").read_text() == "first"
    records = [(record.levelno, record.getMessage()) for record in caplog.records]
    expected = f"{str(path)!r} is damaged (line 1): put aside as "
    assert records == [(logging.WARNING, f"{expected}'plan.json.damaged{n}'") for n in ("", "-2")]


@pytest.mark.parametrize("below", ["page.html", "more/page.html"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below
    for write in (lambda: write_text("", path), lambda: write_atomically(path, b"")):
        with pytest.raises(UserError) as caught:
            write()
        assert str(caught.value) == f"cannot write {str(path)!r}: {str(tmp_path / 'file')!r} is not a folder"
    # other reasons stay the system's
    with pytest.raises(UserError, match="Is a directory"):
        write_text("", tmp_path)
