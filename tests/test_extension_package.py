"""Somebody else's package, installed by pip, adds one entry of each kind; the installed command line finds them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import warm

SOURCE = Path(__file__).parent / "extension_package"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the package into."""
    folder = tmp_path_factory.mktemp("installed")
    built = folder / "source"
    built.mkdir()
    for path in (SOURCE / "pyproject.toml", SOURCE / "example_extension.py"):
        (built / path.name).write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(built)], check=True, capture_output=True)
    return folder / "site"


def run(installed: Path, *words: str) -> str:
    """What the installed `lmms-steer` prints, with the package on its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "NO_COLOR": "1", "COLUMNS": "200"}
    done = warm.run("lmms-steer", *words, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_texts_list_the_entries_of_an_installed_package(installed: Path) -> None:
    for command, name, description in (
        ("extract", "median_shift", "the median of the anchors minus the median of the controls"),
        ("search", "strongest_alpha", "the grid's largest alpha only"),
        ("layers", "early", "the number of layers above"),
    ):
        text = " ".join(run(installed, command, "--help").split())
        assert f"{name}: {description}" in text


def test_the_command_line_uses_all_six_entries(installed: Path, tmp_path: Path) -> None:
    made = run(installed, "extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method",
               "median_shift,median_shift-shuffled")  # fmt: skip
    assert "tiny-gemma2/spatial/median_shift:" in made and "tiny-gemma2/spatial/median_shift-shuffled:" in made

    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "x.png")
    args = "pretrained=tiny-paligemma2,vector=spatial/median_shift,layer=1,operation=half_add,prompt_format=polite"
    args += ",site=normed,gate=long,threshold=0.01"
    seen = run(installed, "inspect", "--prompt", "the square ?", "--image", str(tmp_path / "x.png"),
               "--model_args", args)  # fmt: skip
    assert "layer 1, normed, both:" in seen and "where the token's long is above 0.01" in seen
    assert "along v is added" in seen and "half of" in seen and "please the square ?" in seen

    study = tmp_path / "study"
    search = ["--model_args", "pretrained=tiny-paligemma2", "--vector", "spatial/median_shift", "--task",
              "tiny_spatial_select", "--layers", "1", "--alphas", "0.5,1", "--tokens", "image", "--limit", "32",
              "--controls", "1"]  # fmt: skip
    found = run(installed, "search", *search, "--strategy", "strongest_alpha", "--output", str(study))
    assert "layer=1,alpha=1,tokens=image" in found and (study / "choice.yaml").is_file()

    (tmp_path / "r.yaml").write_text(
        "models:\n  tiny: {model: steered_paligemma, pretrained: tiny-paligemma2}\n"
        "methods:\n  median_shift: {alphas: 1}\nsearch: {strategy: strongest_alpha}\n"
        "studies:\n  s: {concepts: spatial, select: tiny_spatial_select, test: tiny_spatial}\n"
    )
    plan = run(installed, "run", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "out"), "--dry-run")
    assert "--method median_shift" in plan and "--strategy strongest_alpha" in plan


def test_an_unknown_name_suggests_an_installed_package_s_entry(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    words = ["extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", "median_shfit"]
    done = warm.run("lmms-steer", *words, env=environment)
    assert done.returncode == 2 and "did you mean 'median_shift'" in done.stderr
