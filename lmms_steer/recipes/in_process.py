"""A command line run inside this process: torch and lmms-eval are imported once for many of them."""

import copy
import functools
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psutil

PROGRAMS = ("lmms-steer", "lmms-eval")
"""Programs whose console script is called in this process."""


def run_in_process(command: Sequence[str], log: Path) -> int:
    """What the command's exit status is; all that it prints goes into `log`.

    `lmms-steer` and `lmms-eval` are called at the function that their console scripts call; any other program is
    started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, _printing_to(file.fileno()), _as_it_was(command):
        main = _entry(command[0])
        if main is None:
            leash = (sys.executable, "-m", "lmms_steer.recipes.leash", str(os.getpid()))
            with subprocess.Popen([*leash, _program(command[0]), *command[1:]]) as child:
                try:
                    return child.wait()
                except BaseException:
                    end_children()
                    raise
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # noqa: BLE001  whatever ends one command must not end the next
            traceback.print_exc()
            return 1
    return 0


def end_children() -> None:
    """Kill all that this process started, group or not: torchrun gives each of its processes a group of its own."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def failure_reason(log: Path) -> str:
    """The line of a log that says why its command failed."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in log.read_text(errors="replace").splitlines()]
    ours = [line.removeprefix("lmms-steer: ") for line in lines if line.startswith("lmms-steer: ")]
    # what was tried again and again is told before the last line, which says only that it was
    raised = [line for line in lines if re.match(r"[\w.]*(?<!Retry)(Error|Exception|Interrupt|Invalid)\b", line)]
    logged = [line.split(" - ", 1)[-1] for line in lines if re.search(r"\| (ERROR|CRITICAL) ", line)]
    for found in (ours, raised, logged, [line for line in lines if line]):
        if found:
            return found[-1]
    return "it printed nothing"


def _entry(program: str) -> Callable[[], object] | None:
    if program not in PROGRAMS:
        return None
    if program == "lmms-eval":
        _keep_the_task_index()
    script = next(iter(entry_points(group="console_scripts", name=program)))
    main: Callable[[], object] = script.load()
    return main


def _keep_the_task_index() -> None:
    """lmms-eval reads thousands of task files for every evaluation, in three seconds: here once a process."""
    from lmms_eval.tasks import TaskManager

    read = TaskManager._get_task_and_group
    if hasattr(read, "__wrapped__"):
        return
    indexes: dict[str, Any] = {}

    @functools.wraps(read)
    def _get_task_and_group(self: Any, task_dir: str) -> Any:
        if task_dir not in indexes:
            indexes[task_dir] = read(self, task_dir)
        return copy.deepcopy(indexes[task_dir])

    TaskManager._get_task_and_group = _get_task_and_group


def _program(name: str) -> str:
    """One beside this Python, where there is one: torchrun of the same environment."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else name


@contextmanager
def _printing_to(descriptor: int) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(descriptor, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def _as_it_was(command: Sequence[str]) -> Iterator[None]:
    """The next command finds arguments, environment and folder as a new process would."""
    arguments, environment, folder = sys.argv, dict(os.environ), Path.cwd()
    sys.argv = list(command)
    try:
        yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
