"""Runs that differ from the baseline in more than the system: refused, or compared with what differs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.comparison.command import run_comparison
from tests.helpers.runs import BASE, STEERED, TASK_CONFIG, leaderboard, write_run

HOT = {"configs": {"a": {**TASK_CONFIG, "generation_kwargs": {"max_new_tokens": 20, "temperature": 5.0}}}}
ARGS = "pretrained=tiny,vector=v"


def printed(runs: Path, *allowed: str, **options: Any) -> list[str]:
    return [str(line) for line in run_comparison([str(runs)], allow_different=allowed, **options)]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("decoding", {"results": HOT}, "temperature 5.0, the baseline's not set"),
        ("decoding", {"results": {"configs": {"a": {**TASK_CONFIG, "repeats": 4}}}}, "repeats 4, the baseline's 1"),
        ("prompts", {"config": {"model_args": f"{ARGS},prompt_prefix=look, then"}}, "prompt_prefix look, then, the"),
        (
            "prompts",
            {"results": {"system_instruction": "Be brief."}},
            "system instruction Be brief., the baseline's not",
        ),
        ("prompts", {"results": {"chat_template_sha": "5f"}}, "chat template 5f, the baseline's not set"),
        ("prompts", {"results": {"n-shot": {"a": 2}}}, "shots 2, the baseline's 0"),
        (
            "prompts",
            {"sample": {"input": "Look."}},
            "on 100 of 100 questions, first 'Look.', the baseline's 'Is the ora",
        ),
        ("image_settings", {"config": {"model_args": f"{ARGS},size=224"}}, "size 224, the baseline's not set"),
        ("seeds", {"config": {"torch_seed": 7}}, "torch_seed 7, the baseline's 1234"),
        (
            "model",
            {"config": {"model_args": "pretrained=big"}, "spec": "vector=v"},
            "pretrained big, the baseline's tiny",
        ),
    ],
)
def test_a_difference_is_named_and_refused_and_shown_where_it_is_allowed(
    tmp_path: Path, kind: str, change: dict[str, Any], reason: str
) -> None:
    write_run(tmp_path / "runs/baseline", {"a": BASE})
    write_run(tmp_path / "runs/odd", {"a": STEERED}, **change)
    write_run(tmp_path / "runs/same", {"a": STEERED})
    refused = leaderboard(tmp_path / "runs")["a", "odd"]
    assert f"other {kind.replace('_', ' ')}: " in refused.refused and reason in refused.refused
    assert refused.refused.endswith(f"(--allow-different {kind} compares them anyway)") and np.isnan(refused.gain)
    lines = printed(tmp_path / "runs", kind, csv=tmp_path / "x.csv")
    (line,) = [line for line in lines if line.startswith("different: ")]
    assert line.startswith(f"different: odd on a: other {kind.replace('_', ' ')}: ") and reason in line
    rows = {row["system"]: row for row in csv.DictReader((tmp_path / "x.csv").open())}
    assert float(rows["odd"]["gain"]) == pytest.approx(0.1) and json.loads(rows["same"]["differences"]) == []
    (first, *_) = json.loads(rows["odd"]["differences"])
    assert first["kind"] == kind and {"key", "baseline", "run"} < set(first)


def test_batch_size_and_dtype_are_shown_and_prevent_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE})
    config = {"model_args": f"{ARGS},dtype=bfloat16", "batch_size": "4"}
    write_run(tmp_path / "s", {"a": STEERED, "b": STEERED}, config=config)
    expected = "dtype bfloat16, the baseline's not set, batch_size 4, the baseline's not set"
    assert f"also different: s on a, b: other settings: {expected}" in printed(tmp_path)
    row = leaderboard(tmp_path)["a", "s"]
    assert (row.refused, row.different) == ("", "") and row.gain == pytest.approx(0.1)


def test_another_checkpoint_is_a_system_of_its_own_if_nothing_is_steered(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "big", {"a": STEERED}, config={"model": "other", "model_args": "pretrained=big"})
    (line,) = [line for line in printed(tmp_path) if line.startswith("also different: big on a: other settings: ")]
    assert "model other, the baseline's paligemma" in line and "pretrained big, the baseline's tiny" in line


def test_what_only_one_run_recorded_is_refused_and_what_neither_did_is_said(tmp_path: Path) -> None:
    old = {"configs": {"a": {"score_key": "score"}}}
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, results=old)
    with pytest.raises(UserError, match="generation_kwargs not recorded, the baseline's {'max_new_tokens': 20"):
        leaderboard(tmp_path)
    write_run(tmp_path / "baseline", {"a": BASE}, results=old)
    assert leaderboard(tmp_path)["a", "s"].gain == pytest.approx(0.1)
    unknown = "not recorded by either run, so not compared: generation kwargs, output type, repeats: s on a"
    assert unknown in printed(tmp_path)


def test_a_prompted_task_is_compared_and_marked_but_not_if_more_than_its_prompt_differs(tmp_path: Path) -> None:
    def look(number: int) -> dict[str, Any]:
        return {"input": f"Look. {number}"}

    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "p", {"a_prompted": STEERED}, sample=look)
    row = leaderboard(tmp_path)["a", "p"]
    assert (row.role, row.different, row.refused) == ("prompted", "prompts", "") and row.gain == pytest.approx(0.1)
    lines = printed(tmp_path, html=tmp_path / "x.html", markdown=tmp_path / "x.md", pictures="none")
    assert "different: p on a: other prompts" in lines
    assert "| prompts |" in (tmp_path / "x.md").read_text()
    page = (tmp_path / "x.html").read_text()
    assert "the same prompts, decoding and seeds except where a row says what is different" in page
    assert '"different": "prompts"' in page
    hot = {"configs": {"a_prompted": HOT["configs"]["a"]}}
    write_run(tmp_path / "p", {"a_prompted": STEERED}, sample=look, results=hot)
    with pytest.raises(UserError, match="p on a: .*other decoding: .*temperature 5.0"):
        leaderboard(tmp_path)


def test_a_group_has_the_differences_of_its_tasks(tmp_path: Path) -> None:
    configs = {"a": {**HOT["configs"]["a"], "tag": "t"}, "b": {**TASK_CONFIG, "tag": "t"}}
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": STEERED, "b": STEERED}, results={"configs": configs})
    assert ("t", "s") not in leaderboard(tmp_path)
    assert leaderboard(tmp_path, allowed=["decoding"])["t", "s"].different == "decoding"


def test_the_option_takes_kinds_by_name(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, results=HOT, config={"torch_seed": 7})
    for kinds, status in (("decoding", 1), ("decoding, seeds", 0)):
        assert CliRunner().invoke(app, ["compare", str(tmp_path), "--allow-different", kinds]).exit_code == status
    wrong = CliRunner().invoke(app, ["compare", str(tmp_path), "--allow-different", "seed"]).exception
    assert "unknown kind 'seed' for --allow-different: did you mean 'seeds'?" in str(wrong)
