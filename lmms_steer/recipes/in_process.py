"""Run a command line inside this process, so that torch and lmms-eval are imported once for many commands."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from lmms_steer.harness.task_index import cache_task_index
from lmms_steer.recipes.processes import kill_children, tied_command

PROGRAMS = ("lmms-steer", "lmms-eval")
"""Programs whose console script is called in this process."""


def run_in_process(command: Sequence[str], log: Path) -> int:
    """Run a command and return its exit status.

    `lmms-steer` and `lmms-eval` are called at the function that their console scripts call. Any other program is
    started as a process.

    Args:
        command: the words of the command line.
        log: file for everything that the command prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, _output_redirected(file.fileno()), _state_restored(command):
        main = _console_script(command[0])
        if main is None:
            with subprocess.Popen(tied_command([_program_path(command[0]), *command[1:]])) as child:
                try:
                    return child.wait()
                except BaseException:
                    kill_children()
                    raise
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # noqa: BLE001  the error of one command must not end the next ones
            traceback.print_exc()
            return 1
    return 0


def failure_reason(log: Path) -> str:
    """The line of a log that says why its command failed.

    In this order: the last error of lmms-steer, the last exception, the last error that was logged, the last line.
    """
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in log.read_text(errors="replace").splitlines()]
    ours = [line.removeprefix("lmms-steer: ") for line in lines if line.startswith("lmms-steer: ")]
    # a RetryError only says that something was retried; its cause is an earlier line
    raised = [line for line in lines if re.match(r"[\w.]*(?<!Retry)(Error|Exception|Interrupt|Invalid)\b", line)]
    logged = [line.split(" - ", 1)[-1] for line in lines if re.search(r"\| (ERROR|CRITICAL) ", line)]
    for candidates in (ours, raised, logged, [line for line in lines if line]):
        if candidates:
            return candidates[-1]
    return "it printed nothing"


def _console_script(program: str) -> Callable[[], object] | None:
    if program not in PROGRAMS:
        return None
    if program == "lmms-eval":
        cache_task_index()
    script = next(iter(entry_points(group="console_scripts", name=program)))
    main: Callable[[], object] = script.load()
    return main


def _program_path(name: str) -> str:
    """The program of this Python's environment where it has one (torchrun), else the name for a search in PATH."""
    path = Path(sys.executable).parent / name
    return str(path) if path.is_file() else name


@contextmanager
def _output_redirected(descriptor: int) -> Iterator[None]:
    """Send stdout and stderr to a file descriptor inside the block, for this process and those that it starts."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(descriptor, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in zip((1, 2), originals, strict=True):
            os.dup2(original, number)
            os.close(original)


@contextmanager
def _state_restored(command: Sequence[str]) -> Iterator[None]:
    """Set `sys.argv` to the command inside the block; restore arguments, environment and folder after it."""
    arguments, environment, folder = sys.argv, dict(os.environ), Path.cwd()
    sys.argv = list(command)
    try:
        yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
