"""What long work stands on: journals, signals, threads, processes, progress, and the cache."""
