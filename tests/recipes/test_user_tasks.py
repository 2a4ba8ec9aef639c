"""Tasks in a folder of the user's own: read without running their code, and evaluated by a recipe."""

from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from lmms_steer import UserError
from lmms_steer.data.availability import missing_datasets
from lmms_steer.harness import task_files
from lmms_steer.recipes.command import run_recipe
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from tests.helpers.documents import ROOT, blocks
from tests.helpers.recipes import RECIPE, WarmExecutor, states


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.yaml": "task: mine\ninclude: b.yaml", "b.yaml": "include: a.yaml"}, "a.yaml includes itself"),
        ({"a.yaml": "task: mine\ninclude: none"}, "none cannot be read as a task: No such file or directory"),
        ({"a.yaml": "task: mine\ndataset_path: [x"}, "a.yaml cannot be read as a task: while parsing"),
        ({"a.yaml": "task: mine\ndataset_path: !!python/object/apply:os.abort []"}, "a.yaml cannot be read as a task"),
        ({"a.yaml": "task: mine\ndataset_path: !function utils.gone", "utils.py": "raise SystemExit(9)"}, None),
        ({"a.yaml": "group: mine\ntask: [b, tiny_spatial]", "b.yaml": "group: b\ntask: [mine]"}, None),
        ({"a.yaml": "tag: mine\ntask: b\ndataset_path: x/y"}, "x/y is not on this disk, "),
    ],
)
def test_reading_user_tasks_runs_no_code_and_reports_lines(
    tmp_path: Path, files: dict[str, str], expected: str | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "old_yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to("/no/such")
    task_files.check_task("mine", str(tmp_path))
    lines = list(missing_datasets("mine", str(tmp_path)))
    assert len(lines) == (expected is not None) and (expected or "") in "".join(lines)


def test_a_user_task_may_not_take_the_name_of_one_of_lmms_eval_s(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: mmstar")
    with pytest.raises(UserError, match="mmstar of .* is also a task of lmms-eval: rename yours"):
        task_files.check_task("mmstar", str(tmp_path))
    # listed, not defined: lmms-eval's
    (tmp_path / "a.yaml").write_text("group: mine\ntask: [mmstar]")
    task_files.check_task("mmstar", str(tmp_path))
    assert task_files.task_file("mmstar", str(tmp_path))[1].name == "mmstar.yaml"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("dataset_path: parquet\ndataset_kwargs: {data_files: {test: inside.parquet}}", ""),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: [outside.jsonl, gone.jsonl]}}", "outside gone"),
        ("dataset_path: json\ndataset_kwargs: {data_files: 'out*.jsonl'}", "outside"),
        ("dataset_path: json\ndataset_kwargs: {data_files: ../outside.jsonl}", "mine/../outside"),
        ("dataset_path: json\ndataset_kwargs: {data_files: https://example.org/outside.jsonl}", ""),
        ("dataset_path: outside.jsonl", "outside"),
        ("dataset_path: owner/outside.jsonl", ""),
        ("include: shared_yaml", "outside"),
    ],
)
def test_questions_outside_of_the_folder_of_tasks_are_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine/inside.parquet", "outside.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "mine/shared_yaml").write_text("dataset_path: json\ndataset_kwargs: {data_files: outside.jsonl}")
    for name in ("kitchen", "kitchen_select"):
        keys = f"task: {name}\n{data}\noutput_type: generate_until\nmetric_list: [{{metric: acc}}]"
        (tmp_path / "mine" / f"{name}.yaml").write_text(keys)
    Path("r.yaml").write_text(RECIPE.replace("tiny_spatial", "kitchen").replace("about: a test", "include_path: mine"))
    cells = Planner(load_recipe("r.yaml", (), ["systems=baseline"])[1], Path("out")).cells()
    read = ["mine", *(f"{name}.jsonl" for name in expected.split())]
    assert [list(cell.reads) for cell in cells if cell.kind in ("search", "evaluate")] == [read, read]


@pytest.mark.slow
def test_the_documented_user_benchmark_runs_through_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what Python leaves in the folder must not count as a change of it
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setattr("submitit.AutoExecutor", WarmExecutor)
    mine, page = tmp_path / "mine", ROOT / "docs/howto/benchmark.md"
    mine.mkdir()
    for text in blocks(page, "yaml", "python"):
        (mine / text.split()[1].rstrip(",").removeprefix("mine/")).write_text(text)
    for name in ("kitchen", "kitchen_select"):
        rows = {
            "image": [Image.new("RGB", (32, 32), (9 * n, 0, 0)) for n in range(4)],
            "question": [f"{name}: what is left of the cup {n}?" for n in range(4)],
            "choices": [["a plate", "a spoon"]] * 4,
            "answer": ["A", "B", "A", "B"],
        }
        Dataset.from_dict(rows).to_parquet(mine / f"{name}.parquet")
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.replace("tiny_spatial", "kitchen").replace("about: a test", f"include_path: {mine}"))
    settings = [
        "models.tiny.layers=2",
        "methods.mean_shift.alphas=1",
        "methods.mean_shift.controls=0",
        "search.tokens=image",
    ]
    assignments = [*settings, "systems=baseline,steered"]
    list(run_recipe(str(file), tmp_path / "out", (), assignments))
    table = (tmp_path / "out/boards/tiny/left.csv").read_text()
    assert "kitchen" in table and "mean_shift" in table
    assert "data:image/" in (tmp_path / "out/boards/tiny/left.html").read_text(), "its images are on the page"
    assert len(Ledger(tmp_path / "out").cells) == 5 and set(states(tmp_path / "out").values()) == {"done"}

    def planned(kind: str) -> list[str]:
        plan = run_recipe(str(file), tmp_path / "out", (), assignments, dry_run=True)
        return [line for line in plan if line.startswith(f"# {kind}/")]

    assert all("(done)" in line for line in planned("evaluate"))
    # a user's tasks are inputs too: a changed one is evaluated again
    (mine / "utils.py").write_text((mine / "utils.py").read_text() + "\n# changed\n")
    assert planned("search") and not any("(done)" in line for line in planned("search"))
    for old, new, expected in (
        (f"{mine}", f"{mine}/none", "line 1: no such folder of tasks"),
        ("test: kitchen", "test: kitchn", "line 12: unknown task 'kitchn': did you mean 'kitchen'"),
    ):
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(file.read_text().replace(old, new))
        with pytest.raises(UserError, match=expected):
            load_recipe(str(wrong))
    with pytest.raises(UserError, match="also contains the output folder"):
        list(run_recipe(str(file), mine / "out", (), assignments))
