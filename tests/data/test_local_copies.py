"""Local copies: where tasks find them, interrupted imports, damage, manifests of earlier versions."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer.data import local_copy
from lmms_steer.data.importing import import_release
from lmms_steer.data.local_copy import check_copies
from lmms_steer.data.source import Manifest, find_source, read_manifest
from lmms_steer.harness.tasks import load_task


def test_without_a_copy_tasks_read_the_hub_or_name_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMMS_STEER_DATA", raising=False)
    assert find_source("blink/Counting", "val", "BLINK-Benchmark/BLINK", "Counting").name == "Counting"
    with pytest.raises(UserError, match="clevr is not on the Hub: set LMMS_STEER_DATA=DIR"):
        find_source("clevr", "val", None)
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path))
    assert find_source("blink/Counting", "val", "BLINK-Benchmark/BLINK", "Counting").path == "BLINK-Benchmark/BLINK"
    (tmp_path / "cvbench").mkdir()
    with pytest.raises(UserError, match="holds no finished copy of cvbench"):
        find_source("cvbench", "test", "nyu-visionx/CV-Bench")


def test_an_import_that_was_killed_with_a_limit_continues_with_every_row(
    release: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(local_copy.LocalCopy, "finish", lambda _: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            list(import_release("clevr", release["clevr"], tmp_path, limit=3))
    list(import_release("clevr", release["clevr"], tmp_path))
    manifest = read_manifest(tmp_path / "clevr")
    (name,) = manifest.files["val"]
    assert pq.read_metadata(tmp_path / "clevr" / name).num_rows == manifest.rows["val"] == 12


def test_a_manifest_changes_with_the_rows(tmp_path: Path) -> None:
    schema = pa.schema({"question": pa.string()})
    manifests = []
    for text in ("one", "two"):
        copy = local_copy.LocalCopy(tmp_path / "copy", [])
        list(copy.write("val", [{"question": text}], schema))
        manifests.append((copy.finish() / "manifest.json").read_bytes())
    assert manifests[0] != manifests[1]


def test_copy_without_the_split_is_an_error(data: Path) -> None:
    assert find_source("clevr_count", "train", None).path == "parquet"
    with pytest.raises(UserError, match="clevr_count' has no split 'val': import clevr_count again"):
        find_source("clevr_count", "val", None)


def test_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    content = {"rows": {"val": 3}, "files": {"val": ["val-00000.parquet"]}, "columns": ["question"]}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path) == Manifest({"val": 3}, {"val": ["val-00000.parquet"]})


def test_killed_import_continues_and_its_copy_does_not_count_as_finished(
    release: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_copy, "ROWS_PER_PART", 5)
    written: list[str] = []
    write_table = pq.write_table

    def killed_at_third_part(table: Any, path: Any, **options: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(str(path))
        write_table(table, path, **options)

    monkeypatch.setattr(pq, "write_table", killed_at_third_part)
    with pytest.raises(KeyboardInterrupt):
        list(import_release("clevr", release["clevr"], tmp_path))
    assert not (tmp_path / "clevr").exists()
    assert [line for intact, line in check_copies(tmp_path) if not intact] == [
        "clevr: an import was not finished, run it again"
    ]
    written_again: list[str] = []

    def recorded(table: Any, path: Any, **options: Any) -> None:
        written_again.append(str(path))
        write_table(table, path, **options)

    monkeypatch.setattr(pq, "write_table", recorded)
    (line,) = import_release("clevr", release["clevr"], tmp_path)
    assert len(written_again) == 1 and len(written) == 2
    warning = "; WARNING: not the whole release: a score on it is no score on the benchmark"
    assert line.endswith(warning)
    assert any(line == f"clevr: val 12 of 149991 rows{warning}" for _, line in check_copies(tmp_path))


def test_unwritable_folder_is_an_error(release: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        list(import_release("clevr", release["clevr"], tmp_path / "file"))


def test_a_damaged_copy_ends_an_evaluation_before_the_first_question(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(copies, tmp_path / "copy")
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path / "copy"))
    next((tmp_path / "copy/whatsup_a/images").rglob("*.*")).unlink()
    (clevr,) = (tmp_path / "copy/clevr").glob("*.parquet")
    clevr.write_bytes(clevr.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"whatsup_a/images/.*' is missing: import whatsup_a again"):
        load_task("whatsup_a", "steered_hf")
    with pytest.raises(UserError, match=r"clevr/.*parquet' is missing or damaged: import clevr again"):
        load_task("clevr", "steered_hf")


def test_damaged_copies_are_reported(copies: Path, tmp_path: Path) -> None:
    shutil.copytree(copies, tmp_path / "copy")
    assert all(intact for intact, _ in check_copies(tmp_path / "copy"))
    next((tmp_path / "copy/clevr/images").iterdir()).unlink()
    next((tmp_path / "copy/superclevr/images").iterdir()).write_bytes(b"")
    (tmp_path / "copy/whatsup_a/manifest.json").write_text("{")
    photo = next((tmp_path / "copy/whatsup_b/images").rglob("*.*"))
    cut = photo.read_bytes()[:-200]
    photo.unlink()
    photo.write_bytes(cut)
    (path,) = (tmp_path / "copy/vqav2").glob("*.parquet")
    content = path.read_bytes()
    # the footer is at the end, and stays whole
    path.write_bytes(content[:500] + bytes(len(content) // 2 - 500) + content[len(content) // 2 :])
    clevr, superclevr, vqav2, whatsup, whatsup_b = [
        line for intact, line in check_copies(tmp_path / "copy") if not intact
    ]
    assert clevr.startswith("clevr: the image ") and clevr.endswith(" is missing: import it again")
    assert whatsup_b.startswith("whatsup_b: the image ") and " is damaged: " in whatsup_b
    assert superclevr.startswith("superclevr: the image ") and superclevr.endswith(" is empty: import it again")
    assert vqav2 == "vqav2: validation-00000.parquet has changed since it was imported: import it again"
    assert whatsup.startswith("whatsup_a: ") and whatsup.endswith(" is damaged: import it again")
    manifest = tmp_path / "copy/vqav2/manifest.json"
    earlier = {name: value for name, value in json.loads(manifest.read_text()).items() if name != "sha256"}
    manifest.write_text(json.dumps(earlier))
    assert any(line.startswith("vqav2: validation ") for intact, line in check_copies(tmp_path / "copy") if intact)
