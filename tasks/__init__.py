"""The task files of the benchmarks that ship, installed as `lmms_steer.tasks`; lmms-eval indexes the folder."""
