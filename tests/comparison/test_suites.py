"""Our tasks and models with lmms-eval's own: one list of tasks, one leaderboard, and loggers that record the spec."""

import json
from pathlib import Path
from typing import Any

import lmms_eval
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.harness.tasks import load_task
from lmms_steer.search.questions import load_questions, sample_ids
from tests.helpers.models import vectors
from tests.helpers.task_manager import task_manager

POPE = Path(lmms_eval.__file__).parent / "tasks/pope/pope.yaml"
TASKS = ["tiny_spatial", "pope_here"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our tasks, and lmms-eval's unchanged POPE on questions of our own, two about each image."""
    folder = tmp_path_factory.mktemp("pope")
    images = [PilImage.effect_noise((48, 48), 40 + i).convert("RGB") for i in range(6)]
    rows = [
        {"question_id": str(i), "question": f"is there a cup {i} ?", "answer": "yes" if i % 3 else "no",
         "image": images[i // 2]} for i in range(12)
    ]  # fmt: skip
    columns = {key: Value("string") for key in ("question_id", "question", "answer")}
    Dataset.from_list(rows, features=Features({**columns, "image": Image()})).to_parquet(folder / "pope.parquet")
    (folder / "pope_here.yaml").write_text(
        f"include: {POPE}\ntask: pope_here\ndataset_path: parquet\n"
        f"dataset_kwargs:\n  data_files:\n    test: {folder}/pope.parquet\n"
    )
    return task_manager(folder)


def evaluate(model: str, args: str, tasks: Any, out: Path, tracker: Any = None, **more: Any) -> Any:
    """Evaluate as `lmms-eval --log_samples --output_path` does, and return its results and samples."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker

    tracker = tracker or EvaluationTracker(output_path=str(out))
    stamp = "20260101_000000"
    results = simple_evaluate(
        model=model, model_args=args, tasks=TASKS, task_manager=tasks, batch_size=8, limit=12, log_samples=True,
        evaluation_tracker=tracker, bootstrap_iters=0, datetime_str=stamp, **more,
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str=stamp)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return results, samples


class FakeHub:
    """The part of huggingface_hub that EvaluationTracker uses; it keeps the files instead of sending them."""

    def __init__(self, **_: Any) -> None:
        self.files: dict[str, Any] = {}
        self.folders: list[str] = []

    def create_repo(self, **_: Any) -> None: ...

    def upload_file(self, path_or_fileobj: str, path_in_repo: str, **_: Any) -> None:
        self.files[path_in_repo] = json.loads(Path(path_or_fileobj).read_text())

    def upload_folder(self, path_in_repo: str, **_: Any) -> None:
        self.folders.append(path_in_repo)


@pytest.mark.slow
def test_runs_with_other_decoding_or_another_prefix_are_recognised_in_what_lmms_eval_writes(
    tasks: Any, tmp_path: Path
) -> None:
    tiny = "pretrained=tiny-paligemma2"
    for name, args, more in (
        ("baseline", tiny, {}),
        ("hot", tiny, {"gen_kwargs": "temperature=5.0,do_sample=True"}),
        ("prefix", f"{tiny},prompt_prefix=look", {}),
        ("same", tiny, {}),
    ):
        evaluate("steered_paligemma", args, tasks, tmp_path / "runs" / name, **more)
    systems = read_comparison([str(tmp_path / "runs")], "baseline").systems
    rows = {(row.task, row.system): row for row in build_leaderboard(systems)}
    assert "decoding: do_sample True, the baseline's False, temperature 5.0" in rows["tiny_spatial", "hot"].refused
    assert rows["tiny_spatial", "prefix"].refused.startswith("other prompts: prompt_prefix look, the")
    assert (rows["tiny_spatial", "same"].refused, rows["tiny_spatial", "same"].differences) == ("", ())


@pytest.mark.slow
def test_mixed_tasks_give_one_leaderboard_and_every_logger_records_the_spec(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.loggers import EvaluationTracker, WandbLogger, evaluation_tracker

    vector = vectors(5, 96, model="tiny-gemma2", scale=0.3).save(tmp_path / "v.safetensors")
    evaluate("dummy", "response=yes", tasks, tmp_path / "runs/dummy")
    evaluate("steered_paligemma", "pretrained=tiny-paligemma2", tasks, tmp_path / "runs/baseline")
    (baseline,) = (tmp_path / "runs/baseline").rglob("*_samples_tiny_spatial.jsonl")
    monkeypatch.setattr(evaluation_tracker, "HfApi", FakeHub)
    tracker = EvaluationTracker(
        output_path=str(tmp_path / "runs/steered"), hub_results_org="me", token="t",  # noqa: S106
        push_results_to_hub=True, push_samples_to_hub=True,
    )  # fmt: skip
    args = f"pretrained=tiny-paligemma2,vector={vector},layer=0,alpha=9,tokens=image"
    results, samples = evaluate("steered_paligemma", args, tasks, tmp_path, tracker, baseline=str(baseline))

    # the leaderboard: both tasks, both kinds of model, POPE by its own score and by image
    rows = {(row.task, row.system): row for row in build_leaderboard(read_comparison([str(tmp_path / "runs")]).systems)}
    assert {row.role for row in rows.values()} == {"baseline", "steered", "other"}
    assert [row.refused for row in rows.values()] == [""] * 6
    assert rows["pope_here", "dummy"].score == pytest.approx(results_of(tmp_path / "runs/dummy", "pope_accuracy"))
    assert (rows["pope_here", "steered"].images, rows["pope_here", "steered"].n) == (6, 12)
    assert rows["tiny_spatial", "steered"].images is None

    # the choices are logged for our task's letters; POPE's yes and no need none
    shown = {name: [json.loads(line) for path in (tmp_path / "runs/dummy").rglob(f"*_samples_{name}.jsonl")
                    for line in path.open()] for name in TASKS}  # fmt: skip
    assert all(set(sample["choices"]) & set(sample["input"].split()) for sample in shown["tiny_spatial"])
    assert not any("choices" in sample for sample in shown["pope_here"])

    # a search of these questions would record the same ids as the log
    task, _ = load_task("tiny_spatial", "steered_paligemma")
    logged = read_comparison([str(tmp_path / "runs")]).systems["baseline"].tasks["tiny_spatial"]
    assert set(sample_ids(list(load_questions(task, 12))).split()) == logged.question_ids

    # --baseline
    assert 0 <= results["results"]["tiny_spatial"]["paired_pvalue"] <= 1
    # --hf_hub_log_args
    ((place, sent),) = tracker.api.files.items()
    assert sent["steering"]["spec"] == results["steering"]["spec"] and results["steering"]["sha256"][:8] in place
    assert all(results["steering"]["sha256"][:8] in folder for folder in tracker.api.folders) and tracker.api.folders
    # --wandb_args, --wandb_log_samples
    logger = WandbLogger(mode="disabled")
    logger.post_init(results)
    logger.log_eval_result()
    logger.log_eval_samples({"tiny_spatial": samples["tiny_spatial"], "pope_here": samples["pope_here"]})
    assert logger.run.config["steering"]["sha256"] == results["steering"]["sha256"]
    logger.run.finish()


def results_of(folder: Path, metric: str) -> float:
    (path,) = folder.rglob("*_results.json")
    return float(json.loads(path.read_text())["results"]["pope_here"][f"{metric},none"])
