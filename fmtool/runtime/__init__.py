"""The ground for long computations: journals, signals, threads, processes, progress, and the cache."""
