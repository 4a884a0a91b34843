"""The pure core: a workflow is a fold over its history. No clock, no randomness, no I/O, no nats in here."""
