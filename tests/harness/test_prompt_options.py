"""Options of the harnesses that change prompts: done right, or refused in one line before a question is asked."""

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from lmms_eval.models.registry_v2 import ModelRegistryV2

from lmms_steer import UserError
from lmms_steer.harness import lm_eval as ours
from lmms_steer.harness.command_line import own_option_error
from lmms_steer.harness.lm_eval_command import run as run_lm_eval
from lmms_steer.harness.plugin import manifests
from lmms_steer.harness.run_checks import check_run
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.wrapped import steered_class
from tests.helpers.documents import ROOT


def questions(**config: Any) -> dict[str, Any]:
    settings = {"task": "mine", "output_type": "generate_until", "generation_kwargs": {}, "num_fewshot": 0, **config}
    return {"mine": SimpleNamespace(config=SimpleNamespace(**settings))}


def command(**options: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"gen_kwargs": None, "limit": None, "num_fewshot": None, **options})


@pytest.mark.parametrize("model", ["steered_hf", "internvl_hf"])
def test_options_that_would_change_only_the_text_of_a_prompt_are_refused(model: str) -> None:
    cls: Any = SteeredVlm if model == "steered_hf" else steered_class(model)
    lm = cls.__new__(cls)
    check_run(lm, questions(), command(num_fewshot=0))
    instead = "prompt_prefix" if model == "steered_hf" else "system_prompt"
    for options, call, expected in (
        ({}, {"apply_chat_template": True}, "--apply_chat_template: lmms-eval's models apply the checkpoint's"),
        ({}, {"fewshot_as_multiturn": True}, "--fewshot_as_multiturn: there are no examples"),
        ({}, {"system_instruction": "be brief"}, f"--system_instruction would run into .*{instead}"),
        ({"num_fewshot": 2}, {}, "--num_fewshot 2: lmms-eval gives examples without their images"),
        ({"num_fewshot": -1}, {}, "--num_fewshot -1"),
        ({"gen_kwargs": "max_new_tokens=0"}, {}, "max_new_tokens=0: expected a whole number from 1 up"),
    ):
        with pytest.raises(UserError, match=expected):
            tasks = questions(generation_kwargs={"max_new_tokens": 0} if "gen_kwargs" in options else {})
            check_run(lm, tasks, command(**options), call)
    with pytest.raises(UserError, match="mine asks for 3 examples in each prompt"):
        check_run(lm, questions(num_fewshot=3), None)


def test_a_task_that_cannot_be_done_is_refused_before_the_tasks_in_front_of_it() -> None:
    lm = SteeredVlm.__new__(SteeredVlm)
    first = questions()["mine"]

    def check(kind: str) -> None:
        check_run(lm, {"first": first, **questions(output_type=kind)}, None)

    for kind in ("generate_until", "loglikelihood", "multiple_choice"):
        check(kind)
    with pytest.raises(UserError, match="generate_until_multi_round is not supported"):
        check("generate_until_multi_round")
    lm.response_cache_in_use = True
    check("generate_until")
    for kind in ("loglikelihood", "multiple_choice"):
        with pytest.raises(UserError, match="--use_cache cannot hold log-likelihoods"):
            check(kind)


def test_lmms_eval_asking_for_a_chat_template_is_told_why_there_is_none() -> None:
    lm = SteeredVlm.__new__(SteeredVlm)
    for name in ("chat_template", "apply_chat_template"):
        with pytest.raises(UserError, match="--apply_chat_template: lmms-eval's models apply"):
            getattr(lm, name)
    # some wrappers keep a template of their own under this name
    lm.chat_template = "theirs"
    assert lm.chat_template == "theirs"


def test_an_option_that_lmms_eval_itself_refuses_is_a_users_mistake() -> None:
    source = "def check():\n    raise ValueError('--offset must be >= 0')\n"
    for module, mistake in (("lmms_eval.__main__", True), ("lmms_eval.evaluator", False)):
        space: dict[str, Any] = {"__name__": module}
        exec(source, space)
        try:
            space["check"]()
        except ValueError as error:
            found = own_option_error(error)
        assert (str(found) == "lmms-eval: --offset must be >= 0") is mistake


@pytest.mark.parametrize("views", ["full", "none yet"])
def test_a_registry_whose_tables_are_read_only_lists_our_models_and_steered_wrappers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, views: str
) -> None:
    registry = ModelRegistryV2()
    stand_in = ModuleType("lmms_eval.models")
    if views == "full":
        tables = {"SIMPLE": {"qwen2_vl": "Qwen2_VL"}, "CHAT_TEMPLATE": {"internvl_hf": "InternVLHf"}}
        for kind, table in tables.items():
            setattr(stand_in, f"AVAILABLE_{kind}_MODELS", MappingProxyType(table))
    monkeypatch.setitem(sys.modules, "lmms_eval.models", stand_in)
    for manifest in manifests():
        registry.register_manifest(manifest)
    names = registry.list_canonical_model_ids()
    assert {"steered_hf", "steered_paligemma", "steered_qwen2_vl", "steered_internvl_hf"} <= set(names)
    assert registry.get_manifest("steered_internvl_hf").simple_class_path is None
    assert registry.get_manifest("steered_qwen2_vl").chat_class_path is None
    assert caplog.text == ""


def test_lm_eval_finds_our_models_by_their_entry_points() -> None:
    """A stand-in for its documented loader: `name = module:object` is loaded when the name is asked for."""
    from configparser import ConfigParser

    from lm_eval.api.model import LM

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.entry_points"]["lm_eval.models"].strip().splitlines()
    points = {name.strip(): EntryPoint(name.strip(), value.strip(), "lm_eval.models") for name, value in (
        line.split("=", 1) for line in lines
    )}  # fmt: skip
    assert {name: point.load() for name, point in points.items()} == {
        "steered_hf": ours.SteeredHFLM,
        "steered_hf_multimodal": ours.SteeredHFMultimodalLM,
    }
    assert all(issubclass(point.load(), LM) for point in points.values())


@pytest.fixture
def lm_eval_task(tmp_path: Path) -> str:
    rows = [{"q": f"the cup {i}", "a": " of it", "b": " car"} for i in range(3)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    data = "{test: " + f"{tmp_path}/rows.json" + "}"
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {data}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['{{a}}', '{{b}}']\ndoc_to_target: 0\n"
        "metric_list:\n  - metric: acc\n"
    )
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_lm_evals_options_are_done_or_refused_in_one_line(
    lm_eval_task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cached: bool
) -> None:
    import lm_eval.__main__
    from lm_eval import evaluator
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.tasks import TaskManager

    # its command line would index thousands of tasks for every run
    manager = TaskManager(include_path=lm_eval_task, include_defaults=False)
    lm = ours.SteeredHFLM(pretrained="tiny-gemma2", device="cpu")

    def run(**options: Any) -> Any:
        results: list[Any] = []

        def cli_evaluate() -> None:
            EvaluatorConfig(
                **{k: v for k, v in options.items() if k != "num_fewshot"}, tasks=["own"]
            )._validate_arguments()
            cache = str(tmp_path / "answers") if cached else None
            results.append(
                evaluator.simple_evaluate(lm, tasks=["own"], task_manager=manager, use_cache=cache, **options)
            )

        monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", cli_evaluate)
        monkeypatch.setattr(sys, "argv", [])
        run_lm_eval([])
        return results[0]

    for options, expected in (
        ({"apply_chat_template": True}, "--apply_chat_template: .*tiny-gemma2 has no chat template"),
        ({"fewshot_as_multiturn": True}, "lm-eval: .*`apply_chat_template` must be set"),
        ({"num_fewshot": 4}, "--num_fewshot 4: own has 3 examples for each question"),
        ({"num_fewshot": -1}, "--num_fewshot -1: expected a whole number from 0 up"),
        ({"limit": 0}, "--limit 0 leaves no questions"),
    ):
        with pytest.raises(UserError, match=expected):
            run(**options)
    assert run(num_fewshot=2, system_instruction="be brief")["n-shot"] == {"own": 2}


def test_a_model_that_lm_eval_does_not_have_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.__main__
    from lm_eval.api.registry import get_model

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: get_model("steered_paligemma"))
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(UserError, match="^lm-eval: .*'steered_paligemma', but no model .*: .*, steered_hf,"):
        run_lm_eval([])


def test_the_number_of_generated_tokens_has_one_name_and_is_at_least_one() -> None:
    assert ours._checked({"max_gen_toks": 4, "max_new_tokens": 4})["max_gen_toks"] == 4
    for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"):
        with pytest.raises(UserError, match=f"{name}=0: expected a whole number from 1 up"):
            ours._checked({name: 0})
    with pytest.raises(UserError, match="max_gen_toks=4, max_tokens=9 are the same setting: give one"):
        ours._checked({"max_gen_toks": 4, "max_tokens": 9})
