"""What single commands print and write."""

import re
from pathlib import Path

import numpy as np
import pytest
import typer.main
import typer.testing
from typer.core import TyperGroup

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.helpers.documents import ROOT


def test_extracting_twice_gives_the_same_file_and_lists_it(own_cache: Path) -> None:
    runner = typer.testing.CliRunner()
    for _ in range(2):
        done = runner.invoke(app, ["extract", "--backbone", "tiny-gemma2", "--concept", "counting,colour-red"])
        assert done.exit_code == 0, done.output
    folders = (own_cache / "vectors", ROOT / "vector_cache")
    made, shipped = (SteeringVectors.load(f / "tiny-gemma2" / "counting" / "mean_shift.safetensors") for f in folders)
    # other versions of the libraries make the same vectors
    assert {**made.provenance, "versions": None} == {**shipped.provenance, "versions": None}
    # another processor may round the last bits otherwise
    assert all(np.allclose(made[layer], shipped[layer], atol=1e-5) for layer in range(5))
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
    for part, wanted in (
        ("spatial", "/spatial/"),
        ("tiny-gemma2/spatial", "/tiny-gemma2/spatial/"),
        ("sae", "/sae/"),
        ("green", "/colour-green/"),
        ("colour-", "/colour-"),
    ):
        assert listed(part, "--names") == [name for name in names if wanted in f"/{name}/"]
    assert re.match(
        r"tiny-gemma2/spatial/sae +shipped +2 layers \(1, 3\) x 96 +24 anchors", listed("tiny-gemma2/spatial/sae")[0]
    )
    assert len({row.index("24 anchors") for row in listed("spatial")[:-2]}) == 1, "one column"
    mistyped = typer.testing.CliRunner().invoke(app, ["vectors", "list", "tiny-gemma2/spatail"])
    assert "did you mean 'tiny-gemma2/spatial'" in str(mistyped.exception)
    unlike = str(typer.testing.CliRunner().invoke(app, ["vectors", "list", "nope"]).exception)
    assert unlike.startswith("no vector's name contains 'nope': the nearest: ")
    assert set(unlike.split("nearest: ")[1].split(", ")) <= set(names), "methods and backbones are no vectors"
    damaged = store.user_store() / "tiny-gemma2" / "spatial" / "pca.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    assert any(re.match(r"tiny-gemma2/spatial +yours +pca \(damaged\)", row) for row in listed())
    assert "damaged: " in listed("tiny-gemma2/spatial/pca")[0]


def test_the_demo_s_folder_may_come_before_its_subcommand(tmp_path: Path) -> None:
    for words in (["--output", str(tmp_path), "page"], ["--out", str(tmp_path), "page"], ["page", str(tmp_path)]):
        done = typer.testing.CliRunner().invoke(app, ["demo", *words])
        assert str(done.exception).startswith(f"no runs of the recipe tiny in {str(tmp_path)!r}")


@pytest.mark.parametrize(
    ("command", "option", "former"),
    [
        ("extract --backbone tiny-gemma2 --concept no.yaml", "--batch_size 4", "--batch-size 4"),
        ("vectors export no/such/vector --to gguf", "--output x.gguf", "--out x.gguf"),
        ("compare no_such_run", "--study no_such_study", "--studies no_such_study"),
        ("plot --output x.pdf", "--study no_such_study", "--studies no_such_study"),
        ("plot no_such_run", "--output x.pdf", "--out x.pdf"),
        ("vectors show tiny-gemma2/spatial", "--plot x.gif", "--picture x.gif"),
        ("inspect --model_args pretrained=tiny-paligemma2 --prompt q", "--plot x.gif", "--picture x.gif"),
    ],
)
def test_an_option_has_the_spelling_of_the_other_commands_beside_its_former_one(
    command: str, option: str, former: str
) -> None:
    for words in (option, former):
        done = typer.testing.CliRunner().invoke(app, [*command.split(), *words.split()])
        assert isinstance(done.exception, UserError), done.output


def groups(command: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], TyperGroup]]:
    if not isinstance(command, TyperGroup):
        return []
    below = [one for name, member in command.commands.items() for one in groups(member, (*path, name))]
    return [(path, command), *below]


def test_the_list_of_commands_cuts_no_description() -> None:
    found = groups(typer.main.get_command(app))
    assert {path for path, _ in found} >= {(), ("vectors",), ("concepts",), ("leaderboard",), ("data",), ("demo",)}
    for path, group in found:
        help_text = typer.testing.CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
        words = " ".join(help_text.split())
        for name, member in group.commands.items():
            first_sentence = re.split(r"\.\s", " ".join((member.help or "").split()), maxsplit=1)[0].rstrip(".")
            assert first_sentence and f"{name} {first_sentence}" in words, (path, name)
