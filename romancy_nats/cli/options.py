"""The options that commands share, and the settings that come of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import ValidationError

from romancy_nats.core.ids import check_namespace
from romancy_nats.errors import ConfigurationError
from romancy_nats.settings import Settings

Url = Annotated[
    str | None,
    typer.Option("--url", help="Where NATS is (else ROMANCY_NATS_URL).", metavar="URL", show_default=False),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", help="The namespace (else ROMANCY_NAMESPACE, else romancy).", metavar="NAME"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout, nothing else there.")]
WorkflowName = Annotated[
    str | None,
    typer.Option("--workflow", help="The workflow, when the id alone is not enough.", metavar="NAME"),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the instance.")]
Target = Annotated[
    str, typer.Argument(metavar="MODULE:app", help="Where the App is; imported from the working directory.")
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        help='JSON: an object of keyword arguments or {"args", "kwargs"}, an array of arguments, or the single '
        "argument; @FILE reads a file, - stdin.",
        metavar="JSON",
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", help="Wait no longer than this.", metavar="SECONDS", min=0)
]


def settings(url: str | None, namespace: str | None, read: Callable[[], Settings] = Settings) -> Settings:
    """The settings of the environment (or those of an app), with what the command line says on top."""
    try:
        known = read()
    except ValidationError as error:
        wrong = "; ".join(
            f"ROMANCY_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()
        )
        raise ConfigurationError(wrong) from error
    update: dict[str, object] = {}
    if url is not None:
        update["nats_url"] = url
    if namespace is not None:
        update["namespace"] = check_namespace(namespace)
    return known.model_copy(update=update)
