"""Recipes and cells for tests: cells are shell commands that note that they ran."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.worker import WorkerSpec
from tests.helpers import warm

RECIPE = """\
about: a test
models:
  tiny:
    model: steered_paligemma
    pretrained: tiny-paligemma2
methods:
  mean_shift: {alphas: 10:50:10}
studies:
  left:
    concepts: spatial
    select: tiny_spatial_select
    test: tiny_spatial
"""


def shell(name: str, script: str, root: Path, needs: tuple[str, ...] = (), reads: tuple[str, ...] = ()) -> Cell:
    """A cell that notes that it ran, then runs `script`, in which $OUT is the file that it makes."""
    out = root / f"{name}.txt"
    script = f"echo {name} >> {root}/ran; OUT={out}; {script}"
    return Cell(name, "command", ("sh", "-c", script), needs, reads, (str(out),))


def chain(root: Path) -> list[Cell]:
    cells = [shell(f"a{i}", f"echo {i} > $OUT", root) for i in range(4)]
    cells += [shell(f"b{i}", f"cat {root}/a{i}.txt {root}/a{i}.txt > $OUT", root, (f"a{i}",)) for i in range(4)]
    return [*cells, shell("table", f"cat {root}/b*.txt > $OUT", root, tuple(f"b{i}" for i in range(4)))]


def ran(root: Path) -> list[str]:
    return (root / "ran").read_text().split()


def states(root: Path) -> dict[str, str]:
    return {name: state.state for name, state in Ledger(root).states().items()}


def started(
    root: Path, cells: list[Cell], *until: str, workers: int = 1, cluster: str = "local"
) -> "subprocess.Popen[str]":
    """A run of the cells in a process group of its own, once all of `until` have begun."""
    plan = root / "cells.json"
    plan.write_text(json.dumps([cell.as_dict() for cell in cells]))
    code = (
        "import json, pathlib, signal, sys\n"
        # what a shell starts in the background takes no notice of Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lmms_steer import cli\n"
        "from lmms_steer.recipes import command; from lmms_steer.recipes.cells import Cell\n"
        f"root = pathlib.Path({str(root)!r}); plan = json.loads(pathlib.Path({str(plan)!r}).read_text())\n"
        "cells = [Cell.from_dict(c) for c in plan]\n"
        f"command.run_recipe = lambda *_: command.run_cells(root, cells, {workers}, {cluster!r})\n"
        "sys.argv = ['lmms-steer', 'run', 'tiny']; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0
    )
    while process.poll() is None and not ((root / "ran").is_file() and {*until} <= {*ran(root)}):
        time.sleep(0.02)
    return process


class WarmExecutor:
    """In place of submitit's: workers start as forks of a process that has imported what they need."""

    CODE = (
        "import json, sys; from lmms_steer.recipes.worker import WorkerSpec, run_worker;"
        " run_worker(WorkerSpec(**json.loads(sys.argv[1])))"
    )

    def __init__(self, folder: Path, cluster: str) -> None:
        assert cluster == "local"

    def update_parameters(self, **_: Any) -> None:
        """Take what submitit takes."""

    def submit(self, _: Any, spec: WorkerSpec) -> "WarmJob":
        return WarmJob(warm.start("python", "-c", self.CODE, json.dumps(asdict(spec))))


class WarmJob:
    def __init__(self, started: warm.Started) -> None:
        self.job_id, self.started = str(started.pid), started

    def done(self) -> bool:
        return self.started.poll() is not None

    def stderr(self) -> str:
        return self.started.communicate()[1]


def at_work(word: object) -> list[psutil.Process]:
    """Processes with a word in their command line."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(word) in part for part in p.info["cmdline"] or ())]
