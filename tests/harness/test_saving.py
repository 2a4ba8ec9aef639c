"""An evaluation is saved whole or not at all, and a disk that refuses it ends the command."""

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lmms_eval.loggers.evaluation_tracker import EvaluationTracker

from lmms_steer import UserError
from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.runs import newest_evaluation
from lmms_steer.harness import patches, saving
from lmms_steer.harness.saving import LOCK_FILE, check_output, saved_with_results, saved_with_samples
from lmms_steer.steering.resolved import ResolvedSpec
from tests.helpers.runs import BASE, STAMP, write_run

save_results = saved_with_samples(EvaluationTracker.save_results_aggregated)
save_samples = saved_with_results(EvaluationTracker.save_results_samples)
ARGS = {"model_source": "steered_hf", "model_args": "pretrained=tiny", "system_instruction": None}


def tracker(folder: Path) -> Any:
    made = EvaluationTracker(str(folder))
    made.general_config_tracker.log_experiment_args(**ARGS, chat_template=None, fewshot_as_multiturn=False)
    return made


def results_of(*tasks: str) -> dict[str, Any]:
    counts = {task: {"original": 2, "effective": 2} for task in tasks}
    return {"results": {task: {"acc": 0.5} for task in tasks}, "configs": dict.fromkeys(tasks, {}), "n-samples": counts}


def samples(count: int = 2) -> list[dict[str, Any]]:
    row = {"arguments": ("how many ?",), "resps": [["two"]], "filtered_resps": ["two"], "target": "B", "doc": {}}
    return [{"doc_id": number, "doc_hash": "7", **row} for number in range(count)]


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE)


def test_nothing_is_there_until_all_samples_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lmms_steer")
    made, logged = tracker(tmp_path), {"a": samples(), "b": samples()}
    save_results(made, results_of("a", "b"), logged, STAMP)
    save_samples(made, "a", logged["a"])
    assert saved(tmp_path) == []
    save_samples(made, "b", logged["b"])
    assert saved(tmp_path) == [f"{STAMP}_{rest}" for rest in ("results.json", "samples_a.jsonl", "samples_b.jsonl")]
    assert made.output_path == str(tmp_path)
    results = tmp_path / "tiny" / f"{STAMP}_results.json"
    assert caplog.messages[-1] == f"saved: {results}, 2 files of samples beside it"
    evaluation = newest_evaluation(tmp_path)
    assert [len(path.read_text().splitlines()) for path in evaluation.samples.values()] == [2, 2]
    # without --log_samples the results wait for nothing
    save_results(made, results_of("a"), None, "20270101_000000")
    assert "20270101_000000_results.json" in saved(tmp_path) and caplog.messages[-1].endswith("_results.json")


def test_samples_that_could_not_be_written_end_the_evaluation_and_leave_nothing(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    logged = samples()
    # lmms-eval logs the error of the second line and goes on
    del logged[1]["arguments"]
    save_results(made, results_of("a"), {"a": logged}, STAMP)
    with pytest.raises(UserError, match="lmms-eval could not write its results in .*: is that disk full?"):
        save_samples(made, "a", logged)
    assert saved(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = tracker(tmp_path / "file")
    with pytest.raises(UserError, match="the output folder .*file/tiny' cannot be created: .* is not a folder"):
        save_results(made, results_of("a"), None, STAMP)
    arguments = Namespace(output_path=str(tmp_path / "file" / "below"), model_args="pretrained=tiny")
    with pytest.raises(UserError, match=r"the output folder .* is not a folder; choose another with --output_path"):
        check_output(arguments)
    check_output(None)


def test_a_disk_that_is_full_at_the_results_keeps_no_samples_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, logged = tracker(tmp_path), {"a": samples()}

    def write(path: Path, data: bytes) -> Path:
        if path.suffix == ".json":
            raise UserError(f"cannot write {str(path)!r}: No space left on device")
        return write_atomically(path, data)

    monkeypatch.setattr(saving, "write_atomically", write)
    save_results(made, results_of("a"), logged, STAMP)
    with pytest.raises(UserError, match="_results.json': No space left on device"):
        save_samples(made, "a", logged["a"])
    assert saved(tmp_path) == []


@pytest.mark.parametrize(
    ("suffix", "cut", "why"),
    [
        ("results.json", lambda text: text[:-30], "the results are cut off"),
        ("samples_a.jsonl", lambda text: text[:5000], "the samples of a are cut off"),
        ("samples_a.jsonl", lambda text: "".join(text.splitlines(True)[:70]), "the samples of a are cut off"),
    ],
)
def test_a_damaged_evaluation_is_put_aside_before_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, cut: Any, why: str
) -> None:
    place = write_run(tmp_path, {"a": BASE}) / "tiny"
    write_run(tmp_path, {"a": BASE}, stamp="20270101_000000")
    path = place / f"{STAMP}_{suffix}"
    path.write_text(cut(path.read_text()))
    check_output(Namespace(output_path=str(tmp_path), model_args="pretrained=tiny"))
    names = ["results.json", "samples_a.jsonl"]
    assert saved(tmp_path) == [f"{STAMP}_{n}.damaged" for n in names] + [f"20270101_000000_{n}" for n in names]
    assert caplog.messages[-1] == f"{str(place / f'{STAMP}_results.json')!r} is damaged ({why}): put aside as" + (
        f" '{STAMP}_results.json.damaged'"
    )
    # samples without results, as a kill between the two leaves them
    (place / "20280101_000000_samples_a.jsonl").write_text("{}\n")
    check_output(Namespace(output_path=str(tmp_path), model_args="pretrained=tiny"))
    assert "20280101_000000_samples_a.jsonl.damaged" in saved(tmp_path)
    assert json.loads((place / "20270101_000000_results.json").read_text())


def test_systems_that_differ_in_one_setting_do_not_share_an_output_folder() -> None:
    def name(prompt_prefix: str = "", **record: Any) -> str:
        lm = SimpleNamespace(
            steering_record={"model": "org/m", **record}, resolved=ResolvedSpec(), prompt_prefix=prompt_prefix
        )
        return patches._output_name(lm)

    vcd = {"name": "vcd", "alpha": 1.0, "control": False}
    names = [
        name(),
        name(answer_bias={"A": 1.0}),
        name(answer_bias={"A": 2.0}),
        name(contrast=vcd),
        name(contrast={**vcd, "alpha": 2.0}),
        name(contrast=vcd, answer_bias={"A": 1.0}),
        name(prompt_prefix="answer en "),
        name(image="blank"),
        name(image="blank", contrast=vcd),
    ]
    assert len(set(names)) == len(names) and names[0] == "org/m" and names[7] == "org/m__image-blank"
    assert names[3].startswith("org/m__vcd_") and names[8].startswith("org/m__image-blank__vcd_")
    assert names[5].startswith("org/m__vcd+answer_bias_") and names[6].startswith("org/m__prompt_prefix_")
    # not by the order of a file's lines
    assert name(answer_bias={"A": 1.0, "B": 2.0}) == name(answer_bias={"B": 2.0, "A": 1.0})
