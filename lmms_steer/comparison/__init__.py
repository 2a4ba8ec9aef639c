"""Compare evaluated runs: read a harness's logs, pair them with a baseline, and report gains with intervals."""
