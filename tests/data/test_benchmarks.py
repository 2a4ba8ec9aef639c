"""The five benchmarks from their official formats to a score: import, tasks, lmms-eval, a model that knows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from lmms_steer import UserError
from lmms_steer.data import generated, importing
from lmms_steer.data.local_copy import check_copies
from lmms_steer.data.source import find_source
from lmms_steer.harness.task_files import tasks_dir

FOLDERS = ("cvbench", "whatsup", "blink", "clevr")
SUFFIXES = ("_ll", "_prompted")
BIN = Path(sys.executable).parent


def tasks(suffix: str = "") -> list[str]:
    """Every single task of the five benchmarks, plain or of a variant."""
    names = []
    for folder in FOLDERS:
        for path in sorted((Path(tasks_dir()) / folder).glob("*.yaml")):
            name = path.stem
            variant = next((s for s in SUFFIXES if name.endswith(s)), "")
            if variant == suffix and "group:" not in path.read_text():
                names.append(name)
    return names


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return generated.write_stand_ins(tmp_path_factory.mktemp("release"), questions=12)


@pytest.fixture(scope="session")
def copies(release: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, folder in release.items():
        list(importing.import_release(name, folder, root))
    return root


@pytest.fixture
def data(copies: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMMS_STEER_DATA", str(copies))
    return copies


class Known(lmms):
    """Answers by looking at the target: `say` gets it and gives the answer."""

    is_simple = True

    def __init__(self, say: Any, losses: Any) -> None:
        super().__init__()
        self.say, self.losses, self.seen = say, losses, 0
        self.tasks: dict[str, Any] = {}

    def generate_until(self, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            _, _, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            pictures = visual(doc)
            assert pictures and all(picture.mode == "RGB" for picture in pictures)
            self.seen += 1
            answers.append(GenerationResult(self.say(str(self.tasks[task].doc_to_target(doc)))))
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            _, choice, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            assert visual(doc)
            choices = self.tasks[task].doc_to_choice(doc)
            said = choice(doc) if callable(choice) else choice
            hit = choices.index(str(said).strip()) == self.tasks[task].doc_to_target(doc)
            answers.append(GenerationResult((self.losses[hit], hit)))
        return answers

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def clean(self) -> None:
        pass


@pytest.fixture(scope="session")
def manager() -> Any:
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=[tasks_dir()], include_defaults=False)


def flat(loaded: dict[Any, Any]) -> dict[str, Any]:
    """Name ▸ task, of groups in groups."""
    found = {}
    for name, value in loaded.items():
        found.update(flat(value) if isinstance(value, dict) else {name: value})
    return found


def run(manager: Any, names: list[str], say: Any = None, losses: Any = None) -> dict[str, dict[str, float]]:
    from lmms_eval.evaluator import simple_evaluate

    model = Known(say, losses)
    loaded = manager.load_task_or_group(names, "simple")
    model.tasks = flat(loaded)
    results = simple_evaluate(
        model=model, tasks=names, task_manager=manager, batch_size=1, log_samples=False, bootstrap_iters=0
    )
    return {name: {k.split(",")[0]: v for k, v in found.items()} for name, found in results["results"].items()}


def test_an_oracle_scores_one_on_every_task_and_a_wrong_model_nothing(data: Path, manager: Any) -> None:
    names = tasks()
    assert len(names) == 12 + 2 + 14 + 4
    for answer, expected in ((lambda right: right, 1.0), (lambda right: "", 0.0)):
        results = run(manager, names, answer)
        assert {name: results[name]["acc"] for name in names} == dict.fromkeys(names, expected)
        assert {results[name]["unparsed"] for name in names} == {1 - expected}
    assert {results[name]["acc_paper"] for name in names if "acc_paper" in results[name]} == {0.0}
    results = run(manager, names, wrong)
    assert {name: results[name]["acc"] for name in names} == dict.fromkeys(names, 0.0)
    assert {results[name]["unparsed"] for name in names} == {0.0}


def wrong(right: str) -> str:
    """Another answer of the same kind."""
    others = {"A": "B", "yes": "no", "no": "yes", "rubber": "metal", "metal": "rubber"}
    return str(int(right) + 1) if right.isdecimal() else others.get(right, "A" if len(right) == 1 else "no such thing")


def test_the_letters_log_likelihoods_are_scored_directly(data: Path, manager: Any) -> None:
    names = tasks("_ll")
    for losses, expected in (({True: 0.5, False: 2.0}, 1.0), ({True: 2.0, False: 0.5}, 0.0)):
        results = run(manager, names, losses=losses)
        assert {name: results[name]["acc"] for name in names} == dict.fromkeys(names, expected)


def test_a_constant_letter_scores_its_share_and_groups_follow(data: Path, manager: Any) -> None:
    results = run(manager, ["cvbench", "steer_blink", "whatsup_a", "whatsup_b"], lambda right: "A")
    stored = pq.read_table(data / "cvbench/test-00000.parquet").to_pylist()
    official = 0.0
    for name, weight in (("ADE20K", 0.25), ("COCO", 0.25), ("Omni3D", 0.5)):
        official += weight * np.mean([row["answer"] == "(A)" for row in stored if row["source"] == name])
    for task in ("Count", "Relation", "Depth", "Distance"):
        share = np.mean([row["answer"] == "(A)" for row in stored if row["task"] == task])
        assert results[f"cvbench_{task.lower()}"]["acc"] == pytest.approx(share)
    assert results["cvbench"]["official"] == pytest.approx(official)
    assert results["cvbench"]["acc"] == pytest.approx(np.mean([row["answer"] == "(A)" for row in stored]))
    # the right caption stands first in the release and is rotated: each letter is right once in four
    assert results["whatsup_a"]["acc"] == results["whatsup_b"]["acc"] == 0.25
    assert results["whatsup_a"]["pair_acc"] == results["whatsup_a"]["set_acc"] == 0.0


def test_pairs_and_sets_are_all_or_nothing() -> None:
    sys.path.insert(0, str(Path(tasks_dir()) / "whatsup"))
    try:
        import importlib.util

        spec = importlib.util.spec_from_file_location("whatsup_utils", Path(tasks_dir()) / "whatsup" / "utils.py")
        utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(utils)
    finally:
        sys.path.pop(0)
    captions = [f"A mug {phrase} a table" for phrase in ("on", "under", "to the left of", "to the right of")]
    rows = [
        utils.process_results({"captions": captions, "right": "ABCD"[i]}, ["ABCD"[i] if i else "B"]) for i in range(4)
    ]
    assert utils.pairs([row["pair_acc"] for row in rows]) == 0.5
    assert utils.sets([row["set_acc"] for row in rows]) == 0.0
    assert utils.sets([row["set_acc"] for row in rows[:3]]) != utils.sets([row["set_acc"] for row in rows[:3]])


@pytest.mark.parametrize("count", [600, 650, 788])
def test_the_paper_s_split(count: int) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("cvbench_utils", Path(tasks_dir()) / "cvbench" / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    select, test = utils.split(count, "select"), utils.split(count, "test")
    assert len(test) == 150 and not set(select) & set(test) and len(select) + 150 == count
    assert test == np.random.RandomState(42).permutation(count)[-150:].tolist()
    assert test[-3:] == [270, 435, 102]


def test_prompts_are_the_paper_s_and_the_prompted_variant_adds_a_hint(manager: Any, data: Path) -> None:
    names = ["cvbench_relation", "cvbench_relation_prompted", "clevr_count", "whatsup_a"]
    texts = {}
    for name, task in manager.load_task_or_group(names, "simple").items():
        doc = task.test_docs()[0]
        texts[name] = task.doc_to_text(doc)
    letter = "Answer the multiple choice question by only responding the letter of the correct answer. "
    assert texts["cvbench_relation"].startswith(letter + "Which of these")
    assert "\n(A) " in texts["cvbench_relation"]
    assert texts["cvbench_relation_prompted"].endswith(texts["cvbench_relation"]) and len(
        texts["cvbench_relation_prompted"]
    ) > len(texts["cvbench_relation"])
    assert texts["clevr_count"] == (
        "Answer the question by only responding the number. How many different items are there in the image?"
    )
    assert texts["whatsup_a"].startswith(f"{letter}Please select the correct caption for the image:\n(A) A mug")


def test_the_right_caption_is_the_release_s_first_wherever_it_was_rotated_to(manager: Any, data: Path) -> None:
    (task,) = manager.load_task_or_group(["whatsup_b"], "simple").values()
    stored = pq.read_table(data / "whatsup_b/Controlled_Images_B-00000.parquet").to_pylist()
    places = []
    for row, doc in zip(stored, task.test_docs(), strict=True):
        places.append("ABCD".index(doc["right"]))
        assert doc["captions"][places[-1]] == row["caption_options"][0]
    assert places[:5] == [0, 3, 2, 1, 0]


def test_no_name_of_ours_is_one_of_lmms_eval_s() -> None:
    import lmms_eval

    theirs = set()
    for path in (Path(lmms_eval.__file__).parent / "tasks").rglob("*.yaml"):
        for line in path.read_text(errors="ignore").splitlines():
            if line.startswith(("task: ", "group: ")):
                theirs.add(line.split(": ", 1)[1].strip().strip("\"'"))
    ours = set(tasks()) | set(tasks("_ll")) | set(tasks("_prompted")) | {"cvbench", "steer_blink", "text_steers_vision"}
    assert not ours & theirs
    assert not [name for name in ours if name.startswith(("cv_bench", "blink"))]
    members = yaml.safe_load((Path(tasks_dir()) / "text_steers_vision/text_steers_vision.yaml").read_text())["task"]
    assert set(members) <= ours


def test_a_steered_model_runs_the_benchmarks_from_the_command_line(data: Path, tmp_path: Path) -> None:
    spec = "pretrained=tiny-paligemma2,vector=spatial,layer=1,alpha=0.5,tokens=image"
    line = [str(BIN / "lmms-eval"), "--model", "steered_paligemma", "--model_args", spec, "--limit", "4"]
    more = [
        "--tasks",
        "text_steers_vision,clevr,superclevr_ll",
        "--batch_size",
        "8",
        "--output_path",
        str(tmp_path),
        "--log_samples",
    ]
    done = subprocess.run([*line, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = tmp_path.rglob("*results.json")
    found = json.loads(results.read_text())
    assert {"cvbench_count_test", "whatsup_b", "steer_blink_counting", "clevr", "superclevr_ll"} <= set(
        found["results"]
    )
    (samples,) = tmp_path.rglob("*samples_cvbench_relation_test.jsonl")
    sample = json.loads(samples.read_text().splitlines()[0])
    assert sample["score"] in (0.0, 1.0) and "parsed" in sample
    assert sample["input"].startswith("answer en Answer the multiple choice")


def test_without_a_copy_the_hub_is_named_and_what_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMMS_STEER_DATA", raising=False)
    assert find_source("blink/Counting", "val", "BLINK-Benchmark/BLINK", "Counting").name == "Counting"
    with pytest.raises(UserError, match="clevr is not on the Hub: set LMMS_STEER_DATA=DIR"):
        find_source("clevr", "val", None)
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path))
    (tmp_path / "cvbench").mkdir()
    with pytest.raises(UserError, match="holds no finished copy of cvbench"):
        find_source("cvbench", "test", "nyu-visionx/CV-Bench")


def test_an_import_that_was_killed_goes_on_and_is_not_taken_for_whole(
    release: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_steer.data import local_copy as parts

    monkeypatch.setattr(parts, "ROWS_PER_PART", 5)
    written: list[str] = []
    real = parts.pq.write_table

    def dies(table: Any, path: Any, **options: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(str(path))
        real(table, path, **options)

    monkeypatch.setattr(parts.pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        list(importing.import_release("clevr", release["clevr"], tmp_path))
    assert not (tmp_path / "clevr").exists()
    assert [line for good, line in check_copies(tmp_path) if not good] == [
        "clevr: an import was not finished, run it again"
    ]
    again: list[str] = []
    monkeypatch.setattr(parts.pq, "write_table", lambda t, p, **o: (again.append(str(p)), real(t, p, **o))[1])
    (line,) = importing.import_release("clevr", release["clevr"], tmp_path)
    assert len(again) == 1 and len(written) == 2
    part = "; WARNING: not the whole release: a score on it is no score on the benchmark"
    assert line.endswith(part)
    assert any(line == f"clevr: val 12 of 149991 rows{part}" for _, line in check_copies(tmp_path))


def damaged(release: Path, tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    shutil.copytree(release, folder)
    return folder


def rewritten(path: Path, change: Any) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[7])
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)


def test_a_damaged_release_is_named_by_file_and_row_and_leaves_nothing(
    release: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    cases: list[tuple[str, Any, str]] = [
        (
            "clevr",
            lambda f: (f / "images/val/CLEVR_val_000001.png").unlink(),
            "CLEVR_val_000001.png', which is not in the release",
        ),
        (
            "clevr",
            lambda f: cut(f / "questions/CLEVR_val_questions.json"),
            r"CLEVR_val_questions.json' is cut off .* after question",
        ),
        ("clevr", lambda f: (f / "questions/CLEVR_val_questions.json").unlink(), "holds no CLEVR_val_questions.json"),
        ("whatsup", lambda f: cut(f / "controlled_images_dataset.json"), "is cut off or no JSON after record"),
        ("cvbench", lambda f: rename(f / "test-00000-of-00001.parquet"), "has no column 'choices'; it has"),
        (
            "cvbench",
            lambda f: rewritten(f / "test-00000-of-00001.parquet", lambda r: r.update(answer="(F)")),
            r"row 8: the answer '\(F\)' is none",
        ),
        (
            "blink",
            lambda f: rewritten(f / "Counting/val-00000-of-00001.parquet", lambda r: r.update(choices=["a", "a"])),
            "row 8: the right choice 'a' stands there twice",
        ),
        ("cvbench", lambda f: cut(f / "test-00000-of-00001.parquet"), "cut off or no parquet"),
    ]
    for number, (name, break_it, expected) in enumerate(cases):
        folder = damaged(release[name], tmp_path, f"{name}{number}")
        break_it(folder)
        with pytest.raises(UserError, match=expected):
            list(importing.import_release(name, folder, root))
        assert not list(root.glob(f"{name}*/manifest.json"))
    with pytest.raises(UserError, match="unknown benchmark 'clevrr': did you mean 'clevr'"):
        list(importing.import_release("clevrr", release["clevr"], root))
    with pytest.raises(UserError, match="is no folder"):
        list(importing.import_release("clevr", tmp_path / "nothing", root))


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
        ("clevr", "questions/CLEVR_val_questions.json", "image_filename"),
        ("superclevr", "superCLEVR_questions_30k.json", "image_filename"),
        ("whatsup", "controlled_images_dataset.json", "image_path"),
    ],
)
def test_a_picture_s_name_does_not_lead_out_of_the_release_or_of_the_copy(
    release: dict[str, Path], tmp_path: Path, name: str, benchmark: str, json_file: str, field: str
) -> None:
    folder, out = damaged(release[benchmark], tmp_path, "release"), tmp_path / "out"
    # so that it is found by its end, and by the whole path
    for place in (folder / "images/val", folder / "images", folder / "controlled_images", out):
        place.mkdir(parents=True, exist_ok=True)
        (place / "evil.png").write_bytes(b"x")
    path = folder / json_file
    said = json.loads(path.read_text())
    (said if isinstance(said, list) else said["questions"])[-1][field] = name.format(out=out)
    path.write_text(json.dumps(said))
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    root = tmp_path / "a/b/c/d/data"
    with pytest.raises(UserError, match=rf"{path.name}', (question|record) \d+: the picture .* without '\.\.'$"):
        list(importing.import_release(benchmark, folder, root))
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file() and root not in p.parents) == before
    assert not list(root.rglob("evil*"))


def test_an_image_index_that_is_no_number_is_one_line(release: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(release["clevr"], tmp_path, "release")
    path = folder / "questions/CLEVR_val_questions.json"
    said = json.loads(path.read_text())
    said["questions"][0]["image_index"] = "first"
    path.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"question 1: the image_index 'first' is no whole number$"):
        list(importing.import_release("clevr", folder, tmp_path / "data"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def rename(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.rename_columns([{"choices": "options"}.get(name, name) for name in table.column_names]), path)


def test_a_full_disk_and_a_damaged_copy_are_said(release: dict[str, Path], copies: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        list(importing.import_release("clevr", release["clevr"], tmp_path / "file"))
    shutil.copytree(copies, tmp_path / "copy")
    next((tmp_path / "copy/clevr/images").iterdir()).unlink()
    (tmp_path / "copy/whatsup_a/manifest.json").write_text("{")
    bad = [line for good, line in check_copies(tmp_path / "copy") if not good]
    assert (
        len(bad) == 2
        and "is missing: import it again" in " ".join(bad)
        and "is damaged: import it again" in " ".join(bad)
    )


def test_super_clevr_keeps_its_test_images_and_tells_its_answers_apart(copies: Path) -> None:
    rows = pq.read_table(copies / "superclevr/test-00000.parquet").to_pylist()
    assert len(rows) == 12 and all("_025" in row["image_path"] for row in rows)
    assert {row["kind"] for row in rows} == {"count", "exist", "query"}
    assert {row["answer"] for row in rows if row["kind"] == "exist"} == {"yes"}


def test_ten_thousand_questions_are_read_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    entries = []
    for number in range(10_000):
        name = f"CLEVR_val_{number // 10:06d}.png"
        program = [{"function": "scene", "inputs": []}] * 12 + [{"function": "count", "inputs": [11]}]
        entries.append(
            {
                "image_filename": name,
                "image_index": number // 10,
                "question": "How many?",
                "answer": "3",
                "program": program,
            }
        )
        (tmp_path / "images/val" / name).write_bytes(b"x")
    (tmp_path / "CLEVR_val_questions.json").write_text(json.dumps({"info": {}, "questions": entries}))
    list(importing.import_release("clevr", tmp_path, tmp_path / "data"))
    assert any("clevr: val 10000 of" in line for _, line in check_copies(tmp_path / "data"))
