"""`python -m lmms_steer.recipes.leash PID PROGRAM …`: the program, ended when PID, which started it, dies of SIGKILL.

A worker that dies so cannot end what it runs, and its cell is begun again. Linux alone can do this.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program."""
    if sys.platform == "linux":
        # SIGTERM, on which torchrun ends its own processes too
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(sys.argv[1]):
            sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  the recipe's own command


if __name__ == "__main__":
    main()
