"""lmms-eval's own wrappers with steering in front, and `lmms-steer inspect`."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer import SteeringVectors, UserError
from lmms_steer.harness.plugin import MODELS
from lmms_steer.harness.steered import load_named_model
from lmms_steer.inspection.command import open_images
from lmms_steer.inspection.prompt import inspect_prompt, inspection_lines
from lmms_steer.vectors import store
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors

BIN = Path(sys.executable).parent


def saved(name: str, folder: Path) -> Path:
    model, processor = build(name)
    model.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    return folder / name


def test_names_of_ours_and_of_lmms_eval_s_own_are_registered() -> None:
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
    asked = [
        SimpleNamespace(args=(doc["text"], messages, dict(settings), i, "t", "test")) for i, doc in enumerate(docs)
    ]
    return [str(getattr(answer, "text", answer)) for answer in lm.generate_until(asked)]


def test_lmms_eval_s_own_wrapper_is_itself_unsteered_and_changes_steered(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path)
    vector = vectors(scale=20).save(tmp_path / "v.safetensors")
    plain = f"pretrained={folder}"
    spec = f"vector={vector},layer=1,alpha=3,tokens=both"
    stock = answers("internvl_hf", plain)
    assert answers("steered_internvl_hf", plain) == stock != answers("steered:internvl_hf", f"{plain},{spec}")


def test_it_runs_from_the_command_line_and_the_results_say_what_was_done(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path)
    vector = vectors().save(tmp_path / "v.safetensors")
    args = f"pretrained={folder},vector={vector},layer=1,alpha=3,tokens=both"
    line = [str(BIN / "lmms-eval"), "--model", "steered:internvl_hf", "--model_args", args, "--tasks", "tiny_spatial"]
    more = ["--limit", "4", "--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run([*line, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("*results.json")
    assert json.loads(results.read_text())["steering"]["spec"].endswith("layer=1,alpha=3,tokens=both")


def test_what_runs_elsewhere_cannot_be_steered() -> None:
    from lmms_steer.harness.wrapped import steered_class

    for name in ("vllm", "sglang", "openai"):
        with pytest.raises(UserError, match=f"{name} runs its model in an engine or behind an API"):
            steered_class(name)


class Handing:
    """As lmms-eval's wrappers that hand all on to a parent."""

    def __init__(self, more: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Named:
    """As its Phi-3-vision: another argument for the checkpoint, another attribute for the processor."""

    def __init__(self, model_id_name: str | None = None, trust_remote_code: bool = True) -> None:
        assert trust_remote_code is True
        self.model = AutoModelForImageTextToText.from_pretrained(model_id_name)
        self._processor = AutoProcessor.from_pretrained(model_id_name)


class HandingNamed(Handing, Named):
    pass


@pytest.mark.parametrize("kind", [Named, HandingNamed])
def test_a_wrapper_may_call_its_checkpoint_otherwise_or_hand_it_on(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmms_eval.models

    from lmms_steer.harness.wrapped import steered_class

    monkeypatch.setattr(lmms_eval.models, "get_model", lambda *_, **__: kind)
    made: Any = steered_class("phi3v")
    vector = str(vectors().save(tmp_path / "v.safetensors"))
    spec = {"vector": vector, "layer": 1, "alpha": 1, "tokens": "text_paper"}
    lm: Any = made(model_id_name=str(saved("llava", tmp_path)), **spec)
    assert len(lm.handles) == 3 and lm.pretrained == str(tmp_path / "llava")
    with pytest.raises(UserError, match="no model: add model_id_name=NAME"):
        made(**spec)


def test_what_loads_no_checkpoint_cannot_be_steered() -> None:
    from lmms_steer.harness.wrapped import steered_class

    for name in ("from_log", "dummy", "batch_gpt4", "longvila"):
        with pytest.raises(UserError, match=f"{name} loads no checkpoint .*: it cannot be steered"):
            steered_class(name)
    with pytest.raises(UserError, match="lmms-eval's bagel cannot be imported"):
        steered_class("bagel")
    assert steered_class("phi3v").__name__ == "SteeredPhi3v"


def inspected(*args: str) -> Any:
    line = [str(BIN / "lmms-steer"), "inspect", "--prompt", "what colour is the square ?", *args]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_inspect_shows_which_tokens_are_steered(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "x.png")
    spec = "pretrained=tiny-paligemma2,vector=colour-red,layer=0,alpha=1,tokens=image"
    done = inspected("--model_args", spec, "--image", str(tmp_path / "x.png"), "--picture", str(tmp_path / "p.png"))
    assert done.returncode == 0, done.stderr
    assert "image tokens: 16 of 16 steered" in done.stdout and "text tokens: 0 of" in done.stdout
    assert "[<image>×16] <bos> what colour" in done.stdout
    vector = SteeringVectors.load(store.find("tiny-gemma2/colour-red", None).path)
    norm = float(np.linalg.norm(vector[0]))
    assert f"layer 0, image: {norm:.4g} along v is added\n" in done.stdout
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    x = open_images([tmp_path / "x.png"])
    for args, expected in (
        (spec.replace("image", "last"), ("image tokens: 0 of 16 steered", "text tokens: 1 of")),
        ("pretrained=tiny-paligemma2", ("none (the baseline)", "nothing is done", "image tokens: 0 of 16 steered")),
        (f"{spec},operation=rotate,gamma_image=0.3", ("layer 0, image: turned by 0.3 radians towards v\n",)),
        (f"{spec},operation=ablate", ("layer 0, image: 1 times the component along v is removed\n",)),
        (f"{spec},operation=clamp,scale=unit,gamma_image=-2", ("image: the component along v becomes -2\n",)),
        (f"{spec},operation=norm_preserving", (f"image: {norm:.4g} along v is added, then |h| is restored\n",)),
        (
            spec.replace("image", "both") + ",gamma_text=0.5",
            (f"image: {norm:.4g} along v is added; text: {norm / 2:.4g} along v is added\n",),
        ),
    ):
        told = "\n".join(
            inspection_lines(
                inspect_prompt(load_named_model("steered_paligemma", args), x, "what colour is the square ?")
            )
        )
        assert all(text in told for text in expected)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot open the image"):
        open_images([tmp_path / "x.png"])
    with pytest.raises(UserError, match="unknown model 'steered_nothing'"):
        load_named_model("steered_nothing", spec)
