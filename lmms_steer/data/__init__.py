"""Local copies of the benchmarks: where a task's data is, importing the official releases, checking what is there."""
