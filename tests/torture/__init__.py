"""Faults against the long commands: killed, no space, a cut file, a read-only folder, a clock that jumps.

`python -m tests.torture` runs each command into seeded faults, runs it again until it ends, and compares what it wrote
with an uninterrupted run. `make torture` runs it whole.
"""
