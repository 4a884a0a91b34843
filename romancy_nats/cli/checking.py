"""`romancy check`: whether the workflows of an App can be called at all, without a server and without a call."""

from __future__ import annotations

from typing import Annotated

import typer

from romancy_nats.cli.options import AsJson
from romancy_nats.cli.output import print_json
from romancy_nats.cli.target import load_app
from romancy_nats.core.reachable import reachable

Target = Annotated[str, typer.Argument(metavar="MODULE:app", help="The App, for example orders:app.")]


def check(target: Target, as_json: AsJson = False) -> None:
    """Import an App and build the codecs of its workflows and of the activities that they name.

    Exit code 2 when the module cannot be imported, or a parameter or result has a type that cannot be stored.
    """
    app = load_app(target)
    names = sorted({definition.name for definition in reachable(app.workflows)})
    if as_json:
        print_json({"app": app.name, "checked": names})
    else:
        print(f"{app.name}: {len(names)} functions checked: {', '.join(names)}")
