"""The plugin: what lmms-eval and lm-evaluation-harness load, and what is patched into them."""
