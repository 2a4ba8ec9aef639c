"""The benchmarks' tasks in lmms-eval, answered by an oracle and by wrong models: prompts, splits, scores."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from lmms_steer import UserError
from lmms_steer.harness.task_files import tasks_dir
from tests.helpers import warm

FOLDERS = ("cvbench", "whatsup", "blink", "clevr")
SUFFIXES = ("_ll", "_prompted", "_prompted_paper")


def task_names(suffix: str = "", folders: tuple[str, ...] = FOLDERS) -> list[str]:
    """The single tasks of the benchmarks: the plain ones, or those of a variant.

    Held-out parts of 150 questions are left out: they take long, and differ from the test parts by their rows alone,
    which `test_paper_tasks.py` compares.
    """
    names = []
    for folder in folders:
        for path in sorted((Path(tasks_dir()) / folder).glob("*.yaml")):
            name = path.stem
            variant = next((s for s in SUFFIXES if name.endswith(s)), "")
            held_out = "_select" in name and folder != "cvbench"
            if variant == suffix and not held_out and "group:" not in path.read_text():
                names.append(name)
    return names


class TargetModel(lmms):  # type: ignore[misc]
    """Answers with knowledge of the target.

    Args:
        answer: turns the target into the generated answer.
        losses: the loss of a correct and of a wrong choice.
    """

    is_simple = True

    def __init__(self, answer: Callable[[str], str] | None, losses: dict[bool, float] | None) -> None:
        super().__init__()
        self.answer, self.losses = answer, losses
        self.tasks: dict[str, Any] = {}

    def generate_until(self, requests: list[Any]) -> list[Any]:
        assert self.answer is not None
        answers = []
        for request in requests:
            _, _, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            images = visual(doc)
            assert images and all(image.mode == "RGB" for image in images)
            answers.append(GenerationResult(self.answer(str(self.tasks[task].doc_to_target(doc)))))
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        assert self.losses is not None
        answers = []
        for request in requests:
            _, choice, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            assert visual(doc)
            choices = self.tasks[task].doc_to_choice(doc)
            text = choice(doc) if callable(choice) else choice
            correct = choices.index(str(text).strip()) == self.tasks[task].doc_to_target(doc)
            answers.append(GenerationResult((self.losses[correct], correct)))
        return answers

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def clean(self) -> None:
        pass


def flat(loaded: dict[Any, Any]) -> dict[str, Any]:
    """Tasks by name, including those in nested groups."""
    tasks: dict[str, Any] = {}
    for name, value in loaded.items():
        tasks.update(flat(value) if isinstance(value, dict) else {name: value})
    return tasks


class Loaded:
    """Tasks that are loaded once for several evaluations: in place of lmms-eval's `TaskManager`."""

    def __init__(self, manager: Any, names: list[str]) -> None:
        self.manager, self.names = manager, names
        self.tasks = manager.load_task_or_group(names, "simple")

    def load_task_or_group(self, names: list[str], _: str) -> Any:
        assert names == self.names
        return self.tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.manager, name)


def evaluate(
    loaded: Loaded,
    answer: Callable[[str], str] | None = None,
    losses: dict[bool, float] | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, float]]:
    """lmms-eval's results on the first questions of each task: metric values by task or group."""
    from lmms_eval.evaluator import simple_evaluate

    model = TargetModel(answer, losses)
    model.tasks = flat(loaded.tasks)
    results = simple_evaluate(
        model=model, tasks=loaded.names, task_manager=loaded, batch_size=1, log_samples=False, bootstrap_iters=0,
        limit=limit,
    )  # fmt: skip
    return {
        name: {key.split(",")[0]: value for key, value in metrics.items()}
        for name, metrics in results["results"].items()
    }


def wrong_answer(target: str) -> str:
    """Another answer of the same kind."""
    others = {"A": "B", "yes": "no", "no": "yes", "rubber": "metal", "metal": "rubber"}
    if target.isdecimal():
        return str(int(target) + 1)
    return others.get(target, "A" if len(target) == 1 else "no such thing")


@pytest.mark.slow
def test_oracle_scores_one_and_wrong_model_zero(data: Path, manager: Any) -> None:
    names = task_names()
    assert len(names) == 12 + 4 + 14 + 6
    answers: list[tuple[Callable[[str], str], float, int | None]] = [
        (lambda target: target, 1.0, None),
        (lambda target: "", 0.0, 20),
    ]
    loaded = Loaded(manager, names)
    for answer, expected, limit in answers:
        results = evaluate(loaded, answer, limit=limit)
        assert {name: results[name]["acc"] for name in names} == dict.fromkeys(names, expected)
        assert {results[name]["unparsed"] for name in names} == {1 - expected}
    assert {results[name]["acc_paper"] for name in names if "acc_paper" in results[name]} == {0.0}
    results = evaluate(loaded, wrong_answer, limit=20)
    assert {name: results[name]["acc"] for name in names} == dict.fromkeys(names, 0.0)
    # where another answer of the same kind is not known, the wrong one names nothing
    unnamed = {name for name in names if results[name]["unparsed"]}
    assert unnamed == {"clevr", "superclevr"}


@pytest.mark.slow
def test_log_likelihood_variants_score_the_lowest_loss(data: Path, manager: Any) -> None:
    names = task_names("_ll")
    loaded = Loaded(manager, names)
    for losses, expected in (({True: 0.5, False: 2.0}, 1.0), ({True: 2.0, False: 0.5}, 0.0)):
        results = evaluate(loaded, losses=losses, limit=20)
        found = {name: results[name]["acc"] for name in names}
        # in so small a release, all of CLEVR's questions about shapes have one answer, and so one choice
        assert found.pop("clevr_ll") in (expected, 0.25)
        assert found == dict.fromkeys(found, expected)


@pytest.mark.slow
def test_constant_letter_scores_its_share_in_tasks_and_groups(data: Path, manager: Any) -> None:
    results = evaluate(Loaded(manager, ["cvbench", "steer_blink", "whatsup_a", "whatsup_b"]), lambda target: "A")
    stored = pq.read_table(data / "cvbench/test-00000.parquet").to_pylist()
    official = 0.0
    for name, weight in (("ADE20K", 0.25), ("COCO", 0.25), ("Omni3D", 0.5)):
        official += weight * float(np.mean([row["answer"] == "(A)" for row in stored if row["source"] == name]))
    for task in ("Count", "Relation", "Depth", "Distance"):
        share = np.mean([row["answer"] == "(A)" for row in stored if row["task"] == task])
        assert results[f"cvbench_{task.lower()}"]["acc"] == pytest.approx(share)
    assert results["cvbench"]["official"] == pytest.approx(official)
    assert results["cvbench"]["acc"] == pytest.approx(np.mean([row["answer"] == "(A)" for row in stored]))
    # the correct caption comes first in the release and is rotated: each letter is correct once in four
    assert results["whatsup_a"]["acc"] == results["whatsup_b"]["acc"] == 0.25
    assert results["whatsup_a"]["pair_acc"] == results["whatsup_a"]["set_acc"] == 0.0


def test_names_of_vehicles_are_read_as_other_words_are(manager: Any, data: Path) -> None:
    utils = import_module("lmms_steer.tasks.clevr.utils")
    doc = {"answer": "truck", "names": ["school bus", "truck"], "kind": "query", "family": 0}
    columns = ("acc", "acc_strict", "unparsed", "parsed")
    scores = {answer: utils.process_results(doc, [answer]) for answer in ("It is a truck", "Answer: bus", "A bus?")}
    assert [scores["It is a truck"][name] for name in columns] == [1.0, 0.0, 0.0, "truck"]
    assert [scores["Answer: bus"][name] for name in columns] == [0.0, 0.0, 1.0, ""]
    assert scores["It is a truck"]["choices"] == doc["names"]
    assert "choices" not in utils.process_results({**doc, "answer": "yes"}, ["yes"])
    (task,) = manager.load_task_or_group(["superclevr"], "simple").values()
    shapes = {doc["answer"] for doc in task.test_docs() if doc["kind"] == "query"}
    assert set(task.test_docs()[0]["names"]) == shapes, "those of all questions"


def test_the_official_score_is_that_of_all_questions(manager: Any, data: Path) -> None:
    utils = import_module("lmms_steer.tasks.cvbench.utils")
    tasks = manager.load_task_or_group(["cvbench"], "simple")
    (members,) = tasks.values()
    found = {}
    for name, task in members.items():
        docs = task.test_docs().remove_columns("image")
        found[name] = [utils.process_results(doc, [doc["answer"]])["official"] for doc in docs]
        assert np.isnan(utils.total(found[name][:-1])), name
    assert np.mean([utils.total(values) for values in found.values()]) == pytest.approx(1)


def test_pairs_and_sets_are_all_or_nothing() -> None:
    utils = import_module("lmms_steer.tasks.whatsup.utils")
    captions = [f"A mug {phrase} a table" for phrase in ("on", "under", "to the left of", "to the right of")]
    rows = [
        utils.process_results({"captions": captions, "right": "ABCD"[i], "row": 0}, ["ABCD"[i] if i else "B"])
        for i in range(4)
    ]
    assert utils.pairs([row["pair_acc"] for row in rows]) == 0.5
    assert utils.sets([row["set_acc"] for row in rows]) == 0.0
    assert np.isnan(utils.sets([row["set_acc"] for row in rows[:3]]))


@pytest.mark.parametrize("count", [600, 650, 788])
def test_cvbench_split_is_the_papers(count: int) -> None:
    utils = import_module("lmms_steer.tasks.cvbench.utils")
    select, test = utils.split(count, "select"), utils.split(count, "test")
    assert len(test) == 150 and not set(select) & set(test) and len(select) + 150 == count
    assert test == np.random.RandomState(42).permutation(count)[-150:].tolist()
    assert test[-3:] == [270, 435, 102]


@pytest.mark.parametrize(("answer", "right"), [("Grey.", 1.0), ("It is grey", 1.0), ("green", 0.0)])
def test_both_spellings_of_gray_are_read(answer: str, right: float) -> None:
    utils = import_module("lmms_steer.tasks.clevr.utils")
    row = {"answer": "gray", "kind": "query_color", "family": "one_hop", "names": []}
    assert utils.process_results(row, [answer])["acc"] == right


def test_a_part_of_a_copy_of_cvbench_without_questions_is_one_line() -> None:
    utils = import_module("lmms_steer.tasks.cvbench.utils")
    copy = Dataset.from_list([{"task": "Relation", "source": "COCO"}] * 150)
    assert len(utils.documents("Relation", "test")(copy)) == 150
    for task, part, message in (
        ("Relation", "select", "150 of its 150 questions here are of Relation, and the paper's split tests on 150"),
        ("Depth", "", "0 of its 150 questions here are of Depth$"),
    ):
        with pytest.raises(UserError, match=message):
            utils.documents(task, part)(copy)


@pytest.mark.slow
def test_prompts_are_the_papers_and_the_prompted_variant_adds_a_hint(manager: Any, data: Path) -> None:
    names = ["cvbench_relation", "cvbench_relation_prompted", "clevr_count", "whatsup_a"]
    texts = {}
    for name, task in manager.load_task_or_group(names, "simple").items():
        texts[name] = task.doc_to_text(task.test_docs()[0])
    instruction = "Answer the multiple choice question by only responding the letter of the correct answer. "
    assert texts["cvbench_relation"].startswith(instruction + "Considering the relative positions of the ")
    assert "\n(A) " in texts["cvbench_relation"]
    assert texts["cvbench_relation_prompted"].endswith(texts["cvbench_relation"])
    assert len(texts["cvbench_relation_prompted"]) > len(texts["cvbench_relation"])
    assert texts["clevr_count"] == (
        "Answer the question by only responding the number. How many different items are there in the image?"
    )
    assert texts["whatsup_a"].startswith(f"{instruction}Please select the correct caption for the image:\n(A) A")


def test_correct_caption_is_tracked_through_the_rotation(manager: Any, data: Path) -> None:
    (task,) = manager.load_task_or_group(["whatsup_b"], "simple").values()
    stored = pq.read_table(data / "whatsup_b/Controlled_Images_B-00000.parquet").to_pylist()
    places = []
    for row, doc in zip(stored, task.test_docs(), strict=True):
        places.append("ABCD".index(doc["right"]))
        assert doc["captions"][places[-1]] == row["caption_options"][0]
    assert places[:5] == [0, 3, 2, 1, 0]


def test_no_name_is_also_one_of_lmms_evals() -> None:
    import lmms_eval

    theirs = set()
    for path in (Path(str(lmms_eval.__file__)).parent / "tasks").rglob("*.yaml"):
        for line in path.read_text(errors="ignore").splitlines():
            if line.startswith(("task: ", "group: ")):
                theirs.add(line.split(": ", 1)[1].strip().strip("\"'"))
    folders = (*FOLDERS, "vsr", "real_world")
    variants = {name for suffix in ("", *SUFFIXES) for name in task_names(suffix, folders)}
    ours = variants | {"cvbench", "steer_blink", "text_steers_vision"}
    assert not ours & theirs
    assert not [name for name in ours if name.startswith(("cv_bench", "blink"))]
    members = yaml.safe_load((Path(tasks_dir()) / "text_steers_vision/text_steers_vision.yaml").read_text())["task"]
    assert set(members) <= ours


@pytest.mark.slow
def test_steered_model_runs_the_benchmarks_from_the_command_line(data: Path, tmp_path: Path) -> None:
    spec = "pretrained=tiny-paligemma2,vector=spatial,layer=1,alpha=0.5,tokens=image"
    command = ["lmms-eval", "--model", "steered_paligemma", "--model_args", spec, "--limit", "4"]
    command += ["--tasks", "text_steers_vision,clevr,superclevr_ll", "--batch_size", "8"]
    command += ["--output_path", str(tmp_path), "--log_samples"]
    done = warm.run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = tmp_path.rglob("*results.json")
    tasks = set(json.loads(results.read_text())["results"])
    assert {"cvbench_count_test", "whatsup_b_test", "steer_blink_counting", "clevr", "superclevr_ll"} <= tasks
    (samples,) = tmp_path.rglob("*samples_cvbench_relation_test.jsonl")
    sample = json.loads(samples.read_text().splitlines()[0])
    assert sample["score"] in (0.0, 1.0) and "parsed" in sample
    assert sample["input"].startswith("answer en Answer the multiple choice")
