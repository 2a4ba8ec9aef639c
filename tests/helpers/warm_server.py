"""A process that has imported what the command lines need, and starts them as its forks: see `tests.helpers.warm`."""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

MODULES = (
    "lmms_eval.__main__ lmms_eval.evaluator datasets pyarrow.parquet optuna.storages submitit matplotlib.pyplot"
    " matplotlib.backends.backend_svg sklearn.decomposition sklearn.linear_model scipy.stats accelerate"
    " lmms_steer.cli lmms_steer.comparison.page lmms_steer.comparison.command lmms_steer.extraction.extract"
    " lmms_steer.harness.steered lmms_steer.recipes.command lmms_steer.recipes.worker lmms_steer.search.command"
    " lmms_steer.search.run lmms_steer.search.figures nltk pytablewriter sae_lens"
).split()
"""What the commands import."""
CLASSES = (
    "AutoModelForCausalLM AutoModelForImageTextToText AutoProcessor AutoTokenizer PaliGemmaForConditionalGeneration"
    " PaliGemmaProcessor Gemma2ForCausalLM SiglipModel"
).split()
"""Classes of transformers, which imports them when they are first used."""


def import_everything() -> None:
    """Import what the commands import, and index lmms-eval's tasks."""
    import lmms_eval
    import torch
    import transformers
    from lmms_eval.tasks import TaskManager

    from lmms_steer.harness.task_index import cache_task_index
    from lmms_steer.tiny_world.checkpoints import weights_dir

    for module in MODULES:
        importlib.import_module(module)
    for name in CLASSES:
        getattr(transformers, name)
    # what transformers prepares at the first checkpoint
    folder = weights_dir("tiny-paligemma2")
    transformers.AutoProcessor.from_pretrained(folder)
    transformers.AutoModelForImageTextToText.from_pretrained(folder)
    torch.set_num_threads(1)
    cache_task_index()
    TaskManager("ERROR")
    # only `lmms-eval` itself imports it: the package tells by it whether that command runs
    del sys.modules["lmms_eval.__main__"]
    vars(lmms_eval).pop("__main__", None)


def run_words(words: Sequence[str], path: Sequence[str] | None = None) -> None:
    """Run a command line in this process, which has been forked for it, as its program would.

    Args:
        words: a console script and its arguments, or `python` with `-c CODE` or `-m MODULE` and theirs.
        path: `sys.path` without the program's own folder; default: as it is.
    """
    program, *arguments = words
    first = str(Path(sys.executable).parent)
    if program == "python":
        first = "" if arguments[0] == "-c" else str(Path.cwd())
    sys.path[:] = [first, *(sys.path if path is None else path)]
    importlib.invalidate_caches()
    _as_after_import(quiet="lmms-steer" in words or "lmms_steer.cli" in words)
    if program != "python":
        sys.argv = [str(Path(first, program)), *arguments]
        (script,) = {point.value: point for point in entry_points(group="console_scripts", name=program)}.values()
        sys.exit(script.load()())
    kind, what, *rest = arguments
    sys.argv = ["-c" if kind == "-c" else what, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))  # noqa: S102  the test's own


def end_process(run: Callable[[], object]) -> NoReturn:
    """Run a function, and end this fork as Python ends a program, without taking apart what the server imported."""
    status = 0
    try:
        run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    vars(threading)["_shutdown"]()
    vars(atexit)["_run_exitfuncs"]()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


def _as_after_import(quiet: bool) -> None:
    """Set what libraries set when they are imported, and what forks would share."""
    import numpy as np
    from loguru import logger

    np.random.seed()
    logger.remove()
    # as `lmms-steer` sets it before it imports anything
    logger.add(sys.stderr, level=os.environ.get("LOGURU_LEVEL", "WARNING" if quiet else "DEBUG"))


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request and its descriptors: stdin, stdout, stderr. None when the tests have ended."""
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    if not head:
        return None
    size, body = int(head), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return json.loads(body), descriptors


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Start a process for every request, and report its id and later its status.

    Returns:
        None when the tests have ended; in a forked process the request that it must run.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for child in list(children):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    children.remove(pid)
                    connection.sendall(b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))
        if connection.fileno() in ready:
            received = _receive(connection)
            if received is None:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                return None
            request, descriptors = received
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                connection.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                for descriptor in (woken, wake, *descriptors):
                    os.close(descriptor)
                return request
            children.add(pid)
            connection.sendall(b"%d started\n" % pid)
            for descriptor in descriptors:
                os.close(descriptor)


def main() -> None:
    """Serve the requests that come through the socket whose descriptor is the argument."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # without the folder of this program
    path = [entry for entry in sys.path[1:] if entry not in given]
    import_everything()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        request = serve(connection)
    if request is not None:
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        if request["process_group"]:
            os.setpgid(0, 0)
        given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        end_process(lambda: run_words(request["words"], [*given, *path]))


if __name__ == "__main__":
    main()
