"""What the commands of both trainings share: their options, and settings that give the same numbers on any machine."""

import argparse
import logging
from pathlib import Path

import torch


def start(description: str | None, log_file: str, mode: str) -> argparse.Namespace:
    """Read the options, make the folder, and log to a file in it.

    Args:
        description: the command's.
        log_file: its name in the folder.
        mode: `w` to begin the file anew, `a` to continue it.

    Returns:
        `out`, the folder; `seed`; and `quick`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints, the log and the manifest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps per stage, to test that everything runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(args.out / log_file, mode=mode)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[handler])
    # at this size one thread is as fast as two, and it gives the same numbers on any number of cores
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return args
