"""How lmms-eval's command line ends: what is asked for is done, or the status is not 0 and no results are written."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_steer.harness.run_checks import check_run
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.harness.task_index import cache_task_index
from lmms_steer.harness.wrapped import steered_class
from lmms_steer.models.vlm import HfVlm
from tests.helpers import warm
from tests.helpers.task_manager import task_manager

TINY = "pretrained=tiny-paligemma2"
Run = Callable[..., tuple[int, str, list[Path]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """lmms-eval's command line in this process, with our tasks only: status, stderr and results files."""
    import lmms_eval.__main__ as command
    from lmms_eval.tasks import TaskManager

    cache_task_index()
    index = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: index(self, *a, **{**k, "include_defaults": False})
    )
    monkeypatch.setitem(sys.modules, "lmms_eval.__main__", command)

    def run(*args: str, tasks: str = "tiny_spatial") -> tuple[int, str, list[Path]]:
        out = tmp_path / "out"
        given = ("--model_args", TINY) if "--model_args" not in args else ()
        line = ("--model", "steered_paligemma", "--tasks", tasks, "--limit", "4", "--output_path", str(out))
        monkeypatch.setattr(sys, "argv", ["lmms-eval", *line, *given, *args])
        capsys.readouterr()
        status = 0
        try:
            command.cli_evaluate()
        except SystemExit as end:
            status = int(str(end.code))
        return status, capsys.readouterr().err, list(out.rglob("*results.json"))

    return run


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("lmms-steer: ")]


@pytest.mark.slow
def test_what_cannot_be_done_ends_with_one_line_status_2_and_no_results(run: Run) -> None:
    for args, tasks, expected in (
        (("--gen_kwargs", "max_new_tokenz=5,foo=1"), "tiny_spatial", "unknown key 'max_new_tokenz'"),
        (("--gen_kwargs", "temperature=0.7"), "tiny_spatial", "temperature=0.7 has no effect with do_sample=False"),
        (("--gen_kwargs", "top_k=1"), "tiny_spatial_ll", "--gen_kwargs has no effect: none of the tasks generates"),
        (("--limit", "0"), "tiny_spatial", "--limit 0 leaves no questions"),
        (("--model_args", f"{TINY},alpha=1,alpha=2"), "tiny_spatial", "alpha is given 2 times in --model_args"),
        (
            ("--model_args", f"{TINY},vector=spatial,aplha=1"),
            "tiny_spatial",
            "'aplha' in --model_args: did you mean 'alpha'",
        ),
        (
            ("--model_args", f"{TINY},vector=spatail"),
            "tiny_spatial",
            "unknown vector 'spatail': did you mean 'spatial'",
        ),
        (
            ("--apply_chat_template",),
            "tiny_spatial",
            "--apply_chat_template: lmms-eval's models apply the checkpoint's",
        ),
        ((), "no_such_task", "unknown task 'no_such_task': "),
        ((), "tiny_spatial,tiny_spatail", "unknown task 'tiny_spatail': did you mean 'tiny_spatial'?"),
        (("--model", "steered_paligema"), "tiny_spatial", "unknown model 'steered_paligema': did you mean"),
        (("--model", "sterred_hf"), "tiny_spatial", "unknown model 'sterred_hf': did you mean 'steered_hf'?"),
        ((), "cvbench_relation_test", "see lmms-steer data import for local copies"),
        (("--output_path", "/proc/none"), "tiny_spatial", "the output folder '/proc/none' cannot be written to"),
    ):
        status, err, results = run(*args, tasks=tasks)
        assert (status, results, len(lines(err))) == (2, [], 1), (args, err)
        assert expected in err and "Traceback" not in err


@pytest.mark.slow
def test_a_setting_that_is_accepted_takes_effect(run: Run) -> None:
    status, err, (results,) = run("--gen_kwargs", "do_sample=true,temperature=1,top_k=5,max_new_tokens=3")
    assert (status, lines(err)) == (0, [])
    assert json.loads(results.read_text())["config"]["gen_kwargs"]["top_k"] == 5


@pytest.mark.slow
def test_any_other_exception_shows_its_traceback_and_ends_with_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("generate refuses this")

    monkeypatch.setattr(HfVlm, "_generate", fail)
    status, err, results = run()
    assert (status, results) == (1, []) and "Traceback" in err and "ValueError: generate refuses this" in err


@pytest.mark.slow
def test_runs_of_other_models_end_as_lmms_eval_ends_them(run: Run) -> None:
    run("--limit", "0")
    status, _, _ = run("--model", "dummy", tasks="no_such_task")
    assert status == 0


@pytest.mark.slow
def test_the_installed_command_reports_a_failure_by_its_status(tmp_path: Path) -> None:
    # lmms-eval 0.7.3 reads the model's attribute `chat_template`
    line = ["lmms-eval", "--model", "steered_paligemma", "--model_args", TINY]
    more = ["--tasks", "tiny_spatial", "--limit", "2", "--apply_chat_template", "--output_path", str(tmp_path)]
    done = warm.run(*line, *more)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("lmms-steer: --apply_chat_template: ")
    assert not list(tmp_path.rglob("*results.json"))


def test_settings_of_a_steered_wrapper_are_checked_by_name() -> None:
    wrapper = steered_class("internvl_hf")
    task = SimpleNamespace(config=SimpleNamespace(output_type="generate_until", generation_kwargs={}))
    for given in ("max_new_tokens=5", "num_beams=2,top_p=0.5"):
        check_run(wrapper.__new__(wrapper), {"t": task}, SimpleNamespace(gen_kwargs=given, limit=None))
    with pytest.raises(ValueError, match="unknown key 'max_new_tokenz' in --gen_kwargs: did you mean"):
        check_run(
            wrapper.__new__(wrapper), {"g": {"t": task}}, SimpleNamespace(gen_kwargs="max_new_tokenz=5", limit=None)
        )


@pytest.mark.slow
def test_models_that_are_given_as_objects_are_recorded_each_with_its_own_spec(tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker

    manager = task_manager()
    options: dict[str, Any] = {"tasks": ["tiny_spatial"], "task_manager": manager, "limit": 2, "bootstrap_iters": 0}
    spec = {"vector": "spatial", "alpha": 0.5, "tokens": "image"}
    models = [SteeredPaliGemma(pretrained="tiny-paligemma2", layer=layer, **spec) for layer in (2, 3)]
    for layer, lm in ((2, models[0]), (3, models[1])):
        tracker = EvaluationTracker(output_path=str(tmp_path))
        results = simple_evaluate(model=lm, evaluation_tracker=tracker, **options)
        assert results["steering"]["spec"].endswith(f"spatial/mean_shift,layer={layer},alpha=0.5,tokens=image")
        assert f"_L{layer}_a0.5_image_" in tracker.general_config_tracker.model_name
    with pytest.raises(ValueError, match="use_cache cannot tell models apart that are given as objects"):
        simple_evaluate(model=models[0], use_cache=str(tmp_path), **options)


@pytest.mark.slow
def test_an_object_that_is_made_before_the_evaluator_is_imported_is_recorded() -> None:
    program = f"""
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.harness.task_index import cache_task_index
import sys
lm = SteeredPaliGemma({TINY.replace("=", "='")}', vector='spatial', layer=3, alpha=0.5, tokens='image')
assert "lmms_eval.evaluator" not in sys.modules
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager
from lmms_steer.harness.task_files import tasks_dir
manager = TaskManager(include_path=tasks_dir(), include_defaults=False)
print(evaluator.simple_evaluate(lm, tasks=["tiny_spatial"], limit=1, task_manager=manager)["steering"]["spec"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "layer=3,alpha=0.5,tokens=image" in done.stdout, done.stderr[-2000:]
