"""The outputs of a comparison: the numbers, their provenance, and warnings about settings chosen on the test."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from lmms_steer import UserError
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.provenance import harness_command, run_provenance
from lmms_steer.comparison.runs import Evaluation, RunResults
from lmms_steer.models.visuals import image_ids
from lmms_steer.search.questions import Question, sample_ids
from tests.helpers.runs import BASE, STEERED, leaderboard, write_chosen_runs, write_run


def test_every_output_has_the_numbers_and_their_provenance(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"task_a": BASE})
    write_run(tmp_path / "runs/s|x_1", {"task_a": STEERED}, spec="vector=v,layer=1")
    outputs: dict[str, Any] = {kind: tmp_path / f"out/x.{kind}" for kind in ("markdown", "latex", "csv", "parquet")}
    table, *lines = run_comparison([str(tmp_path / "runs")], **outputs)
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    for piece in ("s|x_1", "70.0", "+10.0 [+1.", "0.027", "15 / 5", "6 s", "100"):
        assert piece in text.getvalue()
    assert str(lines[-1]).startswith("written: ")
    assert "| task_a | s\\|x_1 | 70.0 | +10.0 [+1." in outputs["markdown"].read_text()
    assert "s$|$x" in (tex := outputs["latex"].read_text()) or "s|x\\_1 & 70.0 & +10.0 {[}+1." in tex
    (row,) = [one for one in csv.DictReader(outputs["csv"].open()) if one["role"] == "steered"]
    (typed,) = [one for one in pq.read_table(outputs["parquet"]).to_pylist() if one["role"] == "steered"]
    assert float(row["gain"]) == typed["gain"] == pytest.approx(0.1)
    assert row["spec_sha256"] == "5" * 64 and len(row["samples_sha256"]) == 64
    assert row["command"].startswith("lmms-eval --model steered_paligemma --model_args pretrained=tiny,vector=v")
    with pytest.raises(UserError, match="cannot write"):
        list(run_comparison([str(tmp_path / "runs")], csv=outputs["csv"] / "below"))


def test_csv_and_parquet_have_these_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"a": BASE})
    write_run(tmp_path / "runs/s", {"a": STEERED})
    list(run_comparison([str(tmp_path / "runs")], csv=tmp_path / "x.csv", parquet=tmp_path / "x.parquet"))
    columns = (
        "task,scope,system,role,n,images,score,gain,low,high,p,p_holm,p_exact,test,fixed,broken,unparsed,empty,yes,"
        "yes_labels,words,recall,divergence,blank_score,blank_gain,blank_low,blank_high,"
        "random_vectors,random_as_good,random_p,seconds,refused,command,spec,spec_sha256,samples_sha256,results_sha256,metric,vectors,readings,differences"
    )
    header, baseline, _ = (tmp_path / "x.csv").read_text().splitlines()
    assert header == columns
    assert baseline.startswith("a,task,baseline,baseline,100,,0.6,,,,,,,,,,0.0,0.0,,,1.0,,,,,,,,,,5.5,,")
    assert pq.read_schema(tmp_path / "x.parquet").names == columns.split(",")


def test_commands_contain_no_keys_or_tokens_of_services(tmp_path: Path) -> None:
    config = {"resolved_cli_args": {"hf_hub_log_args": "token=hf_secret", "wandb_args": "key=secret", "tasks": "a"}}
    write_run(tmp_path / "baseline", {"a": BASE}, config=config)
    assert "secret" not in run_provenance(leaderboard(tmp_path / "baseline")["a", "baseline"].samples[0]).command


def test_the_command_of_a_run_of_lm_eval_repeats_its_options() -> None:
    seeds = dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), 7)
    config: dict[str, Any] = {"model": "steered_hf", "model_args": {"pretrained": "org/m", "alpha": 1.0}}
    content: dict[str, Any] = {"results": {}, "config": {**config, "gen_kwargs": {}, "limit": None, **seeds}}
    more = {"n-shot": {"a": 5, "b": 5}, "system_instruction": "Be brief.", "chat_template_sha": "7" * 64}

    def command(**changed: Any) -> str:
        evaluation = Evaluation("lm-eval", "", Path("x"), {"a": Path("a"), "b": Path("b")})
        return harness_command(RunResults(evaluation, {**content, **changed}, ""))

    ours = "lmms-steer lm-eval run --model steered_hf --model_args pretrained=org/m,alpha=1 --tasks a,b"
    assert command(**more, fewshot_as_multiturn=True) == (
        f"{ours} --num_fewshot 5 --seed 7,7,7,7 --system_instruction 'Be brief.' --apply_chat_template"
        " --output_path runs --log_samples"
    )
    assert command(**more, fewshot_as_multiturn=False).endswith(
        "--apply_chat_template --fewshot_as_multiturn false --output_path runs --log_samples"
    )
    defaults = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
    settings = {"until": ["\n", ","], "top_k": 3}
    assert command(config={**config, **defaults, "model": "hf", "gen_kwargs": settings}) == (
        "lm_eval --model hf --model_args pretrained=org/m,alpha=1 --tasks a,b"
        """ --gen_kwargs '{"until": ["\\n", ","], "top_k": 3}' --output_path runs --log_samples"""
    )
    assert "--num_fewshot" not in command(**{"n-shot": {"a": 5, "b": 0}}), "the tasks' own"


@pytest.mark.parametrize(
    ("task", "provenance", "is_warned"),
    [
        ("a", {"chosen_on": "a"}, True),
        ("a_ll", {"chosen_on": "a (500 questions)"}, True),
        ("a", {"chosen_on": "b, a_prompted"}, True),
        ("a", {"chosen_on": "a_prompted_paper"}, True),
        ("a", {"chosen_on": "a_select"}, False),
        ("a", {}, False),
    ],
)
def test_choice_on_the_tested_task_is_a_warning_in_every_output(
    tmp_path: Path, task: str, provenance: dict[str, str], is_warned: bool
) -> None:
    runs = write_chosen_runs(tmp_path / "runs", task, provenance)
    files: dict[str, Any] = {kind: tmp_path / f"x.{kind}" for kind in ("markdown", "latex", "html")}
    lines = [str(line) for line in run_comparison([str(runs)], pictures="none", **files)]
    line = f"WARNING: {task}: layer, alpha and tokens of <b>steered were chosen on questions that they are tested on"
    assert [one.startswith(line) for one in lines if "WARNING" in one] == [True] * is_warned
    texts = [line, line.replace("_", r"\_").replace("<", "$<$").replace(">", "$>$"), line.replace("<b>", "&lt;b&gt;")]
    for path, text in zip(files.values(), texts, strict=True):
        assert (text in path.read_text()) == is_warned, path


def test_choice_on_the_same_questions_of_another_task_is_a_warning(tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(100)]
    questions = [Question(number, f"what is {number % 7} ?", [image], (), 0, {}) for number, image in enumerate(images)]

    def sample(number: int) -> dict[str, Any]:
        return {"input": questions[number].text, "images": image_ids(questions[number].visuals)}

    # the same texts and the same images, in other pairs
    others = [Question(one.doc_id, one.text, [images[one.doc_id - 1]], (), 0, {}) for one in questions]
    for name, searched, is_warned in (("these", questions[::-1], True), ("others", others, False)):
        provenance = {"chosen_on": "b", "some_questions": sample_ids(searched)}
        runs = write_chosen_runs(tmp_path / name, "a", provenance, sample=sample)
        assert any("WARNING: a:" in str(line) for line in run_comparison([str(runs)])) == is_warned, name


def test_search_of_the_vector_on_the_tested_task_is_a_warning(tmp_path: Path) -> None:
    runs = write_chosen_runs(tmp_path / "runs", "a", {})
    (tmp_path / "study/.run").mkdir(parents=True)
    # the plan of a recipe is not the plan of a study
    (tmp_path / "study/.run/plan.json").write_text("[]")
    (tmp_path / "study/cells.parquet").touch()
    for task, sha, is_warned in (("a", "6" * 64, True), ("a", "7" * 64, False), ("b", "6" * 64, False)):
        (tmp_path / "study/plan.json").write_text(json.dumps({"task": task, "vectors": {"v": sha}}))
        assert (
            any("WARNING: a:" in str(line) for line in run_comparison([str(runs)], studies=[tmp_path / "study"]))
            == is_warned
        )
    (tmp_path / "study/plan.json").write_text(json.dumps({"task": "a", "vectors": {"v": "6" * 64}}))
    elsewhere = write_chosen_runs(tmp_path / "elsewhere", "a", {"chosen_on": "a_select"})
    assert not any("WARNING" in str(line) for line in run_comparison([str(elsewhere)], studies=[tmp_path / "study"]))
    (tmp_path / "study/plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json' cannot be read as a study's plan"):
        list(run_comparison([str(runs)], studies=[tmp_path / "study"]))


@pytest.mark.parametrize("width", [60, 80])
def test_names_that_begin_alike_differ_in_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    names = [f"smol-idefics3__counting-sae-L8-a60-image-control-random-{seed}" for seed in range(3)]
    write_run(tmp_path / "baseline", {"smol_counting": BASE})
    for name in names:
        write_run(tmp_path / name, {"smol_counting": STEERED}, spec="vector=v,control=random:0")
    text = io.StringIO()
    Console(file=text, width=width).print(next(iter(run_comparison([str(tmp_path)]))))
    shown = "".join(text.getvalue().split())
    assert "…" not in shown
    # a name may go on in the next lines of its cell
    ends = re.findall(r"random-\d", shown)
    assert sorted(ends) == ["random-0", "random-1", "random-2"]
