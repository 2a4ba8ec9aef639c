"""lmms-eval's own wrappers, steered."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer import UserError, measure_norms
from lmms_steer.harness.names import MODELS
from lmms_steer.harness.patches import index_our_tasks
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.task_files import tasks_dir
from tests.helpers import warm
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors
from tests.helpers.task_manager import task_manager


def saved(name: str, folder: Path) -> Path:
    model, processor = build(name)
    model.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    return folder / name


def test_our_models_and_steered_wrappers_are_registered() -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2

    for name in (*MODELS, "steered_internvl_hf", "steered:internvl_hf", "steered_qwen2_5_vl", "steered_gemma3"):
        assert MODEL_REGISTRY_V2.resolve(name).class_path.startswith("lmms_steer.harness.")
    assert MODEL_REGISTRY_V2.resolve("internvl_hf").class_path.startswith("lmms_eval.")


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["text"]}]}
    ]


def answers(model: str, args: str) -> list[str]:
    from lmms_eval.models import get_model

    lm = get_model(model).create_from_arg_string(args, {"batch_size": 1, "device": "cpu"})
    docs = [{"image": picture(i), "text": f"where is cup {i} ?"} for i in range(4)]
    lm.task_dict = {"t": {"test": docs}}
    settings = {"max_new_tokens": 6, "do_sample": False, "until": ["zzz"]}
    requests = [
        SimpleNamespace(args=(doc["text"], messages, dict(settings), i, "t", "test")) for i, doc in enumerate(docs)
    ]
    return [str(getattr(answer, "text", answer)) for answer in lm.generate_until(requests)]


@pytest.mark.slow
def test_a_steered_wrapper_without_a_spec_gives_the_answers_of_the_original(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path)
    vector = vectors(scale=20).save(tmp_path / "v.safetensors")
    plain = f"pretrained={folder}"
    spec = f"vector={vector},layer=1,alpha=3,tokens=both"
    stock = answers("internvl_hf", plain)
    assert answers("steered_internvl_hf", plain) == stock != answers("steered:internvl_hf", f"{plain},{spec}")


@pytest.mark.slow
def test_a_steered_wrapper_runs_from_the_command_line_and_records_the_spec(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path)
    vector = vectors().save(tmp_path / "v.safetensors")
    args = f"pretrained={folder},vector={vector},layer=1,alpha=3,tokens=both"
    line = ["lmms-eval", "--model", "steered:internvl_hf", "--model_args", args, "--tasks", "tiny_spatial"]
    more = ["--limit", "4", "--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = warm.run(*line, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("*results.json")
    assert json.loads(results.read_text())["steering"]["spec"].endswith("layer=1,alpha=3,tokens=both")


@pytest.mark.parametrize("task_type", ["simple", "chat"])
def test_a_steered_wrapper_is_asked_what_the_wrapper_is_asked(tmp_path: Path, task_type: str) -> None:
    index_our_tasks()
    prompts = {name: {"pre_prompt": f"for {name} . "} for name in ("default", "qwen3_vl", "steered_hf")}
    included = f"{tasks_dir()}/tiny_world/tiny_spatial.yaml"
    # JSON is YAML
    (tmp_path / "t.yaml").write_text(
        json.dumps({"include": included, "task": "t", "lmms_eval_specific_kwargs": prompts})
    )

    def asked(model: str) -> str:
        manager = task_manager(tmp_path, model_name=model)
        task = manager.load_task_or_group(["t"], task_type)["t"]
        assert manager.model_name == model
        return str(task.doc_to_text(task.test_docs()[0])).split(" . ")[0]

    for model in ("qwen3_vl", "steered_qwen3_vl", "steered:qwen3_vl"):
        assert asked(model) == "for qwen3_vl"
    # our own models, and wrappers without a block
    assert asked("steered_hf") == "for steered_hf"
    assert asked("steered_llava_hf") == asked("llava_hf") == asked("steered_paligemma") == "for default"


def test_wrappers_of_engines_and_apis_are_refused() -> None:
    from lmms_steer.harness.wrapped import steered_class

    for name in ("vllm", "sglang", "openai"):
        with pytest.raises(UserError, match=f"{name} runs its model in an engine or behind an API"):
            steered_class(name)


class PassingOn:
    """Like wrappers of lmms-eval that pass all arguments to a parent."""

    def __init__(self, more: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class OtherNames:
    """Like lmms-eval's Phi-3-vision: other names for the checkpoint's argument and the processor's attribute."""

    def __init__(self, model_id_name: str | None = None, trust_remote_code: bool = True) -> None:
        assert trust_remote_code is True
        self.model = AutoModelForImageTextToText.from_pretrained(model_id_name)
        self._processor = AutoProcessor.from_pretrained(model_id_name)


class PassingOnOtherNames(PassingOn, OtherNames):
    pass


@pytest.mark.parametrize("kind", [OtherNames, PassingOnOtherNames])
def test_a_wrapper_may_name_its_checkpoint_differently_or_pass_it_to_a_parent(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmms_eval.models

    from lmms_steer.harness.wrapped import steered_class

    monkeypatch.setattr(lmms_eval.models, "get_model", lambda *_, **__: kind)
    made: Any = steered_class("phi3v")
    vector = str(vectors().save(tmp_path / "v.safetensors"))
    spec = {"vector": vector, "layer": 1, "alpha": 1, "tokens": "text_paper"}
    lm: Any = made(model_id_name=str(saved("llava", tmp_path)), **spec)
    assert lm.attachment and lm.pretrained == str(tmp_path / "llava")
    with pytest.raises(UserError, match="no model: add model_id_name=NAME"):
        made(**spec)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "checkpoint"), [("instructblip", "instructblip"), ("llava_hf", "llava")])
def test_wrappers_that_keep_their_processor_elsewhere_measure_on_images(
    model: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.models import get_model

    # which lmms-eval does not install
    monkeypatch.setitem(sys.modules, "decord", SimpleNamespace(VideoReader=None, cpu=None))
    vector = vectors().save(tmp_path / "v.safetensors")
    spec = f"vector={vector},layer=1,alpha=0.5,tokens=both,scale=relative"
    args = f"pretrained={saved(checkpoint, tmp_path)},device=cpu,{spec}"
    if model == "llava_hf":
        args += ",device_map=cpu"
    lm: Any = get_model(f"steered_{model}").create_from_arg_string(args)
    assert lm.resolved.norms == measure_norms(*build(checkpoint))
    assert set(lm.resolved.norms[1]) == {"image", "text", "both", "last"}


@pytest.mark.parametrize("key", ["scale=relative", "alpha=kl:0.1"])
def test_a_wrapper_without_a_processor_measures_nothing_on_sentences(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmms_eval.models

    from lmms_steer.harness.wrapped import steered_class

    class OnlyTokenizer(OtherNames):
        def __init__(self, model_id_name: str) -> None:
            super().__init__(model_id_name)
            self._tokenizer = self._processor.tokenizer
            # such as CLIP's, which makes pixels only
            self._image_processor = self._processor.image_processor
            del self._processor

    class Neither(OnlyTokenizer):
        def __init__(self, model_id_name: str) -> None:
            super().__init__(model_id_name)
            del self._tokenizer

    spec = {"vector": str(vectors().save(tmp_path / "v.safetensors")), "layer": 1, "alpha": 1, "tokens": "image"}
    spec |= dict([key.split("=")])
    folder = saved("llava", tmp_path)
    for kind, kept in ((OnlyTokenizer, r"a \w+ and no processor"), (Neither, "no processor")):
        monkeypatch.setattr(lmms_eval.models, "get_model", lambda *_, kind=kind, **__: kind)
        made: Any = steered_class("phi3v")
        with pytest.raises(UserError, match=f"{key} is measured on images, but the model's wrapper keeps {kept}: give"):
            made(model_id_name=folder, **spec)
        assert made(model_id_name=folder, **spec | {"alpha": 1, "scale": "token"}).attachment


def test_wrappers_without_a_checkpoint_are_refused() -> None:
    from lmms_steer.harness.wrapped import steered_class

    for name in ("from_log", "dummy", "batch_gpt4", "longvila"):
        with pytest.raises(UserError, match=f"{name} loads no checkpoint .*: it cannot be steered"):
            steered_class(name)
    with pytest.raises(UserError, match="lmms-eval's bagel cannot be imported"):
        steered_class("bagel")
    assert steered_class("phi3v").__name__ == "SteeredPhi3v"


def test_a_misspelled_key_is_named_and_not_the_keys_that_then_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import lmms_eval.models

    from lmms_steer.harness.wrapped import steered_class

    monkeypatch.setattr(lmms_eval.models, "get_model", lambda *_, **__: PassingOnOtherNames)
    for made in (steered_class("phi3v"), SteeredVlm):
        for wrong, right in (("vecter", "vector"), ("tokns", "tokens"), ("stering", "steering")):
            with pytest.raises(UserError, match=f"unknown key '{wrong}' in --model_args: did you mean '{right}'"):
                made.create_from_arg_string(f"{wrong}=spatial,layer=2")
    with pytest.raises(UserError, match="'model_id_nam' in --model_args: did you mean 'model_id_name'"):
        steered_class("phi3v").create_from_arg_string("model_id_nam=x")
    # what lmms-eval adds is no misspelling
    with pytest.raises(UserError, match="no such|cannot load|is no"):
        made = steered_class("phi3v")
        made.create_from_arg_string("model_id_name=./none", {"max_batch_size": 4, "batch_size": 1})
