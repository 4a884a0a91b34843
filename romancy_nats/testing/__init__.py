"""Tests without a server: the world in memory, virtual time, seeded faults. Names only."""
