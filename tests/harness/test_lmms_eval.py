"""lmms-eval as a command and as a library: our models and tasks, the files of a run, and users' mistakes."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmms_steer import UserError
from lmms_steer._util.logging import print_notes
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.harness.steered import SteeredPaliGemma, read_model_args
from lmms_steer.harness.task_files import check_task, harness_tasks, our_tasks
from lmms_steer.steering.anatomy import decoder_layers
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store
from tests.helpers import warm
from tests.helpers.models import vectors
from tests.helpers.task_manager import task_manager

TINY = "pretrained=tiny-paligemma2"
BIN = Path(sys.executable).parent


def command(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*args], capture_output=True, text=True, env={**os.environ, **env}, check=False)


@pytest.fixture(scope="module")
def lmms_eval() -> Any:
    """`simple_evaluate` with our tasks only, because indexing all tasks takes ten seconds."""
    from lmms_eval.evaluator import simple_evaluate

    manager = task_manager()

    def run(args: str | dict[str, Any], *tasks: str, **more: Any) -> Any:
        settings = {"batch_size": 16, "limit": 32, "log_samples": True, "bootstrap_iters": 0, **more}
        return simple_evaluate(
            model="steered_paligemma", model_args=args, tasks=list(tasks), task_manager=manager, **settings
        )

    return run


def answers(results: Any, task: str) -> list[Any]:
    return [(s["doc_id"], s["filtered_resps"], s["score"]) for s in results["samples"][task]]


@pytest.mark.slow
def test_the_command_line_finds_our_model_and_task_and_its_output_names_the_spec(tmp_path: Path) -> None:
    store.save(vectors(5, 96, model="tiny-gemma2", scale=0.3))
    done = warm.run(
        "lmms-eval", "--model", "steered_paligemma",
        "--model_args", f"{TINY},vector=spatial,layer=3,alpha=0.5,tokens=image",
        "--tasks", "tiny_spatial", "--batch_size", "16", "--limit", "8",
        "--output_path", str(tmp_path / "out"), "--log_samples",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "out").iterdir()
    results = read_results(newest_evaluation(tmp_path / "out"))
    steering = results.steering
    assert folder.name == f"tiny-paligemma2__spatial-mean_shift_L3_a0.5_image_{steering['sha256'][:8]}"
    assert steering["spec"] == "vector=tiny-gemma2/spatial/mean_shift,layer=3,alpha=0.5,tokens=image"
    assert steering["vectors"][0]["provenance"]["model"] == "tiny-gemma2"
    assert len(read_samples(results, "tiny_spatial").keys) == 8


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("vector=spatial,layer=5", "layer=5.*0-4"),
        ("vector=spatial,layer=-1", "from 0 up"),
        ("vector=spatial,alpha=nan", "alpha=nan"),
        ("vector=spatial,tokens=pixels", "unknown tokens 'pixels'"),
        ("vector=spatial,steering=x.yaml", "not both"),
        ("layer=2", "names no vector"),
        ("vector=/no/such.safetensors", "no such vector file"),
        ("vector=a,b", "cannot read --model_args .*: 'b' is no key=value pair; put a value with a comma in double"),
        ("batch_size=0", "batch_size=0"),
        ("dtype=float8", "unknown dtype 'float8'"),
        ("trust_remote_code=no", "expected True or False"),
    ],
)
def test_mistakes_in_model_args_are_one_line(args: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        SteeredPaliGemma.create_from_arg_string(f"{TINY},{args}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_task_of_lmms_eval_is_known_without_importing_it() -> None:
    assert set(task_manager(include_defaults=True).all_tasks) <= {*our_tasks(), *harness_tasks()}
    check_task("flickr30k_test")
    with pytest.raises(UserError, match="unknown task 'flickr30k_tset': did you mean 'flickr30k_test'"):
        check_task("flickr30k_tset")


def test_a_checkpoint_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot load the checkpoint 'no/such': neither a folder nor reachable"):
        SteeredPaliGemma.create_from_arg_string("pretrained=no/such")


def test_a_vector_name_alone_prints_the_values_filled_in_and_their_source() -> None:
    printed = io.StringIO()
    print_notes()
    with redirect_stderr(printed):
        lm = SteeredPaliGemma.create_from_arg_string(f"{TINY},vector=spatial")
    assert "steering with vector=tiny-gemma2/spatial/mean_shift,layer=" in printed.getvalue()
    assert lm.resolved.spec.complete
    assert SteeredPaliGemma.default_pretrained == "google/paligemma2-3b-mix-448"


@pytest.mark.slow
def test_alpha_zero_gives_the_baselines_samples_and_batches_change_no_answer(lmms_eval: Any) -> None:
    base = lmms_eval(TINY, "tiny_counting")
    zero = lmms_eval(f"{TINY},vector=counting,layer=2,alpha=0,tokens=both", "tiny_counting")
    dump = [json.dumps(r["samples"], sort_keys=True, default=str) for r in (base, zero)]
    assert dump[0] == dump[1]
    spec = f"{TINY},vector=counting,layer=2,alpha=1,tokens=both"
    # nor does the measurement of how far they are from the plain model's
    many, one = lmms_eval(f"{spec},divergence=20", "tiny_counting"), lmms_eval(spec, "tiny_counting", batch_size=1)
    assert answers(many, "tiny_counting") == answers(one, "tiny_counting") != answers(base, "tiny_counting")
    measured = many["steering"]["divergence"]["tiny_counting"]
    assert measured["questions"] == 20 and measured["nats"] > 0


@pytest.mark.slow
def test_log_likelihoods_choose_the_answer_that_is_generated(lmms_eval: Any) -> None:
    spec = f"{TINY},vector=spatial,layer=1,alpha=1,tokens=text"
    for args in (TINY, spec):
        results = lmms_eval(args, "tiny_spatial", "tiny_spatial_ll", limit=64)
        generated = {s["doc_id"]: s for s in results["samples"]["tiny_spatial"]}
        scored = {s["doc_id"]: s["acc"] for s in results["samples"]["tiny_spatial_ll"]}
        named = [i for i, s in generated.items() if not s["unparsed"]]
        assert len(named) > 40
        assert all(generated[i]["acc"] == scored[i] for i in named)


@pytest.mark.slow
@pytest.mark.parametrize("by_class", [True, False])
def test_a_model_that_is_given_as_an_object_can_be_evaluated_again(by_class: bool) -> None:
    from lmms_eval.evaluator import simple_evaluate

    args = f"{TINY},vector=counting,layer=2,alpha=1,tokens=both"
    lm = SteeredPaliGemma(**read_model_args(args)) if by_class else SteeredPaliGemma.create_from_arg_string(args)
    manager, found = task_manager(), []
    for task in ("tiny_counting", "tiny_spatial", "tiny_counting"):
        results = simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, limit=4, log_samples=True, bootstrap_iters=0
        )
        assert results["steering"]["spec"].endswith("layer=2,alpha=1,tokens=both")
        found.append(answers(results, task))
    assert found[0] == found[2] != found[1] and lm.attachment


@pytest.mark.slow
def test_until_is_honoured_and_tokens_are_counted(lmms_eval: Any) -> None:
    plain = lmms_eval(TINY, "tiny_spatial", limit=8)
    cut = lmms_eval(TINY, "tiny_spatial", limit=8, gen_kwargs="until=t")
    for a, b in zip(plain["samples"]["tiny_spatial"], cut["samples"]["tiny_spatial"], strict=True):
        assert b["filtered_resps"][0] == a["filtered_resps"][0].split("t")[0]
        assert a["token_counts"][0]["output_tokens"] == 1
        assert a["token_counts"][0]["input_tokens"] == 16 + 1 + len(a["arguments"][0].split()) + 1


@pytest.mark.slow
def test_a_changed_vector_gives_no_stale_answers_from_the_response_cache(lmms_eval: Any, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    args = f"{TINY},vector={path},layer=1,alpha=1,tokens=both"
    seen = []
    for seed in (1, 2, 1):
        vectors(5, 96, seed=seed, scale=0.6, model="tiny-gemma2").save(path)
        seen.append(answers(lmms_eval(args, "tiny_counting", use_cache=str(tmp_path / "cache")), "tiny_counting"))
    assert seen[0] == seen[2] != seen[1]
    with pytest.raises(UserError, match="--use_cache cannot hold log-likelihoods"):
        lmms_eval(TINY, "tiny_spatial_ll", use_cache=str(tmp_path / "cache2"))


@pytest.mark.slow
def test_arguments_as_a_mapping_are_those_of_the_line(lmms_eval: Any, tmp_path: Path) -> None:
    from lmms_eval.loggers import EvaluationTracker

    options: dict[str, Any] = {"limit": 8, "use_cache": str(tmp_path / "cache")}
    for colour in ("red", "blue"):
        given = {"vector": f"tiny-gemma2/colour-{colour}", "layer": 0, "alpha": 1, "tokens": "image"}
        by_line = lmms_eval(
            ",".join([TINY, *(f"{key}={value}" for key, value in given.items())]), "tiny_colour", limit=8
        )
        tracker = EvaluationTracker(output_path=str(tmp_path))
        by_mapping = lmms_eval(
            {"pretrained": "tiny-paligemma2", **given}, "tiny_colour", evaluation_tracker=tracker, **options
        )
        assert answers(by_mapping, "tiny_colour") == answers(by_line, "tiny_colour")
        assert by_mapping["steering"] == by_line["steering"]
        assert tracker.general_config_tracker.model_name.startswith(f"tiny-paligemma2__colour-{colour}")
    with pytest.raises(UserError, match="unknown key 'layr'"):
        lmms_eval({"pretrained": "tiny-paligemma2", "layr": 3}, "tiny_colour")


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ",vector=tiny-gemma2/counting,layer=1,alpha=0.5,tokens=text"])
def test_changed_weights_give_no_stale_answers_from_the_response_cache(
    lmms_eval: Any, tmp_path: Path, more: str
) -> None:
    folder = Path(shutil.copytree(weights_dir("tiny-paligemma2"), tmp_path / "m"))
    trained = load_file(folder / "model.safetensors")
    seen = []
    for factor in (1, -1, 1):
        # as if it were trained again in place
        again = {
            name: factor * one if "lm_head" in name or "embed_tokens" in name else one for name, one in trained.items()
        }
        save_file(again, folder / "model.safetensors", {"format": "pt"})
        results = lmms_eval(f"pretrained={folder}{more}", "tiny_counting", limit=8, use_cache=str(tmp_path / "cache"))
        seen.append(answers(results, "tiny_counting"))
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.slow
def test_a_changed_processor_gives_no_stale_answers_from_the_response_cache(lmms_eval: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights_dir("tiny-paligemma2"), tmp_path / "m"))
    config = folder / "processor_config.json"
    settings = json.loads(config.read_text())
    seen = []
    for mean in ([0.5, 0.5, 0.5], [5.0, -5.0, 0.5], [0.5, 0.5, 0.5]):
        settings["image_processor"]["image_mean"] = mean
        config.write_text(json.dumps(settings))
        results = lmms_eval(f"pretrained={folder}", "tiny_counting", limit=8, use_cache=str(tmp_path / "cache"))
        seen.append(answers(results, "tiny_counting"))
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.slow
def test_an_answer_bias_changes_which_answer_is_given(lmms_eval: Any, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("six: 50.0\n")
    results = lmms_eval(f"{TINY},answer_bias={tmp_path / 'b.yaml'}", "tiny_counting", limit=8)
    assert all(s["filtered_resps"][0].startswith("six") for s in results["samples"]["tiny_counting"])
    assert results["steering"]["answer_bias"] == {"six": 50.0}
    cached = {"limit": 8, "use_cache": str(tmp_path / "cache")}
    for word in ("six", "one"):
        (tmp_path / "b.yaml").write_text(f"{word}: 50.0\n")
        results = lmms_eval(f"{TINY},answer_bias={tmp_path / 'b.yaml'}", "tiny_counting", **cached)
        assert {s["filtered_resps"][0] for s in results["samples"]["tiny_counting"]} == {word}
    (tmp_path / "b.yaml").write_text("- six\n")
    with pytest.raises(UserError, match="answer_bias"):
        SteeredPaliGemma.create_from_arg_string(f"{TINY},answer_bias={tmp_path / 'b.yaml'}")


@pytest.mark.slow
def test_blank_images_change_answers_and_the_run_says_so(lmms_eval: Any) -> None:
    seeing, blind = (lmms_eval(f"{TINY}{more}", "tiny_counting", limit=16) for more in ("", ",image=blank"))
    assert answers(blind, "tiny_counting") != answers(seeing, "tiny_counting")
    assert blind["steering"]["image"] == "blank" and "image" not in seeing["steering"]
    # samples name the question's own images, which say what is dependent
    images = [[sample["images"] for sample in one["samples"]["tiny_counting"]] for one in (seeing, blind)]
    assert images[0] == images[1] and len({image for (image,) in images[0]}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "all"])
def test_scoring_an_answer_is_steered_like_generating_it(phase: str) -> None:
    lm = SteeredPaliGemma.create_from_arg_string(f"{TINY},vector=counting,layer=1,alpha=2,tokens=text,phase={phase}")
    row = load_question_set("counting", "test")[0]
    inputs = lm.model_inputs([row["question"]], [[row["image"]]])
    out = lm.model.generate(
        **inputs, max_new_tokens=2, min_new_tokens=2, output_logits=True, return_dict_in_generate=True
    )
    words = out.sequences[0, inputs["input_ids"].shape[1] :]
    expected = -torch.stack([step.log_softmax(-1)[0, w] for step, w in zip(out.logits, words, strict=True)]).mean()
    answer = lm.tokenizer.decode(words)
    assert lm.tokenizer.eos_token not in answer
    (scored,) = lm._score([(row["question"], [row["image"]], answer)])
    assert scored.text[0] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_score_of_one(tmp_path: Path) -> None:
    words = ["python", "-m", "lmms_eval", "--model", "steered_paligemma", "--tasks", "tiny_counting", "--limit", "30"]
    words += ["--model_args", f"{TINY},vector=counting,layer=4,alpha=0.5,tokens=text", "--batch_size", "8"]
    words += ["--log_samples", "--output_path"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # what torchrun sets for each process that it starts
    ranks = [
        {**os.environ, **address, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        for rank in "01"
    ]
    started = [warm.start(*words, str(tmp_path / "two"), env=environment) for environment in ranks]
    one = warm.run(*words, str(tmp_path / "one"))
    for two in started:
        _, err = two.communicate()
        assert one.returncode == two.returncode == 0, err[-2000:]
    runs = [read_samples(read_results(newest_evaluation(tmp_path / name)), "tiny_counting") for name in ("one", "two")]
    assert runs[0].scores_by_document == runs[1].scores_by_document
    assert len(runs[0].keys) == 30


@pytest.mark.slow
def test_a_process_group_opened_after_the_model_is_closed_at_exit() -> None:
    """On a busy machine, the threads of an open group abort some exits after the results are written."""
    program = f"""
import atexit
from torch import distributed
atexit.register(lambda: print("open at exit:", distributed.is_initialized()))
from lmms_eval.models import get_model
model = get_model("steered_paligemma").create_from_arg_string("{TINY}")
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
"""
    done = warm.run("python", "-c", program)
    assert done.stdout.splitlines()[-1:] == ["open at exit: False"], done.stderr[-2000:]


def test_our_command_lists_the_tasks_that_lmms_eval_indexes(lmms_eval: Any) -> None:
    indexed = task_manager().all_tasks
    assert sorted(our_tasks()) == sorted(indexed)
    listed = command(str(BIN / "lmms-steer"), "tasks")
    assert listed.stdout.split() == sorted(our_tasks())


def test_importing_the_package_and_its_command_line_loads_no_torch() -> None:
    code = "import sys, lmms_steer, lmms_steer.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert command(sys.executable, "-c", code).stdout.split() == ["False", "False"]


def test_lmms_eval_lists_our_model_without_loading_its_tasks() -> None:
    code = (
        "import sys; sys.argv = ['lmms-eval', 'models']; from lmms_eval.cli.dispatch import main; main();"
        "print('tasks loaded:', 'lmms_eval.tasks' in sys.modules)"
    )
    listed = command(sys.executable, "-c", code).stdout
    assert "steered_paligemma" in listed and "tasks loaded: False" in listed


def test_an_unsteered_block_inside_of_another_changes_nothing() -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", vector="spatial", layer=2, alpha=1, tokens="image")

    def hooks() -> int:
        return sum(len(layer._forward_hooks) for layer in decoder_layers(lm.model))

    steered = hooks()
    with lm.unsteered():
        with lm.unsteered():
            assert hooks() == 0
        assert hooks() == 0
    assert hooks() == steered == 1


@pytest.mark.parametrize("acts", [True, False])
def test_an_evaluation_in_which_nothing_was_steered_says_so(acts: bool, caplog: pytest.LogCaptureFixture) -> None:
    keys = {"vector": "spatial", "layer": 2, "alpha": 1, "tokens": "image", "gate": "cosine"}
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", **keys, threshold=-1 if acts else 1)
    row = load_question_set("spatial", "select")[0]
    lm.start_evaluation()
    assert lm.attachment.acted is None, "no call yet: all answers may come from a cache"
    lm.end_evaluation()
    with torch.no_grad():
        lm.model(**lm.model_inputs([row["question"]], [[row["image"]]]))
    with lm.unsteered():
        pass
    assert lm.attachment.acted is acts and lm.steering_record.get("steered_nothing", False) is not acts
    lm.end_evaluation()
    assert ("not one token was steered" in caplog.text) is not acts
    lm.start_evaluation()
    assert lm.attachment.acted is None
