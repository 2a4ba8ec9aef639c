"""A real SLURM of one node, started from Debian's packages with all its files in one folder, and without accounting."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SBIN = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=_SBIN)]
"""Programs that are not installed."""
WHY_MISSING = "no SLURM: apt-get install slurm-wlm munge"
_CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# a machine of any size counts as one of two processors
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_node(folder: Path) -> Iterator[str]:
    """Start SLURM, and end it with the block.

    Args:
        folder: an empty one.

    Yields:
        The path of its configuration, for the variable `SLURM_CONF`.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [one.getsockname()[1] for one in sockets]
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(_CONFIGURATION.format(host=host, ports=ports, user=getpass.getuser(), folder=folder))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    files |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    environment = {**os.environ, "PATH": _SBIN, "SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        for words in (
            # --force: below /tmp, which everybody may write to
            ("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items())),
            ("slurmctld", "-D"),
            ("slurmd", "-D"),
        ):
            log = stack.enter_context((folder / f"{words[0]}.out").open("wb"))
            started = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_end, started)
        logs = "\n".join(f"{folder}/{name}.out" for name in ("munged", "slurmctld", "slurmd"))
        assert _soon(lambda: "State=IDLE" in _output(environment, "scontrol", "show", "node")), f"see {logs}"
        yield str(configuration)


def nothing_queued() -> bool:
    """Whether the queue is empty, after jobs that have ended were removed from it."""
    return _soon(lambda: not _output(None, "squeue", "--noheader"))


def _soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not (met := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return met


def _output(environment: Mapping[str, str] | None, *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True).stdout


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
