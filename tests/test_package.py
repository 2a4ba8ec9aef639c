"""What a wheel holds, what the command line says, and that the documents' commands exist."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.testing

from lmms_steer import UserError
from lmms_steer.cli import app, main
from lmms_steer.vectors import store

ROOT = Path(__file__).parent.parent


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lmms-steer"), *args], capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_the_package_tasks_and_vectors(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "lmms_steer", "tasks", "vector_cache", "recipes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.split():
        name = name.replace("recipes/", "lmms_steer/recipe_files/", 1) if name.startswith("recipes/") else name
        assert (name if name.startswith("lmms_steer/") else f"lmms_steer/{name}") in held, name
    assert not [name for name in held if not name.startswith(("lmms_steer/", "lmms_steer-"))]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("extract", "--backbone", "tiny-gemma2", "--concept", "spatail"),
            "unknown concept 'spatail': did you mean 'spatial'",
        ),
        (("extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", "mean"), "unknown method 'mean'"),
        (("extract", "--backbone", "no/such", "--concept", "spatial"), "cannot load the backbone 'no/such'"),
        (("extract", "--backbone", "tiny-gemma2", "--concept", "mine.yaml"), "cannot read the concept 'mine.yaml'"),
        (("vectors", "show", "nothing/at/all"), "unknown vector 'nothing/at/all'"),
    ],
)
def test_a_mistake_on_our_command_line_is_one_line_and_status_2(
    args: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lmms-steer", *args])
    with pytest.raises(SystemExit) as stopped:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("lmms-steer: ") and expected in last


def test_a_mistake_leaves_no_traceback_behind_in_a_process_of_its_own() -> None:
    done = command("vectors", "show", "nothing/at/all")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "unknown vector" in done.stderr


SEARCH = "search --model steered_paligemma --model_args pretrained=tiny-paligemma2 --output OUT --vector spatial"
INSPECT = "inspect --prompt x --model steered_paligemma --model_args pretrained=tiny-paligemma2"
AT_ONCE = [
    (f"{SEARCH.replace('spatial', 'spatail')} --task tiny_spatial_select", "unknown vector 'spatail': did you mean"),
    (f"{SEARCH} --task tiny_spatail_select", "unknown task 'tiny_spatail_select': did you mean 'tiny_spatial_select'"),
    (f"{SEARCH} --task tiny_spatial_select --confirm mmmu_vall", "unknown task 'mmmu_vall': did you mean 'mmmu_val'"),
    (f"{SEARCH} --task tiny_spatial_select --model steered_paligema", "unknown model 'steered_paligema'"),
    (f"{SEARCH} --task tiny_spatial_select --model steered_qwen2_5_vl", "unknown model 'steered_qwen2_5_vl'"),
    (f"{SEARCH} --task tiny_spatial_select --model_args pretraind=x", "unknown model_arg 'pretraind'"),
    (f"{SEARCH},counting --task tiny_spatial_select", "--vector spatial there, spatial,counting here"),
    (f"{SEARCH} --task tiny_counting_select", "--task tiny_spatial_select there, tiny_counting_select here"),
    (f"{INSPECT},vector=spatail", "unknown vector 'spatail'"),
    (f"{INSPECT},steering=missing.yaml", "cannot read the steering file 'missing.yaml'"),
    (f"{INSPECT},vector=spatial --image missing.png", "cannot open the image 'missing.png'"),
    (f"{INSPECT},vector=spatial --picture x.gif", "ends in .png"),
    ("extract --backbone tiny-gemma2 --concept spatail", "unknown concept 'spatail'"),
    ("extract --backbone tiny-gemma2 --concept spatial --method mean", "unknown method 'mean'"),
    ("extract --backbone tiny-gemma2 --concept spatial --judge lm", "unknown judge 'lm'"),
    ("vectors show tiny-gemma2/spatial --picture x.gif", "ends in .png"),
    ("concepts show spatail --backbone tiny-gemma2", "unknown concept 'spatail'"),
    ("extract --backbone tiny-gema2 --concept spatial", "unknown checkpoint 'tiny-gema2': did you mean 'tiny-gemma2'"),
    ("run tiny --dry-run --set models.tiny-paligemma2.layers=2-9", "--layers 2-9: the model has the layers 0-4"),
    ("run tiny --dry-run --set studies.colour.select=tiny_colour", "tiny_colour asks the split 'test'"),
]


def test_a_mistyped_name_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    plan = {"model": "steered_paligemma", "model_args": "pretrained=tiny-paligemma2", "task": "tiny_spatial_select"}
    plan |= {"batch_size": 16, "strategy": "grid", "trials": 64, "seed": 0, "tokens": ["image", "text", "both"]}
    plan |= {"alphas": [i / 10 for i in range(1, 11)], "vectors": {"spatial": "hash"}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    code = (
        "import json, sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'transformers', 'lmms_eval.utils', 'lmms_eval.tasks'))\n"
        "from typer.testing import CliRunner\n"
        "from lmms_steer.cli import app\n"
        "print(json.dumps([repr(CliRunner().invoke(app, line.split()).exception) for line in json.loads(sys.argv[1])]))"
    )
    lines = [line.replace("OUT", str(tmp_path)) + " --controls 0" * ("OUT" in line) for line, _ in AT_ONCE]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, check=True)
    for (line, expected), said in zip(AT_ONCE, json.loads(done.stdout), strict=True):
        assert said.startswith("UserError") and expected in said, (line, said)


def test_a_full_disk_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmms_steer.harness.task_files.our_tasks", full)
    monkeypatch.setattr("sys.argv", ["lmms-steer", "tasks"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "the disk is full; what is finished is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("run tiny --output FILE", "is no folder: say another with --output"),
        ("search --task tiny_spatial_select --vector spatial --output FILE/below", "cannot be used: Not a directory"),
    ],
)
def test_an_output_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, why: str
) -> None:
    (tmp_path / "file").touch()
    more = " --model steered_paligemma --model_args pretrained=tiny-paligemma2" if "search" in arguments else ""
    words = (arguments + more).replace("FILE", str(tmp_path / "file")).split()
    monkeypatch.setattr("sys.argv", ["lmms-steer", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.endswith(f"{why}\n") and said.count("\n") == 1


def test_a_checkout_before_the_installed_package_still_finds_what_ships(tmp_path: Path) -> None:
    # as in a clone after `pip install .`: only the installed package has tasks, vectors and recipes inside
    for name in ("lmms_steer", "tasks", "recipes", "vector_cache"):
        (tmp_path / name).symlink_to(ROOT / name)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        "from lmms_steer.harness import task_files; from lmms_steer.vectors import store\n"
        "from lmms_steer.recipes.loading import shipped_recipes\n"
        "print('tiny_spatial' in task_files.our_tasks(), 'tiny' in shipped_recipes(), any(store.entries()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stdout


def test_extracting_twice_gives_the_same_file_and_lists_it(own_cache: Path) -> None:
    runner = typer.testing.CliRunner()
    for _ in range(2):
        done = runner.invoke(app, ["extract", "--backbone", "tiny-gemma2", "--concept", "counting,colour-red"])
        assert done.exit_code == 0, done.output
    path = own_cache / "vectors" / "tiny-gemma2" / "counting" / "mean_shift.safetensors"
    shipped = ROOT / "vector_cache" / "tiny-gemma2" / "counting" / "mean_shift.safetensors"
    assert path.read_bytes() == shipped.read_bytes()
    listed = runner.invoke(app, ["vectors", "list"]).output
    assert re.search(r"^tiny-gemma2/counting +yours +mean_shift$", listed, re.MULTILINE)
    assert re.search(r"^tiny-gemma2/counting +shipped +linear_probe, pca, ", listed, re.MULTILINE)


def test_vectors_are_listed_by_concept_by_part_of_a_name_and_for_scripts() -> None:
    def listed(*args: str) -> list[str]:
        done = typer.testing.CliRunner().invoke(app, ["vectors", "list", *args])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    names = [entry.name for entry in store.entries()]
    assert listed("--names") == names
    assert len(listed()) == len({name.rsplit("/", 1)[0] for name in names}) + 2
    for part, wanted in (("spatial", "/spatial/"), ("tiny-gemma2/spatial", "/spatial/"), ("sae", "/sae/")):
        assert listed(part, "--names") == [name for name in names if wanted in f"/{name}/"]
    assert re.match(r"tiny-gemma2/spatial/sae +shipped +2 layers \(1, 3\) x 96 +24 anchors", listed("spatial/sae")[0])
    mistyped = typer.testing.CliRunner().invoke(app, ["vectors", "list", "tiny-gemma2/spatail"])
    assert "did you mean 'tiny-gemma2/spatial'" in str(mistyped.exception)
    unlike = str(typer.testing.CliRunner().invoke(app, ["vectors", "list", "nope"]).exception)
    assert unlike.startswith("no vector's name contains 'nope': the nearest: ")
    assert set(unlike.split("nearest: ")[1].split(", ")) <= set(names), "methods and backbones are no vectors"
    damaged = store.user_store() / "tiny-gemma2" / "spatial" / "pca.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    assert any(re.match(r"tiny-gemma2/spatial +yours +pca \(damaged\)", row) for row in listed())
    assert "damaged: " in listed("spatial/pca")[0]


def test_every_verb_has_a_help_text() -> None:
    runner = typer.testing.CliRunner()
    for verb in ("extract", "vectors", "concepts", "tasks", "run", "demo"):
        shown = runner.invoke(app, [verb, "--help"])
        assert shown.exit_code == 0 and len(shown.output.splitlines()) > 4


def test_the_demo_s_folder_may_be_said_before_its_verb(tmp_path: Path) -> None:
    for words in (["--out", str(tmp_path), "page"], ["page", str(tmp_path)]):
        done = typer.testing.CliRunner().invoke(app, ["demo", *words])
        assert str(done.exception).startswith(f"no runs of the recipe tiny in {str(tmp_path)!r}")


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "cuda:x"])
def test_a_device_that_is_not_here_is_one_line_before_the_model_loads(device: str) -> None:
    for arguments in (
        ["inspect", "--prompt", "?", "--model_args", f"pretrained=tiny-paligemma2,device={device}"],
        ["extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--device", device],
    ):
        done = typer.testing.CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError)
        assert str(done.exception).startswith(f"device={device} cannot be used here: ")
        assert "\n" not in str(done.exception)
