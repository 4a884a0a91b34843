"""MODULE:app to the App it names, and a workflow of it by name. Says what is there when a name is not."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from romancy_nats.app import App
from romancy_nats.core.definition import Workflow
from romancy_nats.errors import ConfigurationError


def load_app(target: str) -> App:
    """Import the module from the working directory and return its App; raises ConfigurationError."""
    where, _, name = target.partition(":")
    if not where:
        raise ConfigurationError(f"{target!r} names no module; say MODULE:app, for example orders:app")
    module = _import(where)
    name = name or "app"
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    what = (
        f"{where} has no {name!r}" if found is None else f"{target} is a {type(found).__name__}, not an App"
    )
    raise ConfigurationError(f"{what}; {_there('it has the App', apps) if apps else 'it has no App at all'}")


def workflow_of(app: App, name: str) -> Workflow[..., Any]:
    """The workflow of an app by name; raises ConfigurationError naming the closest."""
    for workflow in app.workflows:
        if workflow.name == name:
            return workflow
    names = [workflow.name for workflow in app.workflows]
    raise ConfigurationError(f"no workflow {name!r} in this app; {suggestion(name, names)}")


def suggestion(name: str, names: Iterable[str]) -> str:
    """Which name may have been meant, and all there are."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return meant + (_there("there is", known) if known else "there is none")


def _there(intro: str, names: Iterable[str]) -> str:
    return f"{intro} {', '.join(names)}"


def _import(where: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ConfigurationError(f"there is no module {where!r} in {here} or on the path") from error
        raise _failed(where, error) from error
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(where, error) from error


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"there is no file {str(path)!r}")
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _failed(where: str, error: BaseException) -> ConfigurationError:
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return ConfigurationError(f"importing {where!r} failed: {type(error).__name__}: {error}{place}")
