"""Faults on a real server with real processes, and the checker that compares what was told with what was done."""
