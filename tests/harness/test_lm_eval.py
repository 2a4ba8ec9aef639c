"""lm-evaluation-harness: our models agree with its own `steered` and distinguish context from continuation."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.hf_steered import SteeredModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lmms_steer import SteeringVectors, UserError, concepts, steer
from lmms_steer.comparison.provenance import harness_command
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.harness.lm_eval import SteeredHFLM, SteeredHFMultimodalLM
from lmms_steer.harness.lm_eval_command import run
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store
from lmms_steer.vectors.formats import export_vector
from tests.helpers import warm
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors

OPTIONS: dict[str, Any] = {"device": "cpu", "batch_size": 4, "dtype": "float32"}
SPEC: dict[str, Any] = {"vector": "spatial", "layer": 3, "alpha": 0.5, "tokens": "both"}


def requests(cut: int = 20) -> list[Instance]:
    pairs = [(p.sentence[:cut], p.sentence[cut:]) for p in concepts.load("counting").pairs]
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


def ours(**spec: Any) -> list[tuple[float, bool]]:
    lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, **{**SPEC, **spec})
    return [(score, greedy) for score, greedy in lm.loglikelihood(requests())]


def test_phase_all_agrees_with_lm_eval_s_own_steered_model(tmp_path: Path) -> None:
    made = SteeringVectors.load(store.find("tiny-gemma2/spatial/mean_shift", None).path)
    list(export_vector(made, "lm-eval", tmp_path / "v.pt", 3, 0.5))
    theirs = SteeredModel(pretrained=str(weights_dir("tiny-gemma2")), steer_path=str(tmp_path / "v.pt"), **OPTIONS)
    assert ours(phase="all") == theirs.loglikelihood(requests())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_text_is_scored_by_where_its_answer_begins_and_not_by_another_request(order: tuple[int, ...]) -> None:
    lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, **{**SPEC, "alpha": 4})
    split = [("the cat is", " on the table"), ("the cat is on the", " table"), ("the cat", " is on the table")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(split)]
    alone = [lm.loglikelihood([one])[0] for one in asked]
    together = lm.loglikelihood([asked[number] for number in order])
    assert [score for score, _ in together] == pytest.approx([alone[number][0] for number in order], abs=1e-4)


@pytest.mark.slow
def test_in_prefill_the_scored_continuation_is_not_steered() -> None:
    lm = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, **SPEC)
    v = torch.from_numpy(lm.resolved.vectors[0][3].copy()) * 0.5
    expected = []
    for instance in requests():
        context, answer = lm._encode_pair(*instance.args)
        ids = torch.tensor([context + answer])

        def change(module: Any, args: Any, output: torch.Tensor, n: int = len(context)) -> torch.Tensor:
            changed = output.clone()
            changed[:, :n] += v
            return changed

        lm.attachment.remove()
        handle = lm.model.get_decoder().layers[3].register_forward_hook(change)
        with torch.no_grad():
            scores = lm.model(ids).logits.log_softmax(-1)[0, len(context) - 1 : -1]
        handle.remove()
        expected.append(float(scores.gather(1, torch.tensor(answer).unsqueeze(1)).sum()))
    assert [score for score, _ in ours()] == pytest.approx(expected, abs=1e-3)
    assert ours() != ours(phase="all") != ours(alpha=0)


@pytest.mark.slow
def test_a_multimodal_model_is_steered(tmp_path: Path) -> None:
    model, processor = build("idefics3")
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    path = vectors(scale=5).save(tmp_path / "v.safetensors")
    settings = {"until": ["zzz"], "max_gen_toks": 4, "do_sample": False}
    answers = []
    for spec in ({}, {"vector": str(path), "layer": 1, "alpha": 3, "tokens": "image"}):
        lm = SteeredHFMultimodalLM(pretrained=str(tmp_path / "m"), device="cpu", batch_size=1, dtype="float32", **spec)
        instance = Instance("generate_until", {}, ("<image> how many cups ?", settings, {"visual": [picture(0)]}), 0)
        answers.append(lm.generate_until([instance]))
    assert answers[0] != answers[1]
    settings.pop("max_gen_toks")
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        instance.arguments = ("<image> how many cups ?", {**settings, name: "4"}, {"visual": [picture(0)]})
        assert lm.generate_until([instance]) == answers[1]
    assert lm.get_model_info()["steering"]["spec"].endswith("layer=1,alpha=3,tokens=image")


@pytest.mark.slow
def test_a_multimodal_model_scores_answers_without_images_as_generated_text(tmp_path: Path) -> None:
    model, processor = build("idefics3")
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    path = vectors(scale=5).save(tmp_path / "v.safetensors")
    pairs = [("where is the red cat ?", " left of the dog"), ("how many", " cups are on the table"), ("left", " dog")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]

    def load(**spec: Any) -> Any:
        options = {"device": "cpu", "batch_size": 3, "dtype": "float32"}
        return SteeredHFMultimodalLM(pretrained=str(tmp_path / "m"), **options, **spec)

    plain = load()
    for tokens, phase in (("text", "prefill"), ("last", "prefill"), ("last", "all"), ("text", "decode")):
        expected = []
        for context, answer in (plain._encode_pair(*pair) for pair in pairs):
            first = 0 if tokens == "text" else len(context) - 1
            start, end = (len(context) if phase == "decode" else first, len(context) if phase == "prefill" else None)

            def push(module: Any, args: Any, output: Any, start: int = start, end: int | None = end) -> Any:
                changed = output.clone()
                changed[:, start:end] += 3 * torch.from_numpy(SteeringVectors.load(path)[1])
                return changed

            handle = plain.model.get_decoder().layers[1].register_forward_hook(push)
            with torch.no_grad():
                scores = plain.model(torch.tensor([context + answer])).logits.log_softmax(-1)[0, len(context) - 1 : -1]
            handle.remove()
            expected.append(float(scores.gather(1, torch.tensor(answer).unsqueeze(1)).sum()))
        found = load(vector=str(path), layer=1, alpha=3, tokens=tokens, phase=phase).loglikelihood(asked)
        assert [score for score, _ in found] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(UserError, match="generates answers to questions with images, and scores none"):
        plain.loglikelihood([Instance("loglikelihood", {}, ("<image> where", " left", {"visual": [picture(0)]}), 0)])


def test_results_from_inside_of_a_steer_block_are_refused() -> None:
    lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS)
    with (
        pytest.raises(UserError, match="leave the block"),
        steer(lm.model, "vector=tiny-gemma2/spatial/mean_shift,layer=1,alpha=1,tokens=text"),
    ):
        lm.get_model_info()
    assert lm.get_model_info()["steering"]["spec"] == ""


@pytest.mark.slow
def test_our_command_line_runs_lm_eval_with_our_models(tmp_path: Path) -> None:
    rows = [{"q": "the cup is left", "a": " of it", "b": " car the"}, {"q": "there are two", "a": " cups", "b": " the"}]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.json}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['{{a}}', '{{b}}']\n"
        "doc_to_target: 0\nmetric_list:\n  - metric: acc\n"
    )
    args = "pretrained=tiny-gemma2,vector=tiny-gemma2/spatial,layer=3,alpha=0.5,tokens=text"
    words = ["lmms-steer", "lm-eval", "run", "--model", "steered_hf", "--model_args", args, "--tasks", "own"]
    words += ["--num_fewshot", "1", "--batch_size", "2", "--limit", "2", "--seed", "7,7,7,7"]
    words += ["--system_instruction", "Be brief.", "--log_samples"]
    done = warm.run(*words, "--include_path", str(tmp_path), "--device", "cpu", "--output_path", str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "o").rglob("results*.json")
    (samples,) = (tmp_path / "o").rglob("samples_own_*.jsonl")
    record = json.loads(results.read_text())["config"]["steering"]
    folder = f"tiny-gemma2__spatial-mean_shift_L3_a0.5_text_{record['sha256'][:8]}"
    assert results.parent == samples.parent == tmp_path / "o" / folder
    again = shlex.split(harness_command(read_results(newest_evaluation(tmp_path / "o"))))
    assert again == [*words[:-1], "--output_path", "runs", words[-1]]
    assert record["spec"] == "vector=tiny-gemma2/spatial/mean_shift,layer=3,alpha=0.5,tokens=text" and record["sha256"]


def test_a_key_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = r"alpha is given 2 times in --model_args \(alpha=0.5 and alpha=1.0\)"
    line = ["run", "--model", "steered_hf", "--tasks", "own", "--model_args"]
    monkeypatch.setattr(sys, "argv", ["lm-eval"])
    for args in (
        ["pretrained=tiny-gemma2,alpha=0.5,alpha=1.0"],
        ["alpha=0.5", "alpha=1.0"],
        ["alpha=0.5", "--model_args", "alpha=1.0"],
        ['{"alpha": 0.5, "alpha": 1.0}'],
    ):
        with pytest.raises(UserError, match=twice):
            run([*line, *args])
    with pytest.raises(UserError, match=r"top_k is given 2 times in --gen_kwargs"):
        run([*line, "alpha=1", "--gen_kwargs", "top_k=1,top_k=2"])
    with pytest.raises(UserError, match="alpha is given 2 times in model_args"):
        SteeredHFLM.create_from_arg_string("pretrained=tiny-gemma2,alpha=0.5,alpha=1.0")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("preset=vcd", "contrast=vcd, which preset=vcd sets"),
        ("contrast=m3id", "contrast=m3id"),
        ("image=blank", "image=blank"),
        ("prompt_prefix=answer en", "prompt_prefix=answer en"),
        ("answer_bias=b.yaml", "answer_bias=b.yaml"),
        ("divergence=8", "divergence=8"),
        ("max_pixels=9", "max_pixels=9"),
    ],
)
def test_settings_of_the_models_for_lmms_eval_are_refused_in_one_line(args: str, named: str) -> None:
    with pytest.raises(UserError, match=f"^{named}: only the models for lmms-eval have this setting; leave it out$"):
        SteeredHFLM.create_from_arg_string(f"pretrained=tiny-gemma2,{args}")
    if "max_pixels" not in args:
        with pytest.raises(UserError, match=f"^{named}: only the models for lmms-eval"):
            SteeredHFMultimodalLM.create_from_arg_string(f"pretrained=tiny-paligemma2,{args}")


def test_arguments_that_lm_eval_passes_on_to_transformers_are_taken() -> None:
    lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, attn_implementation="eager")
    assert lm.model.config._attn_implementation == "eager"
    given = {"pretrained": "tiny-paligemma2", "max_pixels": 9, "device_map": "auto"}
    SteeredHFMultimodalLM.__new__(SteeredHFMultimodalLM).take_spec(dict(given))


def test_settings_are_checked_and_read_as_generate_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS)
    seen: list[Any] = []
    generate = lm.model.generate

    def noted(**kwargs: Any) -> Any:
        seen.append(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(lm.model, "generate", noted)

    def ask(**settings: Any) -> None:
        lm.generate_until([Instance("generate_until", {}, ("the cup", {"max_gen_toks": 2, **settings}), 0)])

    ask(do_sample=True, temperature=1, top_p="0.9", top_k=3.0)
    assert [(seen[0][name], type(seen[0][name])) for name in ("temperature", "top_p", "top_k")] == [
        (1.0, float),
        (0.9, float),
        (3, int),
    ]
    for settings, expected in (
        ({"max_new_tokenz": 5}, "unknown key 'max_new_tokenz' in generation_kwargs: did you mean 'max_new_tokens'"),
        ({"top_p": 2}, "top_p=2: expected a number from 0 to 1"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True needs a temperature above 0"),
        ({"do_sample": "yes"}, "do_sample=yes: expected True or False"),
    ):
        with pytest.raises(UserError, match=expected):
            ask(**settings)
    assert len(seen) == 1


def test_a_cache_of_answers_belongs_to_one_spec_and_to_the_versions_that_the_results_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(**args: Any) -> Any:
        lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **{**OPTIONS, **args})
        return CachingLM(lm, str(tmp_path / "cache.db")).loglikelihood(requests()[:1])

    assert cached(**SPEC) == cached(**SPEC) == cached(**SPEC, batch_size=1)
    for other in ({}, {**SPEC, "alpha": 1}, {**SPEC, "dtype": "bfloat16"}, {**SPEC, "revision": "main"}):
        with pytest.raises(UserError, match="--use_cache holds answers of another model or spec"):
            cached(**other)
    # as if transformers were upgraded
    monkeypatch.setattr("lmms_steer.harness.steering_mixin.version", lambda name: f"99 of {name}")
    with pytest.raises(UserError, match="of other versions of lmms-steer, transformers or torch"):
        cached(**SPEC)


@pytest.mark.parametrize("settings", [{"max_gen_toks": 2}, {"max_new_tokens": "2", "temperature": 0}])
def test_answers_from_before_a_kill_are_not_asked_for_again(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        Instance("generate_until", {}, (text, {"until": ["zz"], "do_sample": False, **settings}), number)
        for number, text in enumerate(("the cup is on the table", "the dog is", "left"))
    ]
    generated: list[Any] = []

    def answer(allowed: int) -> Any:
        lm: Any = SteeredHFLM(pretrained="tiny-gemma2", **{**OPTIONS, **SPEC, "batch_size": 1})
        generate = lm._model_generate

        def noted(*args: Any, **kwargs: Any) -> Any:
            if len(generated) == allowed:
                raise KeyboardInterrupt
            generated.append(args)
            return generate(*args, **kwargs)

        monkeypatch.setattr(lm, "_model_generate", noted)
        cached = CachingLM(lm, str(tmp_path / "cache.db"))
        try:
            return cached.generate_until(asked)
        finally:
            cached.dbdict.close()

    with pytest.raises(KeyboardInterrupt):
        answer(allowed=2)
    assert len(answer(allowed=9)) == len(generated) == 3


def test_a_cache_of_answers_belongs_to_the_weights_and_to_those_of_an_adapter(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights_dir("tiny-gemma2"), tmp_path / "m"))
    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(target_modules=["q_proj"])
    )
    adapted.save_pretrained(str(tmp_path / "adapter"))

    def cached(name: str, **args: Any) -> Any:
        lm: Any = SteeredHFLM(pretrained=str(folder), **{**OPTIONS, **args})
        return CachingLM(lm, str(tmp_path / f"{name}.db")).loglikelihood(requests()[:1])

    adapter = {"peft": str(tmp_path / "adapter")}
    assert cached("plain") == cached("plain")
    cached("adapted", **adapter)
    for name, args, changed in (
        ("adapted", adapter, tmp_path / "adapter" / "adapter_model.safetensors"),
        ("plain", {}, folder / "model.safetensors"),
    ):
        # as if it were trained again in place
        save_file({key: 1.5 * one for key, one in load_file(changed).items()}, changed, {"format": "pt"})
        with pytest.raises(UserError, match="--use_cache holds answers of another model or spec, of other weights"):
            cached(name, **args)


@pytest.mark.slow
def test_models_that_are_given_as_objects_are_recorded_each_with_its_own_spec(tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "rows.json").write_text(json.dumps({"q": "the cup is left", "a": " of it", "b": " car the"}))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{tmp_path}/rows.json"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["{{a}}", "{{b}}"],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }
    for layer in (2, 3):
        lm = SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, **{**SPEC, "layer": layer})
        results = simple_evaluate(model=lm, tasks=[dict(task)], task_manager=TaskManager(include_defaults=False))
        assert results["config"]["steering"]["spec"].endswith(f"layer={layer},alpha=0.5,tokens=both")


def test_arguments_of_the_harness_may_be_among_the_model_s() -> None:
    given = {" pretrained": "tiny-gemma2", "batch_size": 4, "device ": "cpu"}
    lm: Any = SteeredHFLM.create_from_arg_obj(given, {"batch_size": 1, "max_batch_size": None, "device": None})
    assert lm.batch_size == 4
    with pytest.raises(UserError, match="batch_size=4 in --model_args, but --batch_size 2: give one of them"):
        SteeredHFLM.create_from_arg_obj(given, {"batch_size": 2})
    with pytest.raises(UserError, match="pretrained is given 2 times in --model_args"):
        SteeredHFLM.create_from_arg_obj({"pretrained": "a", " pretrained": "b"})
    for made in (SteeredHFLM, SteeredVlm):
        with pytest.raises(UserError, match="pretrained is a Linear: give a checkpoint's name or folder"):
            made(pretrained=torch.nn.Linear(2, 2))


def test_a_key_that_neither_lm_eval_nor_transformers_knows_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match="unknown key 'foo' in --model_args"):
        SteeredHFLM(pretrained="tiny-gemma2", **OPTIONS, foo=1)
