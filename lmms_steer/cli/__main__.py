"""`python -m lmms_steer.cli` is the same as `lmms-steer`."""

from lmms_steer.cli import main

main()
