"""The real engine on the world in memory, in virtual time, under a seeded scheduler and seeded faults."""
