"""A runnable worker for deployments: run it by path, configure it by environment, never import it.

It only picks the application and becomes `romancy worker` (same process, so signals arrive). No logic of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "01_orders"


def command() -> list[str]:
    """The `romancy` program of the Python that runs this file, told to work for ROMANCY_APP."""
    application = os.environ.get("ROMANCY_APP") or "main:app"
    program = Path(sys.executable).with_name("romancy")
    if not program.exists():
        sys.exit(
            f"{program} is missing: install romancy-nats for {sys.executable}, or run this file with its Python"
        )
    return [str(program), "worker", application, *sys.argv[1:]]


def main() -> None:
    """Replace this process by the worker, in the folder that holds the application."""
    if not os.environ.get("ROMANCY_NATS_URL"):
        sys.exit(
            "set ROMANCY_NATS_URL, for example nats://localhost:4222: a deployed worker needs a shared server"
        )
    arguments = command()
    folder = os.environ.get("ROMANCY_APP_DIR") or ("" if os.environ.get("ROMANCY_APP") else str(EXAMPLE))
    if folder:
        os.chdir(folder)
    os.execv(arguments[0], arguments)


if __name__ == "__main__":
    main()
