"""Jobs of SLURM that end in other ways than by themselves, where SLURM keeps no accounting."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lmms_steer.recipes import slurm_queue
from lmms_steer.recipes.command import run_cells
from lmms_steer.recipes.slurm_queue import SlurmQueue
from tests.helpers.recipes import at_work, ran, shell, started, states
from tests.helpers.slurm import queued, stand_ins


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stand_ins(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_cancelled_job_s_cell_is_tried_again_by_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "LOOK_SECONDS", 0.5)
    # the first job cancels itself, as somebody else would
    cancelled = f"test -e {tmp_path}/died || {{ touch {tmp_path}/died; scancel 1; sleep 60; }}; echo ok > $OUT"
    lines = list(run_cells(tmp_path / "out", [shell("a", cancelled, tmp_path)], 1, "slurm"))
    assert "a worker died at a: it is tried again" in lines
    assert states(tmp_path / "out") == {"a": "done"} and ran(tmp_path) == ["a", "a"]


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_sigterm_cancels_the_jobs_as_ctrl_c_does(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    root = tmp_path / "out"
    root.mkdir()
    process = started(root, [shell("a", f"cat {gate}; echo > $OUT", root)], "a", cluster="slurm")
    assert queued() == ["1"]
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1]
    assert (process.returncode, error) == (143, "lmms-steer: terminated; run the command again to resume\n")
    assert queued() == [] and not at_work(gate)


@pytest.mark.slow
def test_sigterm_ends_the_workers_of_this_machine(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = started(tmp_path, [shell("a", f"cat {gate}; echo > $OUT", tmp_path)], "a")
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert not at_work(gate) and process.returncode == 143


@pytest.mark.usefixtures("slurm")
def test_a_queue_that_does_not_answer_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "LOOK_SECONDS", 0)
    (tmp_path / "job").write_text("sleep 60")
    subprocess.run(["sbatch", str(tmp_path / "job")], check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "jobs" / "2").write_text("4194305")
    queue = SlurmQueue()
    assert queue.gone(["1", "2"]) == {"2"}
    subprocess.run(["scancel", "1"], check=True)
    until = time.monotonic() + 30
    while queue.gone(["1"]) != {"1"} and time.monotonic() < until:
        time.sleep(0.02)
    assert queue.gone(["1", "2"]) == {"1", "2"}
    for failing in ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None):
        squeue = tmp_path / "programs" / "squeue"
        squeue.write_text(f"#!/bin/sh\n{failing}\n") if failing else squeue.unlink()
        assert SlurmQueue().gone(["1", "2"]) == frozenset()
