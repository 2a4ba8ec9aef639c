"""Workers and processes: deaths, interrupts, clusters, and nothing that outlives its command."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import psutil
import pytest

from lmms_steer import UserError
from lmms_steer.recipes import scheduler
from lmms_steer.recipes.command import run_cells
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.scheduler import WorkerPool, _parameters
from lmms_steer.recipes.worker import SILENCE_LIMIT, Heartbeat, WorkerSpec, begun_file, exempt_imports
from tests.helpers.recipes import WarmExecutor, at_work, chain, ran, shell, started, states


@pytest.mark.slow
def test_the_cell_of_a_dead_worker_is_tried_again(tmp_path: Path) -> None:
    def once(name: str, number: str) -> str:
        return f"test -e {tmp_path}/{name} || {{ touch {tmp_path}/{name}; kill -{number} $PPID; exit 1; }}; echo > $OUT"

    # SLURM's signals before a time limit (USR2) and at the end of a job (TERM) reach programs and their worker
    cells = [shell(name, once(name, name), tmp_path) for name in ("KILL", "USR2", "TERM")]
    cells.append(shell("always", "kill -9 $PPID; sleep 1", tmp_path))
    lines: list[str] = []
    with pytest.raises(UserError, match="1 cell failed"):
        for line in run_cells(tmp_path, cells, 1):
            lines.append(line)
    assert "a worker died at KILL: it is tried again" in lines
    assert states(tmp_path) == {"KILL": "done", "USR2": "done", "TERM": "done", "always": "failed"}
    assert any(line.startswith("FAILED   always: its worker died 2 times") for line in lines)
    assert {name: ran(tmp_path).count(name) for name in ran(tmp_path)} == {c.name: 2 for c in cells}


@pytest.mark.slow
def test_a_job_that_slurm_starts_after_its_run_is_over_takes_no_cell(tmp_path: Path) -> None:
    Ledger(tmp_path).begin([shell("a", "echo > $OUT", tmp_path)])
    (tmp_path / ".run" / "run").write_text("the next run")
    spec = WorkerSpec(str(tmp_path), 0, "an earlier run", os.getpid(), {})
    WarmExecutor(tmp_path, "local").submit(None, spec).started.wait()
    assert states(tmp_path) == {"a": "open"}


@pytest.mark.slow
def test_a_run_killed_by_sigkill_resumes_and_a_second_run_is_refused(tmp_path: Path) -> None:
    cells = chain(tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # the cell waits until somebody opens the gate
    cells[2] = shell("a2", f"cat {gate} > /dev/null; echo 2 > $OUT", tmp_path)
    process = started(tmp_path, cells, "a2")
    with pytest.raises(UserError, match=rf"is in use by another run \(process {process.pid} on "):
        list(run_cells(tmp_path, cells, 1))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert states(tmp_path) | {"a0": "done", "a1": "done", "a2": "running"} == states(tmp_path)
    list(run_cells(tmp_path, chain(tmp_path), 2))
    assert not at_work(gate), "what a worker started ended with it"
    assert (tmp_path / "table.txt").read_text() == "0\n0\n1\n1\n2\n2\n3\n3\n"
    assert ran(tmp_path).count("a0") == ran(tmp_path).count("a1") == 1 and ran(tmp_path).count("a2") == 2


@pytest.mark.slow
def test_ctrl_c_prints_one_line_and_ends_every_process(tmp_path: Path) -> None:
    gate, below = tmp_path / "gate", tmp_path / "below.py"
    os.mkfifo(gate)
    # as torchrun's processes: each in a session of its own
    below.write_text(
        "import os, pathlib, sys; os.setsid()\n"
        f"with open({str(tmp_path / 'ran')!r}, 'a') as ran: print(sys.argv[1], file=ran)\n"
        f"os.execvp('cat', ['cat', {str(gate)!r}])"
    )
    script = f"{sys.executable} {below} below-{{}} & cat {gate}; echo > $OUT"
    cells = [shell(name, script.format(name), tmp_path) for name in "ab"]
    process = started(tmp_path, cells, "below-a", "below-b", workers=2)
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    assert not at_work(tmp_path)
    assert process.communicate()[1] == "lmms-steer: interrupted; run the command again to resume\n"
    assert process.returncode == 130
    list(run_cells(tmp_path, [shell("a", "echo > $OUT", tmp_path)], 1))
    assert not at_work(tmp_path), "nor when all is done"


def test_closing_the_generator_of_a_run_ends_every_process(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    lines = run_cells(tmp_path, [shell("a", "echo > $OUT", tmp_path), shell("b", f"cat {gate}", tmp_path)], 1)
    assert any("a: done" in line for line in lines)
    lines.close()
    assert not at_work(tmp_path)


@pytest.mark.parametrize(
    ("sbatch", "expected"),
    [
        (
            "echo 'sbatch: warning: old' >&2; echo 'sbatch: error: invalid partition' >&2; exit 1",
            "sbatch: error: invalid",
        ),
        (None, "No such file or directory: 'sbatch'"),
    ],
)
def test_a_cluster_that_takes_no_jobs_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sbatch: str | None,
    expected: str,
) -> None:
    # submitit looks for srun to know a cluster by
    for name, script in (("srun", "exit 0"), ("sbatch", sbatch)):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--cluster slurm: no job could be started: ") as caught:
        list(run_cells(tmp_path / "out", [shell("a", "echo > $OUT", tmp_path)], 1, "slurm"))
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""


def test_a_heartbeat_is_old_when_its_stamp_stops_changing_whatever_the_clock() -> None:
    sign = Heartbeat(1000.0)
    # stamps of a clock that is decades behind
    assert not sign.is_old(5, 1001.0) and not sign.is_old(5, 1001.0 + SILENCE_LIMIT)
    assert not sign.is_old(6, 1002.0 + SILENCE_LIMIT), "a new one"
    assert not sign.is_old(None, 1003.0 + SILENCE_LIMIT), "a disk that is away for a moment"
    assert sign.is_old(6, 1003.0 + 2 * SILENCE_LIMIT) and sign.is_old(None, 1003.0 + 2 * SILENCE_LIMIT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent died")
def test_a_worker_s_program_ends_when_the_worker_is_killed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = f"run_in_process(['cat', {str(gate)!r}], pathlib.Path('log'))"
    code = f"import pathlib; from lmms_steer.recipes.in_process import run_in_process; {run}"
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (child := psutil.Process(worker.pid).children()) or child[0].name() != "cat":
        time.sleep(0.02)
    worker.kill()
    psutil.wait_procs(child, timeout=30)
    assert not child[0].is_running()


def test_workers_share_the_gpus_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(there: str, size: int) -> list[str]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
        return [scheduler._environment(number, size)["CUDA_VISIBLE_DEVICES"] for number in range(size)]

    assert shares("4,5", 4) == ["4", "5", "4", "5"] and shares("0,1,2,3", 2) == ["0,2", "1,3"]
    assert shares("", 2) == ["", ""]


def test_what_is_exempt_from_collections_between_cells_is_collected_once_it_is_garbage() -> None:
    class Model:
        pass

    model = Model()
    model.itself = model  # type: ignore[attr-defined]
    gone = weakref.ref(model)
    try:
        exempt_imports()
        # nothing is left to collect: what lmms-eval's own collections look at
        assert len(gc.get_objects()) < 1000
        del model
        gc.collect()
        assert gone() is not None
        exempt_imports()
        assert gone() is None
    finally:
        gc.unfreeze()


def test_options_of_sbatch_reach_it_by_their_own_names() -> None:
    given = ["partition=gpu", "gpus_per_node=1", "timeout_min=600", "reservation=course", "gpus=2", "cpus-per-gpu=4"]
    assert _parameters("slurm", given) == {
        **{"name": "lmms-steer", "timeout_min": 600, "gpus_per_node": 1},
        **{"slurm_partition": "gpu", "slurm_cpus_per_gpu": 4},
        "slurm_additional_parameters": {"reservation": "course", "gpus": 2},
    }
    with pytest.raises(UserError, match="--slurm gpu: expected KEY=VALUE"):
        _parameters("slurm", ["gpu"])


def test_a_worker_that_waits_until_its_time_limit_does_not_die_early(tmp_path: Path) -> None:
    pool = WorkerPool.__new__(WorkerPool)
    pool.root = tmp_path
    begun = begun_file(tmp_path, 0)
    assert pool._died_early(0), "it never asked for a cell"
    begun.parent.mkdir()
    begun.touch()
    assert pool._died_early(0)
    hour_ago = time.time() - 3600
    os.utime(begun, (hour_ago, hour_ago))
    assert not pool._died_early(0)
