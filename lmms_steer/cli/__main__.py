"""`python -m lmms_steer.cli`."""

from lmms_steer.cli import main

main()
