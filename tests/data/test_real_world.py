"""ChartQA, DocVQA, VTabFact, VQAv2, COCO captions and VSR, from the rules of the paper's released code (ce1c0f0)."""

import io
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from lmms_steer import UserError
from lmms_steer.data.benchmarks.real_world import RELEASES, drawn, is_counting
from lmms_steer.data.importing import import_release
from lmms_steer.data.linked_images import linked_image
from lmms_steer.harness.task_files import tasks_dir

LETTERS = "Answer the multiple choice question by only responding the letter of the correct answer. "
CHART = "Answer the question based on the chart. Provide a concise answer. "
DOCUMENT = "Answer the question based on the document. Provide a concise answer. "
PHOTO = "Answer the question about the image. Provide a short, direct answer. "
YES_NO = "\n(A) Yes\n(B) No"


def chart(kind: int) -> Any:
    return ("chartqa/test", lambda row: row["human_or_machine"] == kind, CHART, lambda row: row["query"], 50)


def document(name: str) -> Any:
    return ("docvqa/validation", lambda row: name in row["question_types"], DOCUMENT, lambda row: row["question"], 100)


def everything(_: Any) -> bool:
    return True


def in_subset(row: dict[str, Any]) -> bool:
    """Whether a stand-in's question has one of the eight relations."""
    return bool(row["relation"] != "facing")


def vsr_question(row: dict[str, Any]) -> str:
    return f"Does the caption describe the image correctly?\n{row['caption']}{YES_NO}"


# task ▸ file of the copy, which rows, instruction, question, new tokens
TASKS: dict[str, Any] = {
    "steer_chartqa_human": chart(0),
    "steer_chartqa_machine": chart(1),
    "steer_docvqa_counting": document("form"),
    "steer_docvqa_layout": document("layout"),
    "vtabfact": ("vtabfact/vtabfact", everything, LETTERS, lambda row: row["question"] + YES_NO, 20),
    "steer_vqav2": ("vqav2/validation", everything, PHOTO, lambda row: row["question"], 30),
    "vsr_random": ("vsr_random/test", everything, LETTERS, vsr_question, 20),
    "vsr_zeroshot": ("vsr_zeroshot/test", everything, LETTERS, vsr_question, 20),
    "vsr_random_subset": ("vsr_random/train", in_subset, LETTERS, vsr_question, 20),
    "vsr_zeroshot_subset": ("vsr_zeroshot/train", in_subset, LETTERS, vsr_question, 20),
}


def loaded(names: list[str], model: str = "steered_paligemma") -> dict[str, Any]:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=[tasks_dir()], include_defaults=False, model_name=model)
    tasks: dict[str, Any] = manager.load_task_or_group(names, "simple")
    return tasks


@pytest.mark.slow
def test_prompts_and_splits_are_the_released_code_s(data: Path) -> None:
    tasks = loaded([f"{name}_{part}" for name in TASKS for part in ("select", "test", "test_prompted_paper")])
    for name, (file, of_kind, instruction, question, tokens) in TASKS.items():
        (path,) = data.glob(f"{file}-*.parquet")
        columns = [column for column in pq.read_schema(path).names if column != "image"]
        rows = [row for row in pq.read_table(path, columns=columns).to_pylist() if of_kind(row)]
        order = np.random.RandomState(42).permutation(len(rows)).tolist()
        for part, places in (("select", order[:150]), ("test", order[150:])):
            task = tasks[f"{name}_{part}"]
            prompts = [task.doc_to_text(doc) for doc in task.eval_docs_no_media]
            assert prompts == [f"answer en {instruction}{question(rows[place])}" for place in places], name
            assert task.config.generation_kwargs["max_new_tokens"] == tokens
            assert task.config.generation_kwargs["until"] == []
        prompted = tasks[f"{name}_test_prompted_paper"]
        text, asked = prompted.doc_to_text(prompted.eval_docs_no_media[0]), question(rows[order[150]])
        prefix = text.removeprefix(f"answer en {instruction}").removesuffix(asked)
        assert text == f"answer en {instruction}{prefix}{asked}" and prefix.endswith(". ")
        assert prefix.count(". ") == (2 if name == "vtabfact" else 1)


@pytest.mark.slow
def test_a_model_that_knows_the_answers_is_right(data: Path) -> None:
    for name, task in loaded([f"{name}_test" for name in TASKS]).items():
        doc = task.test_docs()[0]
        assert task.doc_to_visual(doc)[0].mode == "RGB"
        target = str(task.doc_to_target(doc))
        scores = task.process_results(doc, [target])
        assert (scores["acc"], scores["acc_paper"], scores["unparsed"]) == (1.0, 1.0, 0.0), name
        wrong = task.process_results(doc, [{"A": "B", "B": "A"}.get(target, "no such thing")])
        assert (wrong["acc"], wrong["acc_paper"]) == (0.0, 0.0), name
        assert task.process_results(doc, [""])["unparsed"] == 1.0


def test_rows_are_drawn_as_datasets_shuffles() -> None:
    from datasets import Dataset

    shuffled = Dataset.from_dict({"row": list(range(5000))}).shuffle(seed=42)
    assert drawn(5000) == shuffled.select(range(650))["row"][:]
    assert drawn(650) == list(range(650)), "a copy has the drawn rows already"


def test_the_first_550_of_a_kind_are_taken() -> None:
    kinds = {"human_or_machine": [0, 1] * 600}
    assert RELEASES["chartqa"].places(kinds, "machine") == list(range(1, 1100, 2))
    assert RELEASES["chartqa"].places(kinds) == list(range(1100))
    # the released code names it "table\list", which no row has
    assert [is_counting([name]) for name in ("form", "figure/diagram", "table/list", "layout")] == [1, 1, 0, 0]


def test_answers_in_words_score_as_their_benchmarks_do() -> None:
    utils = import_module("lmms_steer.tasks.real_world.utils")
    charts = {answer: utils.chart_results({"label": ["42"]}, [answer]) for answer in ("43", "47", "", "42\n\nor 50")}
    assert {answer: found["acc"] for answer, found in charts.items()} == {"43": 1, "47": 0, "": 0, "42\n\nor 50": 1}
    assert charts[""]["acc_paper"] == 1.0, "the released code's"
    found = utils.document_results({"answers": ["12 March", "March 12"]}, ["march 13"])
    assert found["acc"] == found["acc_paper"] == pytest.approx(1 - 1 / 8)
    # two of ten people: each of the others agrees with one or two
    people = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate("2233333333", 1)]
    found = utils.photo_results({"answers": people}, ["2"])
    assert found["acc"] == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10) and found["acc_paper"] == pytest.approx(2 / 3)
    assert [person["answer"] for person in people] == list("2233333333"), "the document is as it was"
    with pytest.raises(UserError, match="expected true or false, got 'maybe'"):
        utils.table_to_target({"gt": "maybe"})


def test_captions_are_scored_together() -> None:
    utils = import_module("lmms_steer.tasks.real_world.utils")
    docs = [
        {"answer": ["a red circle over a blue square", "red over blue"]},
        {"answer": ["two green crosses", "green"]},
    ]
    right = [utils.caption_results(doc, [doc["answer"][0]]) for doc in docs]
    swapped = [utils.caption_results(doc, [other["answer"][0]]) for doc, other in zip(docs, docs[::-1], strict=True)]
    assert [row["rouge_l"] for row in right] == [1.0, 1.0] and max(row["rouge_l"] for row in swapped) < 0.2
    assert utils.cider([row["cider"] for row in right]) > 1 > utils.cider([row["cider"] for row in swapped])
    assert utils.bleu_4([row["bleu_4"] for row in right]) == pytest.approx(1, abs=1e-6)


def test_a_linked_photograph_is_fetched_once_and_from_coco_only(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    picture = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(picture, "JPEG")
    content = picture.getvalue()
    answers = [content, b"<html>not found</html>", content[:-300]]

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(answers.pop(0))

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    link = "http://images.cocodataset.org/train2017/000000119360.jpg"
    assert linked_image(link).size == linked_image(link).size == (40, 30) and asked == [link]
    with pytest.raises(UserError, match="cannot fetch .*000000000001.jpg: .*; a release with its images"):
        linked_image("http://images.cocodataset.org/val2017/000000000001.jpg")
    # as lmms-eval sets it when it is imported
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match="what came is damaged: "):
        linked_image("http://images.cocodataset.org/val2017/000000000001.jpg")
    assert not list(own_cache.rglob("*000000000001*"))
    for other in ("http://example.org/train2017/000000119360.jpg", "file:///etc/passwd", f"{link}/../x"):
        with pytest.raises(UserError, match="is not to a photograph on images.cocodataset.org"):
            linked_image(other)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.jpg"', r"line 1: not JSON"),
        ('{"image": "a.jpg", "caption": "c", "relation": "on", "label": 2}', r"line 1: label: expected 0 or 1, got 2"),
        ('{"image": "../a.jpg", "caption": "c", "relation": "on", "label": 1}', r"expected a path inside the release"),
        ('{"image": "a.jpg", "caption": "c", "relation": "on", "label": 1}', r"names the image 'a.jpg', which is not"),
    ],
)
def test_a_bad_row_of_vsr_is_one_line(line: str, message: str, tmp_path: Path) -> None:
    for name in ("random", "zeroshot"):
        (tmp_path / "splits" / name).mkdir(parents=True)
        for split in ("test", "train"):
            (tmp_path / "splits" / name / f"{split}.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        list(import_release("vsr", tmp_path, tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("chartqa", {"label": []}, r"'label' is \[\]: expected a list that is not empty"),
        ("chartqa", {"label": [""]}, r"'label' is \[''\]: expected a list that is not empty"),
        ("chartqa", {"query": None}, "'query' holds None: expected a text"),
        ("vqav2", {"answers": None}, "'answers' is None: expected a list that is not empty"),
        ("coco_captions", {"answer": ["A cat.", None]}, "'answer' holds None: expected a text"),
        ("coco_captions", {"answer": ["", ""]}, r"'answer' is \['', ''\]: expected a list that is not empty"),
        ("vtabfact", {"gt": "entailed"}, "'gt' is 'entailed': expected one of true, yes, 1, false, no, 0"),
        (
            "vtabfact",
            {"image": {"bytes": b"no image", "path": None}},
            ".* is not in a known image format",
        ),
    ],
)
def test_a_row_that_could_not_be_scored_ends_the_import(
    name: str, values: dict[str, Any], message: str, tmp_path: Path, release: dict[str, Path]
) -> None:
    shutil.copytree(release[name], tmp_path / "release")
    (path,) = (tmp_path / "release").rglob(f"{RELEASES[name].split}-*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[2].update(values)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(UserError, match=f"00001.parquet', row 3: {message}"):
        list(import_release(name, tmp_path / "release", tmp_path / "copies"))
    assert not list(tmp_path.rglob("manifest.json"))


def test_one_empty_caption_of_five_is_no_reason_to_refuse_a_release() -> None:
    row = {"question_id": "1.jpg", "answer": ["A cat.", "", "A dog."]}
    assert RELEASES["coco_captions"].problem(row) == ""


def test_a_text_is_not_taken_for_a_list_of_letters(tmp_path: Path, release: dict[str, Path]) -> None:
    (path,) = release["chartqa"].rglob("test-*.parquet")
    rows = [{**row, "label": row["label"][0]} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / path.name)
    with pytest.raises(UserError, match=r"row 1: 'label' is '\d+': expected a list that is not empty"):
        list(import_release("chartqa", tmp_path, tmp_path / "copies"))


def test_another_configuration_of_docvqa_is_not_imported(tmp_path: Path, release: dict[str, Path]) -> None:
    (tmp_path / "DocVQA").symlink_to(release["docvqa"] / "DocVQA")
    (tmp_path / "InfographicVQA").mkdir()
    (tmp_path / "InfographicVQA/validation-00000-of-00001.parquet").write_bytes(b"of something else")
    assert len(list(import_release("docvqa", tmp_path, tmp_path / "copies"))) == 1


def test_an_import_keeps_only_the_rows_that_are_read(tmp_path: Path, release: dict[str, Path]) -> None:
    source = next(release["vqav2"].rglob("*.parquet"))
    table = pq.read_table(source)
    rows = table.slice(0, 1).to_pylist()[0]
    many = [{**rows, "question_id": number} for number in range(700)]
    import pyarrow as pa

    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(many, schema=table.schema), tmp_path / "data/validation-00000-of-00001.parquet")
    (folder,) = (Path(line.split(": ")[1]) for line in import_release("vqav2", tmp_path, tmp_path / "copies"))
    manifest = json.loads((folder / "manifest.json").read_text())
    stored = pq.read_table(folder / manifest["files"]["validation"][0], columns=["question_id"])["question_id"]
    assert stored.to_pylist() == drawn(700) and manifest["rows"] == {"validation": 650}
