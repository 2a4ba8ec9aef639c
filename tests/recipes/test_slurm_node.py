"""Recipes on a real SLURM of one node: jobs that are cancelled and requeued, a drained node, a killed command."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from lmms_steer.recipes import slurm_queue
from lmms_steer.recipes.command import run_cells, run_recipe
from tests.helpers.recipes import WarmExecutor, at_work, chain, ran, shell, started, states
from tests.helpers.slurm_node import MISSING, WHY_MISSING, nothing_queued, slurm_node
from tests.torture.subjects import OUT, SUBJECTS
from tests.torture.trials import prepare

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=WHY_MISSING)]
TABLE = "0\n0\n1\n1\n2\n2\n3\n3\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with slurm_node(tmp_path_factory.mktemp("slurm")) as configuration:
        yield configuration


@pytest.fixture(autouse=True)
def on_the_node(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", node)
    monkeypatch.setattr(slurm_queue, "LOOK_SECONDS", 0.5)


def once(folder: Path, script: str) -> str:
    """A script that runs a SLURM job's commands the first time only, and then waits for its own end."""
    return f"test -e {folder}/once || {{ touch {folder}/once; {script}; sleep 60; }}; echo 2 > $OUT"


def test_a_cancelled_job_s_cell_is_tried_again(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    cells[2] = shell("a2", once(tmp_path, "scancel $SLURM_JOB_ID"), tmp_path)
    lines = list(run_cells(tmp_path, cells, 2, "slurm"))
    assert "a worker died at a2: it is tried again" in lines
    assert (tmp_path / "table.txt").read_text() == TABLE and ran(tmp_path).count("a2") == 2
    assert nothing_queued()


def test_a_requeued_job_runs_its_cell_again_however_often(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    twice = f"test $(grep -c a2 {tmp_path}/ran) = 3 || {{ scontrol requeue $SLURM_JOB_ID; sleep 60; }}; echo 2 > $OUT"
    cells[2] = shell("a2", twice, tmp_path)
    lines = list(run_cells(tmp_path, cells, 1, "slurm"))
    assert not any("died" in line for line in lines)
    assert (tmp_path / "table.txt").read_text() == TABLE and len(ran(tmp_path)) == len(cells) + 2


def test_on_a_drained_node_the_cells_that_run_finish_and_a_new_job_waits(tmp_path: Path) -> None:
    change = "scontrol update nodename=$SLURMD_NODENAME reason=test state"
    both = f"until grep -q meanwhile {tmp_path}/ran; do sleep 0.1; done"
    waiting = "until squeue --noheader --format %T | grep -q PENDING; do sleep 0.1; done"
    cells = [
        shell("drained", once(tmp_path, f"{both}; {change}=drain; scancel $SLURM_JOB_ID"), tmp_path),
        shell("meanwhile", f"{waiting}; sleep 1; {change}=resume; echo > $OUT", tmp_path),
    ]
    list(run_cells(tmp_path, cells, 2, "slurm"))
    assert states(tmp_path) == {"drained": "done", "meanwhile": "done"}
    assert ran(tmp_path).count("drained") == 2 and ran(tmp_path).count("meanwhile") == 1


def test_jobs_of_a_killed_command_end_when_it_is_run_again(tmp_path: Path) -> None:
    cells, gate = chain(tmp_path), tmp_path / "gate"
    os.mkfifo(gate)
    cells[2] = shell("a2", f"cat {gate} > /dev/null; echo 2 > $OUT", tmp_path)
    command = started(tmp_path, cells, "a2", "a3", workers=2, cluster="slurm")
    command.send_signal(signal.SIGKILL)
    command.communicate()
    assert at_work(gate), "a job outlives the command that submitted it"
    lines = list(run_cells(tmp_path, chain(tmp_path), 2, "slurm"))
    assert any(line.startswith("resumed: ") for line in lines) and not at_work(gate)
    assert nothing_queued()
    assert (tmp_path / "table.txt").read_text() == TABLE
    assert ran(tmp_path).count("a0") == ran(tmp_path).count("a1") == 1 and ran(tmp_path).count("a2") == 2


def test_the_tables_are_those_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_DATASETS_CACHE", "PYTHONDONTWRITEBYTECODE", "PATH"):
        # `prepare` changes these for the process
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)
    prepare(tmp_path)
    tables = []
    for cluster, workers in (("slurm", 2), ("local", 1)):
        if cluster == "local":
            monkeypatch.setattr("submitit.AutoExecutor", WarmExecutor)
        (tmp_path / cluster).mkdir()
        monkeypatch.chdir(tmp_path / cluster)
        list(run_recipe("../recipe.yaml", Path(OUT), workers=workers, cluster=cluster))
        tables.append(SUBJECTS["run"].results(tmp_path / cluster / OUT))
    assert len(tables[0]) > 5 and tables[0] == tables[1]
