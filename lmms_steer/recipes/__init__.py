"""An experiment as a file: validated, planned as commands, run by workers, skipped where done, resumed after a kill."""
