"""Two small tasks of the tiny world, in a folder of the user's own: few questions, so that a command takes seconds."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from tests.helpers.documents import ROOT

SELECT, TEST = "torture_select", "torture_test"


def write_tasks(folder: Path, questions: int = 24) -> Path:
    """Write the tasks' files into a folder and return it."""
    shipped = ROOT / "tasks" / "tiny_world"
    folder.mkdir(parents=True)
    shutil.copy(shipped / "utils.py", folder)
    template = (shipped / "_tiny_template_yaml").read_text()
    for task, split in ((SELECT, "select"), (TEST, "test")):
        rows = pq.read_table(shipped / "data" / f"counting_{split}.parquet").slice(0, questions)
        pq.write_table(rows, folder / f"{task}.parquet")
        data = f"dataset_kwargs: {{data_files: {{{split}: {task}.parquet}}}}\ntest_split: {split}\n"
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{data}{template}")
    return folder
