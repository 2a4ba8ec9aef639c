"""Local copies of the benchmarks: import of the official releases, checks, stand-ins, and where a task's data is."""
