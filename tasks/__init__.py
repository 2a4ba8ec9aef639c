"""The task YAMLs, installed as `lmms_steer.tasks`; lmms-eval indexes the folder."""
