"""The ground for long computations: journals, signals, threads, processes, and the cache."""
