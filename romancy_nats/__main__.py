"""`python -m romancy_nats` is `romancy`. Nothing else."""

from __future__ import annotations

from romancy_nats.cli.main import run

run()
