"""Recipes on a real Ray cluster of one machine: what is sent, a lost task, a killed command, and what is refused."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.command import run_cells, run_recipe
from tests.helpers.recipes import at_work, ran, started, states

pytest.importorskip("ray", reason="no ray: make sets it up with the extra dev")
pytestmark = pytest.mark.slow
ROOT = Path("out")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine with two CPUs."""
    names = ("port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port", "runtime-env-agent-port")
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = [one.getsockname()[1] for one in free]
    # the paths of its sockets have a limit that pytest's folders exceed
    with TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        words = ["start", "--head", "--block", "--num-cpus=2", "--temp-dir", folder, "--node-ip-address=127.0.0.1"]
        words += ["--include-dashboard=false", "--disable-usage-stats"]
        words += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        # on a busy machine half a minute is too short
        environment = {**os.environ, "RAY_raylet_start_wait_time_s": "300"}
        program = str(Path(sys.executable).with_name("ray"))
        with Path(folder, "log").open("wb") as log:
            head = subprocess.Popen([program, *words], stdout=log, stderr=log, env=environment)
            while b"Ray runtime started" not in Path(folder, "log").read_bytes() and head.poll() is None:
                time.sleep(0.1)
            assert head.poll() is None, Path(folder, "log").read_text()
            yield f"127.0.0.1:{ports[0]}"
            head.terminate()
            head.wait(60)


@pytest.fixture(autouse=True)
def here(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    ROOT.mkdir()


def cell(name: str, script: str, needs: tuple[str, ...] = (), reads: tuple[str, ...] = ()) -> Cell:
    """A cell that notes that it ran, and makes a file of what its script prints, in the folder that it is run in."""
    folder = f"{ROOT}/{name}"
    out = f"{folder}/made.txt"
    noted = f"echo {name} >> {ROOT.absolute()}/ran; pwd >> {ROOT.absolute()}/folders; mkdir -p {folder}"
    return Cell(name, "command", ("sh", "-c", f"{noted}; ({script}) > {out}"), needs, reads, (out,), folder)


def plan(at_second: str = "true") -> list[Cell]:
    Path("given").mkdir(exist_ok=True)
    Path("given/file").write_text("given\n")
    return [
        cell("first", f"cat given/file; echo first; echo more > {ROOT}/first/more.txt", reads=("given",)),
        cell("second", f"{at_second}; cat {ROOT}/first/made.txt; echo second", ("first",)),
        cell("other", "echo other"),
        # of the first it knows through the second
        cell("last", f"cat {ROOT}/first/*.txt {ROOT}/second/made.txt {ROOT}/other/made.txt", ("second", "other")),
    ]


LAST = "given\nfirst\nmore\ngiven\nfirst\nsecond\nother\n"


def test_files_go_to_a_folder_of_the_task_and_back_and_a_lost_task_is_tried_again(tmp_path: Path) -> None:
    lose = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; kill -9 $PPID; sleep 60; }}"
    lines = list(run_cells(ROOT, plan(lose), 2, "ray"))
    assert "a worker died at second: it is tried again" in lines
    assert Path(ROOT, "last/made.txt").read_text() == LAST
    assert sorted(ran(ROOT)) == ["first", "last", "other", "second", "second"]
    folders = Path(ROOT, "folders").read_text().split()
    assert len(set(folders)) == 5 and str(tmp_path) not in folders
    assert not [folder for folder in folders[-1:] if Path(folder).exists()]


def test_tasks_end_with_a_killed_command_which_resumes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = started(
        ROOT, plan(f"while test ! -e {gate}; do sleep 0.1; done"), "second", "other", cluster="ray", workers=2
    )
    command.kill()
    command.communicate()
    until = time.monotonic() + 60
    while at_work(gate) and time.monotonic() < until:
        time.sleep(0.1)
    assert not at_work(gate)
    gate.touch()
    lines = list(run_cells(ROOT, plan(f"while test ! -e {gate}; do sleep 0.1; done"), 2, "ray"))
    assert any(line.startswith("resumed: ") for line in lines)
    assert Path(ROOT, "last/made.txt").read_text() == LAST
    assert ran(ROOT).count("first") == 1 and ran(ROOT).count("second") == 2


def test_a_failed_command_fails_its_cell(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 cell failed and 1 were skipped"):
        list(run_cells(ROOT, [cell("bad", "echo no >&2; exit 3"), cell("next", "true", ("bad",))], 1, "ray"))
    assert states(ROOT) == {"bad": "failed", "next": "skipped"}
    assert Path(ROOT, "cells/bad.log").read_text() == "no\n"


def test_what_the_cluster_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, root: Path = ROOT, ray: tuple[str, ...] = ()) -> None:
        with pytest.raises(UserError, match=message):
            list(run_cells(root, plan(), 1, "ray", (), ray))

    refused(
        "--ray num_gpus=1: no machine of the Ray cluster has that; the most that one has: GPU 0", ray=("num_gpus=1",)
    )
    refused("must be named relative to the current folder", root=tmp_path / "absolute")
    for given, message in ((("num_gpus",), "expected KEY=NUMBER"), (("num_gpus=1",), "add --cluster ray")):
        with pytest.raises(UserError, match=message):
            list(run_recipe("tiny", ROOT, dry_run=True, ray=given, cluster="ray" if "KEY" in message else "local"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    refused("no Ray cluster answers at 127.0.0.1")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    refused("this machine belongs to no Ray cluster")
    assert not Path(ROOT, "ran").exists()
