"""Import of official releases: damaged ones, image names that lead out of the release, large files."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from lmms_steer import UserError
from lmms_steer.data.benchmarks.clevr import read_questions
from lmms_steer.data.importing import import_release
from lmms_steer.data.local_copy import check_copies
from lmms_steer.data.source import read_manifest

CVBENCH = "test-00000-of-00001.parquet"
QUESTIONS = "questions/CLEVR_val_questions.json"


def copied(release: Path, target: Path) -> Path:
    shutil.copytree(release, target)
    return target


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def rename_choices(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.rename_columns([{"choices": "options"}.get(name, name) for name in table.column_names]), path)


def change_row(path: Path, **values: Any) -> None:
    """Change the eighth row of a parquet file."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[7].update(values)
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)


def cut_image(path: Path) -> None:
    """Cut the image in the eighth row of a parquet file to two thirds."""
    image = pq.read_table(path).to_pylist()[7]["image"]
    change_row(path, image={**image, "bytes": image["bytes"][: len(image["bytes"]) * 2 // 3]})


DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "clevr",
        lambda folder: (folder / "images/val/CLEVR_val_000001.png").unlink(),
        "CLEVR_val_000001.png', which is not in the release",
    ),
    (
        "clevr",
        lambda folder: truncate(folder / QUESTIONS),
        r"CLEVR_val_questions.json' is cut off or not JSON after question \d",
    ),
    (
        "clevr",
        lambda folder: (folder / "images/val/CLEVR_val_000001.png").write_bytes(b""),
        "the image '.*CLEVR_val_000001.png' is empty",
    ),
    (
        "clevr",
        lambda folder: truncate(folder / "images/val/CLEVR_val_000001.png"),
        "the image '.*CLEVR_val_000001.png' is damaged: ",
    ),
    ("cvbench", lambda folder: cut_image(folder / CVBENCH), "row 8: the image in 'image' is damaged: "),
    ("clevr", lambda folder: (folder / QUESTIONS).unlink(), "holds no CLEVR_val_questions.json"),
    (
        "whatsup",
        lambda folder: truncate(folder / "controlled_images_dataset.json"),
        r"is cut off or not JSON after record \d",
    ),
    (
        "cvbench",
        lambda folder: change_row(folder / CVBENCH, image=None),
        "test-00000-of-00001.parquet', row 8: there is no image in 'image'",
    ),
    (
        "cvbench",
        lambda folder: change_row(folder / CVBENCH, image={"bytes": None, "path": "img/2D/count/8.png"}),
        "row 8: there is no image in 'image'",
    ),
    ("cvbench", lambda folder: change_row(folder / CVBENCH, choices=None), "row 8: the answer '.*' is not the letter"),
    (
        "blink",
        lambda folder: change_row(folder / "Jigsaw/val-00000-of-00001.parquet", image_1=None),
        "row 8: there is no image in 'image_1'",
    ),
    (
        "blink",
        lambda folder: change_row(folder / "Jigsaw/val-00000-of-00001.parquet", image_2={"bytes": None, "path": "x"}),
        "row 8: there is no image in 'image_2'",
    ),
    (
        "blink",
        lambda folder: change_row(folder / "Jigsaw/val-00000-of-00001.parquet", image_3={"bytes": b"x", "path": None}),
        "row 8: the image in 'image_3' is not in a known image format",
    ),
    (
        "clevr_count",
        lambda folder: change_row(folder / "data/train-00000-of-00001.parquet", images=[]),
        "row 8: there is no image in 'images'",
    ),
    (
        "clevr_count",
        lambda folder: change_row(folder / "data/train-00000-of-00001.parquet", answer="several"),
        "row 8: the answer 'several' is not a number",
    ),
    ("cvbench", lambda folder: rename_choices(folder / CVBENCH), "has no column 'choices'; it has"),
    (
        "cvbench",
        lambda folder: change_row(folder / CVBENCH, answer="(F)"),
        r"row 8: the answer '\(F\)' is not the letter of one of its \d choices",
    ),
    (
        "blink",
        lambda folder: change_row(folder / "Counting/val-00000-of-00001.parquet", choices=["a"] * 4),
        "row 8: the correct choice 'a' appears more than once",
    ),
    ("cvbench", lambda folder: truncate(folder / CVBENCH), "is cut off or not a parquet file"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_release_is_named_by_file_and_row_and_leaves_no_copy(
    release: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    # as lmms-eval sets it when it is imported
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    root = tmp_path / "data"
    folder = copied(release[name], tmp_path / "release")
    damage(folder)
    with pytest.raises(UserError, match=message):
        list(import_release(name, folder, root))
    assert not list(root.glob(f"{name}*/manifest.json"))


def numbered_parts(release: Path, target: Path, split: str, numbers: list[int], total: int) -> Path:
    """A release that has the file of a split under these numbers only."""
    folder = copied(release, target)
    (part,) = folder.rglob(f"{split}-00000-of-00001.parquet")
    for number in numbers:
        shutil.copy(part, part.with_name(f"{split}-{number:05d}-of-{total:05d}.parquet"))
    part.unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "split", "numbers", "total", "message"),
    [
        ("vqav2", "validation", [1], 68, "lacks 67 of 68 files, the first of them validation-00000-of-00068.parquet"),
        ("docvqa", "validation", [0, 1, 2, 4, 5], 6, "lacks 1 of 6 files, the first .* validation-00003-of-00006"),
        ("coco_captions", "val", [0], 2, "lacks 1 of 2 files, the first of them val-00001-of-00002.parquet"),
        ("cvbench", "test", [1], 2, "lacks 1 of 2 files, the first of them test-00000-of-00002.parquet"),
        ("blink", "val", [0], 2, "lacks 1 of 2 files, the first of them val-00001-of-00002.parquet"),
        ("clevr_count", "test", [0], 2, "lacks 1 of 2 files, the first of them test-00001-of-00002.parquet"),
        ("clevr_count", "train", [5], 21, "lacks train-00000-of-00021.parquet"),
    ],
)
def test_a_release_without_some_of_its_numbered_files_is_refused(
    release: dict[str, Path], tmp_path: Path, name: str, split: str, numbers: list[int], total: int, message: str
) -> None:
    source = release[name] / "Counting" if name == "blink" else release[name]
    target = tmp_path / "release"
    numbered_parts(source, target / "Counting" if name == "blink" else target, split, numbers, total)
    with pytest.raises(UserError, match=message):
        list(import_release(name, target, tmp_path / "data"))
    assert not list(tmp_path.glob("data/**/manifest.json"))


def test_the_first_file_of_the_training_questions_is_enough(release: dict[str, Path], tmp_path: Path) -> None:
    """The paper's are the first 500; what follows a file that is missing is not taken for what follows the first."""
    folder = numbered_parts(release["clevr_count"], tmp_path / "release", "train", [0, 2], 21)
    list(import_release("clevr_count", folder, tmp_path / "data"))
    assert read_manifest(tmp_path / "data/clevr_count").rows["train"] == 12 + 150


def test_unknown_benchmark_and_missing_folder_are_errors(release: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown benchmark 'clevrr': did you mean 'clevr'"):
        list(import_release("clevrr", release["clevr"], tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        list(import_release("clevr", tmp_path / "nothing", tmp_path))


def test_a_release_in_the_place_of_its_copy_is_left_alone(release: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(release["cvbench"], tmp_path / "cvbench")
    files = sorted(folder.rglob("*"))
    for place in (folder, folder / "test"):
        place.mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is where the copy goes: move the release to another folder"):
            list(import_release("cvbench", place, tmp_path))
    with pytest.raises(UserError, match="is not an imported copy: move it away"):
        list(import_release("cvbench", release["cvbench"], tmp_path))
    assert set(files) <= set(folder.rglob("*"))


def test_images_that_are_relative_links_are_in_the_copy(release: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(release["clevr"], tmp_path / "clevr_release")
    (folder / "images/val").rename(folder / "pictures")
    (folder / "images/val").mkdir()
    for picture in (folder / "pictures").iterdir():
        (folder / "images/val" / picture.name).symlink_to(Path("../../pictures") / picture.name)
    root = tmp_path / "data"
    list(import_release("clevr", folder, root))
    assert any(line.startswith("clevr: val 12") for is_intact, line in check_copies(root) if is_intact)


@pytest.mark.parametrize(
    ("given", "images"),
    [(".", "data/images"), (".", "data/trainval2017"), (".", "images"), ("data", "data/images")],
)
def test_vsr_is_imported_as_its_repository_lays_it_out(tmp_path: Path, given: str, images: str) -> None:
    row: dict[str, Any] = {
        "image": "000000050403.jpg",
        "caption": "The cat is under the sink.",
        "label": 1,
        "relation": "under",
    }
    for split in ("random", "zeroshot"):
        folder = tmp_path / "release/data/splits" / split
        folder.mkdir(parents=True)
        for part in ("train", "test"):
            (folder / f"{part}.jsonl").write_text(json.dumps(row) + "\n")
    picture = tmp_path / "release" / images / row["image"]
    picture.parent.mkdir()
    Image.new("RGB", (4, 3)).save(picture)
    list(import_release("vsr", tmp_path / "release" / given, tmp_path / "copies"))
    assert (tmp_path / "copies/vsr_random/images/000000050403.jpg").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        *("../../../up/evil.png", "val/../../../../evil.png", "{out}/evil.png", "/{out}/evil.png", ".."),
        *("..\\..\\evil.png", "\\\\host\\share\\evil.png", "C:evil.png"),
    ],
)
@pytest.mark.parametrize(
    ("benchmark", "json_file", "field"),
    [
        ("clevr", QUESTIONS, "image_filename"),
        ("superclevr", "superCLEVR_questions_30k.json", "image_filename"),
        ("whatsup", "controlled_images_dataset.json", "image_path"),
    ],
)
def test_image_name_does_not_lead_out_of_release_or_copy(
    release: dict[str, Path], tmp_path: Path, name: str, benchmark: str, json_file: str, field: str
) -> None:
    folder, out = copied(release[benchmark], tmp_path / "release"), tmp_path / "out"
    # so that the file exists at the end of the path, and at the whole path
    for place in (folder / "images/val", folder / "images", folder / "controlled_images", out):
        place.mkdir(parents=True, exist_ok=True)
        (place / "evil.png").write_bytes(b"x")
    path = folder / json_file
    content = json.loads(path.read_text())
    (content if isinstance(content, list) else content["questions"])[-1][field] = name.format(out=out)
    path.write_text(json.dumps(content))
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    root = tmp_path / "a/b/c/d/data"
    with pytest.raises(UserError, match=rf"{path.name}', (question|record) \d+: the image .* without '\.\.'$"):
        list(import_release(benchmark, folder, root))
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file() and root not in p.parents) == before
    assert not list(root.rglob("evil*"))


@pytest.mark.parametrize("field", ["image_index", "question_family_index", "question_index"])
def test_index_that_is_not_an_integer_is_an_error(release: dict[str, Path], tmp_path: Path, field: str) -> None:
    folder = copied(release["clevr"], tmp_path / "release")
    path = folder / QUESTIONS
    content = json.loads(path.read_text())
    content["questions"][0][field] = "first"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"question 1: the {field} 'first' is not an integer$"):
        list(import_release("clevr", folder, tmp_path / "data"))


@pytest.mark.parametrize("captions", [["a", "b", "c"], ["a", "b", "c", "a"], ["a", "b", "c", 4], ["a", "b", "c", {}]])
def test_anything_but_four_different_captions_is_an_error(
    release: dict[str, Path], tmp_path: Path, captions: list[Any]
) -> None:
    folder = copied(release["whatsup"], tmp_path / "release")
    path = folder / "controlled_images_dataset.json"
    records = json.loads(path.read_text())
    records[2]["caption_options"] = captions
    path.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"record 3: expected four different captions, got \['a', 'b', 'c'.*\]$"):
        list(import_release("whatsup", folder, tmp_path / "data"))


def test_superclevr_keeps_test_images_only_and_distinguishes_kinds(copies: Path) -> None:
    rows = pq.read_table(copies / "superclevr/test-00000.parquet").to_pylist()
    assert len(rows) == 12 and all("_025" in row["image_path"] for row in rows)
    assert {row["kind"] for row in rows} == {"count", "exist", "query"}
    assert {row["answer"] for row in rows if row["kind"] == "exist"} <= {"yes", "no"}


def test_a_family_of_superclevr_is_a_template_of_a_file(tmp_path: Path) -> None:
    templates = [("one_hop.json", 0), ("same_relate.json", 0), ("one_hop.json", 1), ("one_hop.json", 0)]
    common = {"image_filename": "a.png", "image_index": 25000, "question": "How many?", "answer": 3}
    questions = [{**common, "template_filename": file, "question_family_index": n} for file, n in templates]
    path = tmp_path / "superCLEVR_questions_30k.json"
    path.write_text(json.dumps({"questions": questions}))
    assert [question.family for question in read_questions(path)] == [0, 1, 2, 0]
    for question in questions:
        del question["template_filename"]
    path.write_text(json.dumps({"questions": questions}))
    assert [question.family for question in read_questions(path)] == [0, 0, 1, 0], "CLEVR counts over all files"


@pytest.mark.slow
def test_ten_thousand_questions_are_imported(tmp_path: Path) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (4, 3)).save(picture, "PNG")
    program = [{"function": "scene", "inputs": []}] * 12 + [{"function": "count", "inputs": [11]}]
    questions = []
    for number in range(10_000):
        image = f"CLEVR_val_{number // 10:06d}.png"
        questions.append(
            {
                "image_filename": image,
                "image_index": number // 10,
                "question": "How many?",
                "answer": "3",
                "program": program,
            }
        )
        if number % 10 == 0:
            (tmp_path / "images/val" / image).write_bytes(picture.getvalue())
    (tmp_path / "CLEVR_val_questions.json").write_text(json.dumps({"info": {}, "questions": questions}))
    list(import_release("clevr", tmp_path, tmp_path / "data"))
    assert any("clevr: val 10000 of" in line for _, line in check_copies(tmp_path / "data"))
