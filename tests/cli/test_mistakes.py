"""Mistakes on the command line end it with one line and status 2, before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from lmms_steer import UserError
from lmms_steer.cli import app, main


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lmms-steer"), *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("extract", "--backbone", "tiny-gemma2", "--concept", "spatail"),
            "unknown concept 'spatail': did you mean 'spatial'",
        ),
        (("extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", "mean"), "unknown method 'mean'"),
        (
            ("extract", "--backbone", "no/such", "--concept", "spatial"),
            "neither a folder nor reachable on the Hub (tiny-",
        ),
        (
            ("extract", "--backbone", "tiny-gemma2", "--concept", "mine.yaml"),
            "the concept 'mine.yaml': No such file or directory",
        ),
        (("vectors", "show", "nothing/at/all"), "unknown vector 'nothing/at/all'"),
        (("vectors", "show", "spatial"), "not known here; give the whole name: one of tiny-gemma2/spatial"),
        (
            ("curve", "--model_args", "x", "--output", "y", "--vector", "colour-red", "--vector=colour-blue"),
            "--vector is given 2 times",
        ),
        (("data", "generate", "x", "--seed", "1", "--seed", "2"), "--seed is given 2 times"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    args: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lmms-steer", *args])
    with pytest.raises(SystemExit) as stopped:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("lmms-steer: ") and expected in last


def test_a_mistake_prints_no_traceback() -> None:
    done = command("vectors", "show", "nothing/at/all")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "unknown vector" in done.stderr


SEARCH = "search --model steered_paligemma --model_args pretrained=tiny-paligemma2 --output OUT --vector spatial"
INSPECT = "inspect --prompt x --model steered_paligemma --model_args pretrained=tiny-paligemma2"
AT_ONCE = [
    (f"{SEARCH.replace('spatial', 'spatail')} --task tiny_spatial_select", "unknown vector 'spatail': did you mean"),
    (f"{SEARCH} --task tiny_spatail_select", "unknown task 'tiny_spatail_select': did you mean 'tiny_spatial_select'"),
    (f"{SEARCH} --task tiny_spatial_select --confirm mmmu_vall", "unknown task 'mmmu_vall': did you mean 'mmmu_val'"),
    (f"{SEARCH} --task tiny_spatial_select,tiny_colour_select", "are several tasks: give one"),
    (f"{SEARCH.replace('paligemma --', 'paligema --')} --task tiny_spatial_select", "unknown model 'steered_paligema'"),
    (
        f"{SEARCH.replace('steered_paligemma', 'steered_qwen2_5_vl')} --task tiny_spatial_select",
        "works in lmms-eval only; use --model steered_hf",
    ),
    (
        f"{SEARCH.replace('steered_paligemma', 'steered_vllm')} --task tiny_spatial_select",
        "vllm runs its model in an engine",
    ),
    (
        f"{SEARCH.replace('pretrained', 'pretraind')} --task tiny_spatial_select",
        "unknown key 'pretraind' in --model_args",
    ),
    (f"{INSPECT},vector=spatail", "unknown vector 'spatail'"),
    (f"{INSPECT},steering=missing.yaml", "cannot read the steering file 'missing.yaml'"),
    (f"{INSPECT},vector=spatial --image missing.png", "the image 'missing.png': No such file or directory"),
    (f"{INSPECT},vector=spatial --plot x.gif", "ends in .png"),
    ("extract --backbone tiny-gemma2 --concept spatail", "unknown concept 'spatail'"),
    ("extract --backbone tiny-gemma2 --concept spatial --method mean", "unknown method 'mean'"),
    ("extract --backbone tiny-gemma2 --concept spatial --judge lm", "unknown judge 'lm'"),
    *(
        (f"extract --backbone tiny-gemma2 --concept spatial --method pca {option}", "is for methods with an SAE")
        for option in ("--sae x", "--neutral x.txt", "--paper-exact")
    ),
    ("vectors show tiny-gemma2/spatial --plot x.gif", "ends in .png"),
    ("concepts show spatail --backbone tiny-gemma2", "unknown concept 'spatail'"),
    ("extract --backbone tiny-gema2 --concept spatial", "unknown checkpoint 'tiny-gema2': did you mean 'tiny-gemma2'"),
    ("run tiny --dry-run --set models.tiny-paligemma2.layers=2-9", "--layers 2-9: the model has the layers 0-4"),
    ("run tiny --dry-run --set studies.colour.select=tiny_colour", "tiny_colour asks the split 'test'"),
]


@pytest.mark.slow
def test_mistyped_names_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'transformers', 'lmms_eval.utils', 'lmms_eval.tasks'))\n"
        "from typer.testing import CliRunner\n"
        "from lmms_steer.cli import app\n"
        "print(json.dumps([repr(CliRunner().invoke(app, line.split()).exception) for line in json.loads(sys.argv[1])]))"
    )
    lines = [line.replace("OUT", str(tmp_path)) for line, _ in AT_ONCE]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, check=True)
    for (line, expected), error in zip(AT_ONCE, json.loads(done.stdout), strict=True):
        assert error.startswith("UserError") and expected in error, (line, error)


def test_a_full_disk_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmms_steer.harness.task_files.our_tasks", full)
    monkeypatch.setattr("sys.argv", ["lmms-steer", "tasks"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "the disk is full; finished work is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("run tiny --output FILE", "is not a folder; choose another with --output"),
        (
            "search --task tiny_spatial_select --vector spatial --output FILE/below",
            "is not a folder; choose another with --output",
        ),
    ],
)
def test_an_unusable_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, why: str
) -> None:
    (tmp_path / "file").touch()
    more = " --model steered_paligemma --model_args pretrained=tiny-paligemma2" if "search" in arguments else ""
    words = (arguments + more).replace("FILE", str(tmp_path / "file")).split()
    monkeypatch.setattr("sys.argv", ["lmms-steer", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.endswith(f"{why}\n") and printed.count("\n") == 1


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "cuda:x"])
def test_an_unavailable_device_is_refused_before_the_model_loads(device: str) -> None:
    for arguments in (
        ["inspect", "--prompt", "?", "--model_args", f"pretrained=tiny-paligemma2,device={device}"],
        ["extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--device", device],
    ):
        done = typer.testing.CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError)
        assert str(done.exception).startswith(f"device={device} cannot be used here: ")
        assert "\n" not in str(done.exception)
