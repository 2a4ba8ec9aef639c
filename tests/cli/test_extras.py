"""A command whose extra is not installed ends with one line that installs it."""

import configparser
import re
import sys
from pathlib import Path

import pytest

from lmms_steer._util.extras import MODULES
from lmms_steer.cli import main
from tests.helpers.documents import ROOT

SEARCH = "search --model steered_paligemma --model_args pretrained=tiny-paligemma2 --vector spatial --output OUT"
COMMANDS = [
    ("optuna", "search", f"{SEARCH} --task tiny_spatial_select"),
    ("matplotlib", "search", f"{SEARCH} --task tiny_spatial_select"),
    ("matplotlib", "plots", "plot OUT/runs --out OUT/x.png"),
    ("matplotlib", "plots", "vectors show tiny-gemma2/spatial --plot OUT/x.png"),
    ("submitit", "recipes", "run tiny --dry-run --output OUT"),
    ("ray", "ray", "run tiny --cluster ray --output OUT"),
    ("gguf", "gguf", "vectors export tiny-gemma2/spatial --to gguf --out OUT/x.gguf"),
    ("ijson", "data", "data import clevr --from OUT/release --to OUT/data"),
]


@pytest.mark.parametrize(
    ("module", "extra", "line"), COMMANDS, ids=[f"{module}-{line[:12]}" for module, _, line in COMMANDS]
)
def test_a_missing_package_is_one_line_that_installs_it(
    module: str,
    extra: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("questions", "images/val"):
        (tmp_path / "release" / name).mkdir(parents=True)
    (tmp_path / "release/questions/CLEVR_val_questions.json").write_text("{}")
    # as Python finds it in a process without the package
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    monkeypatch.setattr("sys.argv", ["lmms-steer", *line.replace("OUT", str(tmp_path)).split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    (printed,) = captured.err.strip().splitlines()
    assert stopped.value.code == 2
    lines = rf"pip install 'lmms-steer\[{extra}\]', or in a clone: pip install '\.\[{extra}\]'"
    assert re.fullmatch(rf"lmms-steer: .* needs {module}, which is not installed: {lines}", printed)


def test_the_extras_are_those_of_the_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    every = {word for word in re.split(r"[\[\],]", extras["all"].strip())[1:] if word}
    # not everybody has a cluster of Ray
    assert every | {"ray"} == set(MODULES)
    for extra, modules in MODULES.items():
        listed = extras[extra] + (extras["search"] if "lmms-steer[search]" in extras[extra] else "")
        named = re.findall(r"^([\w-]+) >=", listed, re.MULTILINE)
        assert {name.replace("-", "_") for name in named} == set(modules), extra
    core = re.findall(r"^([\w-]+) >=", settings["options"]["install_requires"], re.MULTILINE)
    assert not {module for modules in MODULES.values() for module in modules} & {
        name.replace("-", "_") for name in core
    }
