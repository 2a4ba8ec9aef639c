"""What a recipe's own systems and commands read: a changed file or vector runs their cells again, nothing else does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmms_steer.errors import UserError
from lmms_steer.recipes import extensions
from lmms_steer.recipes.cells import Cell, Mark, Marks, content_digest
from lmms_steer.recipes.inputs import command_inputs
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.recipes.worker import run_cell
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors

COUNTING = "tiny-gemma2/counting/mean_shift"


def own_vector(concept: str, value: float, method: str = "mean_shift") -> SteeringVectors:
    provenance = {"model": "tiny-gemma2", "concept": concept, "method": method}
    return SteeringVectors({2: np.full(96, value, dtype=np.float32)}, provenance)


def planned(path: str, root: Path, name: str) -> Cell:
    cells = {cell.name: cell for cell in Planner(load_recipe(path)[1], root).cells()}
    return cells[name]


def system(args: str) -> str:
    return f"about: a test\nsystems:\n- baseline\n- {{name: mine, args: {args}}}\n"


def finished(cell: Cell, root: Path) -> bool:
    """Mark the cell as done, with output where it writes some."""
    for path in map(Path, cell.makes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    marks = Marks(root)
    marks.write(cell, Mark(str(cell), "done", marks.fingerprint(cell), content_digest(cell.makes)))
    return marks.done(cell)


@pytest.mark.parametrize(
    ("args", "concept", "method"),
    [
        (f"{{vector: {COUNTING}, layer: '2', alpha: '1', tokens: image}}", "counting", "mean_shift"),
        ("{vector: counting}", "counting", "mean_shift"),
        ("{vector: counting, layers: 1-3, preset: vti}", "counting", "mean_shift"),
        ("{vector: counting, layer: 2, alpha: kl:0.1, tokens: image}", "counting", "mean_shift"),
        ("{vector: spatial, gate: cosine, threshold: 0.1, gate_vector: counting}", "counting", "mean_shift"),
        ("{vector: spatial, control: wrong_concept:counting}", "counting", "mean_shift"),
        ("{vector: mine, layer: 2}", "mine", "mean_shift"),
        ("{steering: SPEC}", "counting", "mean_shift"),
        ("{steering: SPEC}", "mine", "pca"),
    ],
)
def test_an_evaluation_runs_again_with_another_vector_of_the_store(
    recipe: Callable[..., str], tmp_path: Path, args: str, concept: str, method: str
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "interventions:\n- {vector: counting, layer: 2, alpha: 1, tokens: image}\n"
        "- {vector: spatial, layer: 3, alpha: 1, tokens: image, gate: cosine, threshold: 0.1, gate_vector: mine/pca}\n"
    )
    if concept == "mine":
        store.save(own_vector(concept, 1.0, method))
    path, root = recipe("about: a test\n", system(args.replace("SPEC", str(file)))), tmp_path / "out"
    assert finished(planned(path, root, "evaluate/tiny/left/mine"), root)
    store.save(own_vector("attribute", 3.0))
    assert Marks(root).done(planned(path, root, "evaluate/tiny/left/mine"))
    store.save(own_vector(concept, 2.0, method))
    assert not Marks(root).done(planned(path, root, "evaluate/tiny/left/mine"))


def test_a_cell_runs_again_when_the_code_of_an_extension_that_it_uses_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    package, info = site / "their_package", site / "their-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('a plan imports it')")
    (package / "pushing.py").write_text("from their_package.arithmetic import half")
    (package / "arithmetic.py").write_text("half = 0.5")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmms_steer.operations]\nmy_push = their_package.pushing:push\n")
    monkeypatch.syspath_prepend(str(site))
    extensions._extensions.cache_clear()
    root = tmp_path / "out"
    spec, other = tmp_path / "spec.yaml", tmp_path / "other.yaml"
    spec.write_text("interventions:\n- {vector: counting, operation: my_push}")
    other.write_text("interventions:\n- {vector: counting, operation: my_pushing}")
    command = ("lmms-eval", "--model_args", "pretrained=tiny-paligemma2,vector=counting,operation=my_push")
    cells = [
        Cell("evaluate/named", "evaluate", command, makes=(str(root / "named"),)),
        Cell("evaluate/spec", "evaluate", command[:1], reads=(str(spec),), makes=(str(root / "spec"),)),
        Cell("evaluate/other", "evaluate", command[:1], reads=(str(other),), makes=(str(root / "other"),)),
    ]
    assert all(finished(cell, root) for cell in cells)
    # what a module of the package imports counts, too
    (package / "arithmetic.py").write_text("half = -0.5")
    assert [Marks(root).done(cell) for cell in cells] == [False, False, True]
    monkeypatch.undo()
    extensions._extensions.cache_clear()


def test_an_evaluation_runs_again_with_another_file_of_a_vector_that_a_spec_names(
    recipe: Callable[..., str], tmp_path: Path
) -> None:
    vector, root = own_vector("mine", 1.0).save(tmp_path / "v.safetensors"), tmp_path / "out"
    file = tmp_path / "other/search/tiny/left/spatial-mean_shift/choice.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"interventions:\n- {{vector: {tmp_path}/v.safetensors, layer: 2, alpha: 1, tokens: image}}\n")
    mine = recipe("about: a test\n", system(f"{{steering: {file}}}"))
    chosen = Path(mine).with_name("chosen.yaml")
    study = "chosen: left\n    test: tiny_spatial\n"
    text = Path(recipe()).read_text().replace("select: tiny_spatial_select\n    test: tiny_spatial\n", study)
    chosen.write_text(f"chosen_in: {tmp_path}/other\nsystems: [baseline, steered]\n{text}")
    Path(mine).write_text(Path(recipe("about: a test\n", system(f"{{steering: {file}}}"))).read_text())
    cells = [(mine, "evaluate/tiny/left/mine"), (str(chosen), "evaluate/tiny/left/mean_shift")]
    for path, name in cells:
        assert finished(planned(path, root, name), root), vector
    own_vector("mine", 2.0).save(tmp_path / "v.safetensors")
    assert [Marks(root).done(planned(path, root, name)) for path, name in cells] == [False, False]


@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_files_in_the_arguments_of_a_model_are_inputs(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("float32", "adapters/mine"):
        Path(name).mkdir(parents=True)
    Path("chat.jinja").touch()
    args = "{dtype: float32, chat_template: chat.jinja, peft: adapters/mine, attention: no/folder}"
    path = recipe("    pretrained: tiny-paligemma2", f"    pretrained: tiny-paligemma2\n    args: {args}")
    # a wrapper of lmms-eval may take any argument
    _, loaded = load_recipe(path, (), ["models.tiny.model=steered_qwen2_5_vl"])
    cell = next(cell for cell in Planner(loaded, Path("out")).cells() if cell.kind == kind)
    assert cell.reads == ("adapters/mine", "chat.jinja")


def test_a_vector_that_is_extracted_on_first_use_does_not_run_its_evaluation_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out")
    ledger.folder.mkdir(parents=True)
    out = tmp_path / "out/a"
    cell = Cell("a", "command", ("a",), makes=(str(out),), vectors=("tiny-gemma2/mine/mean_shift",))

    def run(command: tuple[str, ...], log: Path) -> int:
        store.save(own_vector("mine", 1.0))
        out.touch()
        return 0

    assert run_cell(cell, ledger, run).state == "done" and ledger.marks.done(cell)
    store.save(own_vector("mine", 2.0))
    assert not ledger.marks.done(cell)


def test_a_command_reads_what_it_names_and_no_cell_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("out/sight", "mine/tasks", "ckpt", "page", "data", "made"):
        Path(folder).mkdir(parents=True)
    for file in ("out/spec.yaml", "mine/q.jsonl", "mine/tasks/t.yaml", "a.png", "b.png", "made/v.csv", "kept", "t"):
        Path(file).write_text(f"interventions:\n- {{vector: {COUNTING}, layer: 2, alpha: 1, tokens: image}}\n")

    def reads(line: str) -> tuple[set[str], set[str]]:
        files, vectors = command_inputs(line.split(), [Path("out"), Path("made/v.csv")])
        return set(files), set(vectors)

    assert reads("lmms-steer data questions t_select made --limit 1") == (set(), set())
    assert reads("lmms-steer extract --questions mine/q.jsonl --store mine") == ({"mine/q.jsonl"}, set())
    assert reads("lmms-steer extract --questions=mine/q.jsonl --output=kept") == ({"mine/q.jsonl"}, set())
    assert reads("lmms-steer curve --image a.png,b.png --output page") == ({"a.png", "b.png"}, set())
    assert reads("lmms-steer compare base=mine/tasks ./page --html kept") == ({"mine/tasks", "./page"}, set())
    assert reads("lmms-steer compare out/sight out . made --include_path mine") == ({"mine"}, set())
    line = "lmms-steer search --model_args pretrained=ckpt,dtype=bfloat16 --vector counting,out/v.safetensors"
    assert reads(line) == ({"ckpt"}, set())
    line = "lmms-steer search --model_args pretrained=tiny-paligemma2 --vector counting,out/v.safetensors"
    assert reads(line) == (set(), {COUNTING})
    line = "lmms-eval --model_args pretrained=tiny-paligemma2,{} --use_cache kept --output_path page"
    assert reads(line.format("vector=counting")) == (set(), {COUNTING})
    assert reads(line.format("steering=mine/q.jsonl")) == ({"mine/q.jsonl"}, {COUNTING})
    assert reads(line.format("steering=out/spec.yaml")) == (set(), set())


def test_a_command_runs_again_with_another_file(recipe: Callable[..., str], tmp_path: Path) -> None:
    mine, root = tmp_path / "mine.csv", tmp_path / "out"
    mine.write_text("a")
    run = f"run: lmms-steer extract --backbone tiny-gemma2 --concept {mine}, makes: '{{output}}/v'"
    path = recipe("about: a test\n", f"commands:\n- {{name: own, {run}}}\n")
    assert finished(planned(path, root, "command/own"), root)
    mine.write_text("b")
    assert not Marks(root).done(planned(path, root, "command/own"))


def test_a_tilde_in_a_recipe_is_the_home_folder(
    recipe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    _, read = load_recipe(recipe("about: a test", "about: a test\nchosen_in: ~/other\ninclude_path: ~/mine"))
    assert (read.chosen_in, read.include_path) == (f"{tmp_path}/other", f"{tmp_path}/mine")
    with pytest.raises(UserError, match="no home folder of that name"):
        load_recipe(recipe("about: a test", "about: a test\nchosen_in: ~nobody-of-this-name/other"))
