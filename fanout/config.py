"""Settings: argument > environment > configuration file > default, resolved here and nowhere else.

The file is TOML with the setting's names as keys (`workers = 4`), at `FANOUT_CONFIG` or, without
that, `config.toml` in the user's configuration folder for fanout.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OFF: Final = frozenset({"0", "false", "no", "off"})
_ON: Final = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user can set outside of a call.

    Attributes:
        backend: `FANOUT_BACKEND`: where attempts run when no backend is given; "local" or "lambda".
        function: `FANOUT_FUNCTION`: name or ARN of the function that the backend "lambda" uses.
        store: `FANOUT_STORE`: where large data goes when no store is given: a folder, or
            "s3://bucket/prefix".
        workers: `FANOUT_WORKERS`: processes of the local backend; one per core if None.
        progress: `FANOUT_PROGRESS`: whether to show progress.
    """

    backend: str = "local"
    function: str | None = None
    store: str | None = None
    workers: int | None = None
    progress: bool = True


_NAMES: Final = tuple(Settings.__dataclass_fields__)


def resolve(environment: Mapping[str, str], file: Mapping[str, object], source: str) -> Settings:
    """Settings from an environment and the contents of a configuration file.

    Args:
        environment: As `os.environ`.
        file: As read from the file.
        source: What to call the file in an error.

    Raises:
        UsageError: An unknown name in the file, or a value that makes no sense; says where.
    """
    unknown = sorted(set(file) - set(_NAMES))
    if unknown:
        msg = f"unknown setting {unknown[0]!r} in {source}: there are {', '.join(_NAMES)}"
        raise UsageError(msg)
    found: dict[str, tuple[object, str]] = {name: (file[name], source) for name in file}
    for name in _NAMES:
        variable = f"FANOUT_{name.upper()}"
        if environment.get(variable):
            found[name] = (environment[variable], f"the environment variable {variable}")
    settings = Settings()
    return Settings(
        backend=_backend(*found.get("backend", (settings.backend, ""))),
        function=_function(*found.get("function", (settings.function, ""))),
        store=_store(*found.get("store", (settings.store, ""))),
        workers=_workers(*found.get("workers", (settings.workers, ""))),
        progress=_switch(*found.get("progress", (settings.progress, ""))),
    )


def load() -> Settings:
    """The settings of this process."""
    named = os.environ.get("FANOUT_CONFIG")
    path = Path(named) if named else _default_path()
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            msg = f"FANOUT_CONFIG names {path}, which does not exist: create it or unset it"
            raise UsageError(msg) from None
        file = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"the configuration file {path} can't be read: {error}"
        raise UsageError(msg) from error
    return resolve(os.environ, file, str(path))


def _default_path() -> Path:
    import platformdirs

    return platformdirs.user_config_path("fanout", appauthor=False) / "config.toml"


def _backend(value: object, where: str) -> str:
    if value not in {"local", "lambda"}:
        msg = f"backend {value!r} in {where} is not known: there are 'local' and 'lambda'"
        raise UsageError(msg)
    return str(value)


def _function(value: object, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        msg = f"function {value!r} in {where} must be the name or the ARN of a Lambda function"
        raise UsageError(msg)
    return value.strip() if isinstance(value, str) else None


def _store(value: object, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        msg = f"store {value!r} in {where} must be 's3://bucket/prefix' or the path of a folder"
        raise UsageError(msg)
    return value.strip() if isinstance(value, str) else None


def _workers(value: object, where: str) -> int | None:
    if value is None:
        return None
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        msg = f"workers {value!r} in {where} must be a whole number, 1 or more"
        raise UsageError(msg)
    return number


def _switch(value: object, where: str) -> bool:
    text = str(value).strip().lower()
    if text not in _OFF | _ON:
        msg = f"{value!r} in {where} must be 1 or 0 (or true or false)"
        raise UsageError(msg)
    return text in _ON
