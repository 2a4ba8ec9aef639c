"""lmms-eval's own wrappers with steering in front, and `lmms-steer inspect`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import build
from conftest import vectors
from PIL import Image

from lmms_steer import UserError
from lmms_steer.models.names import MODELS

BIN = Path(sys.executable).parent


def saved(name: str, folder: Path) -> Path:
    model, processor = build(name)
    model.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    return folder / name


def test_names_of_ours_and_of_lmms_eval_s_own_are_registered() -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2

    for name in (*MODELS, "steered_internvl_hf", "steered:internvl_hf", "steered_qwen2_5_vl", "steered_gemma3"):
        assert MODEL_REGISTRY_V2.resolve(name).class_path.startswith("lmms_steer.models.")
    assert MODEL_REGISTRY_V2.resolve("internvl_hf").class_path.startswith("lmms_eval.")


def test_lmms_eval_s_own_wrapper_steered_and_not(tmp_path: Path) -> None:
    folder = saved("internvl", tmp_path)
    vector = vectors(scale=20).save(tmp_path / "v.safetensors")
    answers = {}
    for model, more in (("internvl_hf", ""), ("steered_internvl_hf", ""), ("steered:internvl_hf", f",vector={vector}")):
        spec = ",layer=1,alpha=3,tokens=both" if more else ""
        args = [str(BIN / "lmms-eval"), "--model", model, "--model_args", f"pretrained={folder}{more}{spec}"]
        out = tmp_path / model.replace(":", "_") / ("steered" if more else "plain")
        run = ["--tasks", "tiny_spatial", "--limit", "6", "--device", "cpu", "--output_path", str(out), "--log_samples"]
        done = subprocess.run([*args, *run], capture_output=True, text=True, check=False)
        (samples,) = out.rglob("*samples*.jsonl")
        answers[model] = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
        (results,) = out.rglob("*results.json")
        record = json.loads(results.read_text()).get("steering")
        assert (record is None) == (model == "internvl_hf"), done.stderr[-2000:]
    assert record["spec"].endswith("layer=1,alpha=3,tokens=both")
    assert answers["internvl_hf"] == answers["steered_internvl_hf"] != answers["steered:internvl_hf"]


def test_what_runs_elsewhere_cannot_be_steered() -> None:
    from lmms_steer.models.wrapped import steered_class

    for name in ("vllm", "sglang", "openai"):
        with pytest.raises(UserError, match=f"{name} runs its model in an engine or behind an API"):
            steered_class(name)


def inspected(*args: str) -> Any:
    line = [str(BIN / "lmms-steer"), "inspect", "--prompt", "what colour is the square ?", *args]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_inspect_shows_which_tokens_are_steered(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "x.png")
    spec = "pretrained=tiny-paligemma2,vector=colour-red,layer=0,alpha=1,tokens=image"
    picture = ("--image", str(tmp_path / "x.png"))
    done = inspected("--model_args", spec, *picture, "--picture", str(tmp_path / "p.png"))
    assert done.returncode == 0, done.stderr
    assert "image tokens: 16 of 16 steered" in done.stdout and "text tokens: 0 of" in done.stdout
    assert "[<image>×16] <bos> what colour" in done.stdout
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    done = inspected("--model_args", spec.replace("image", "last"), *picture)
    assert "image tokens: 0 of 16 steered" in done.stdout and "text tokens: 1 of" in done.stdout
    done = inspected("--model_args", "pretrained=tiny-paligemma2", *picture)
    assert "none (the baseline)" in done.stdout
    (tmp_path / "x.png").write_bytes(b"no picture")
    done = inspected("--model_args", spec, *picture)
    assert done.returncode == 2 and "cannot open the image" in done.stderr.splitlines()[-1]
    done = inspected("--model_args", spec, "--model", "steered_nothing")
    assert done.returncode == 2 and "unknown model 'steered_nothing'" in done.stderr.splitlines()[-1]
