"""Where settings come from besides arguments and environment, and what is said when one is wrong.

Nothing here knows a setting by name: everything is derived from the fields of the settings class.
A secret's value is never part of a message.
"""

import difflib
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource

_log = logging.getLogger("aggregator")

TABLES = ("rule", "session", "route", "plugin")
CONFIG_VARIABLE = "MONITORING_CONFIG"
DEFAULT_CONFIG = "tickwatch.toml"
_PREFIX = "MONITORING_"
_FILE_SUFFIX = "_FILE"

Fields = Mapping[str, FieldInfo]


class SettingsError(ValueError):
    """One or more settings are wrong; ``problems`` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def config_path() -> Path | None:
    """The TOML file in use: $MONITORING_CONFIG, else ./tickwatch.toml if it is there."""
    named = os.environ.get(CONFIG_VARIABLE, "")
    if named:
        return Path(named)
    default = Path(DEFAULT_CONFIG)
    return default if default.is_file() else None


def read_config() -> dict[str, Any]:
    """The TOML file's tables; empty without a file.

    Raises:
        SettingsError: the file is named yet can't be read or isn't TOML.
    """
    path = config_path()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: can't be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from error


class TomlFile(PydanticBaseSettingsSource):
    """The settings among the TOML file's top-level names; its tables are read by those who know
    them."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: ``__call__`` gives all fields at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The file's values by field name."""
        known = self.settings_cls.model_fields
        return {name: value for name, value in read_config().items() if name in known}


class SecretFiles(PydanticBaseSettingsSource):
    """MONITORING_..._FILE names a file that holds a secret, as container platforms do."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: ``__call__`` gives all fields at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The readable files' contents by field name; the others are problems found beforehand."""
        found = {}
        for name, path in _secret_files(self.settings_cls.model_fields).items():
            text = _read_secret(path)
            if text is not None:
                found[name] = text
        return found


def secret_names(fields: Fields) -> frozenset[str]:
    """The fields whose value must never be shown."""
    return frozenset(name for name, field in fields.items() if "SecretStr" in str(field.annotation))


def revealed(value: Any) -> Any:
    """*value* with secrets in the clear and paths as text, ready for JSON."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {name: revealed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [revealed(inner) for inner in value]
    return value


def misnamed(settings: type[BaseSettings], arguments: Mapping[str, Any]) -> list[str]:
    """Problems with names: unknown arguments and TOML names, near misses in the environment and
    .env.

    A name in the environment that resembles no setting may belong to another program: it is only
    warned about. Files of secrets that can't be read are named here too.
    """
    fields = settings.model_fields
    known = set(fields)
    problems = [
        f"{name}: no such setting{_hint(name, known)}"
        for name in arguments
        if name not in known and not name.startswith("_")
    ]
    allowed = known | set(TABLES)
    problems += [
        f"{config_path()}: {name}: no such setting or table{_hint(name, allowed)}"
        for name in read_config()
        if name not in allowed
    ]
    variables = {name.upper() for name in known} | {CONFIG_VARIABLE}
    variables |= {name.upper() + _FILE_SUFFIX for name in secret_names(fields)}
    for name in sorted({*os.environ, *(key.upper() for key in _dotenv(settings))}):
        if not name.upper().startswith(_PREFIX) or name.upper() in variables:
            continue
        if hint := _hint(name.upper(), variables):
            problems.append(f"{name}: no such setting{hint}")
        else:
            _log.warning(
                "unknown setting ignored", extra={"component": "monitoring", "variable": name}
            )
    problems += [
        f"{name.upper()}{_FILE_SUFFIX}={path}: can't be read as UTF-8 text"
        for name, path in _secret_files(fields).items()
        if _read_secret(path) is None
    ]
    return problems


def explain(settings: type[BaseSettings], problem: Any, arguments: Mapping[str, Any]) -> str:
    """One line for one validation error: the variable, its value unless secret, and what is
    allowed."""
    name = str(problem["loc"][0])
    field = settings.model_fields[name]
    secret = name in secret_names(settings.model_fields)
    shown = "" if secret else f"={_value_of(settings, name, arguments)}"
    return f"{name.upper()}{shown}: {allowed(field, problem)}"


def allowed(field: FieldInfo, problem: Any) -> str:
    """What *field* takes, in words; bounds come from the field itself."""
    low, high = bounds(field)
    unit = unit_of(field)
    if low is not None and high is not None:
        words = f" {unit}" if unit else ""
        spoken = f" ({_spoken(low)} to {_spoken(high)})" if unit == "seconds" else ""
        return f"must be {low:g}..{high:g}{words}{spoken}"
    kind = problem["type"]
    if kind in {"bool_parsing", "bool_type"}:
        return "must be true or false"
    if kind == "literal_error":
        return f"must be one of {problem['ctx']['expected']}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "must be")


def bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """The least and greatest value of *field*, None where there is no bound."""
    low = next((float(m.ge) for m in field.metadata if hasattr(m, "ge")), None)
    high = next((float(m.le) for m in field.metadata if hasattr(m, "le")), None)
    return low, high


def unit_of(field: FieldInfo) -> str:
    """The unit that *field* is in, empty for a plain number or text."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _value_of(settings: type[BaseSettings], name: str, arguments: Mapping[str, Any]) -> Any:
    if name in arguments:
        return arguments[name]
    for key, value in os.environ.items():
        if key.lower() == name:
            return value
    dotenv = _dotenv(settings)
    return dotenv[name] if name in dotenv else read_config().get(name, "")


def _dotenv(settings: type[BaseSettings]) -> Mapping[str, str | None]:
    """The names and values in .env, names in lower case."""
    return DotEnvSettingsSource(settings, env_file=settings.model_config.get("env_file")).env_vars


def _secret_files(fields: Fields) -> dict[str, Path]:
    named = {
        name: os.environ.get(name.upper() + _FILE_SUFFIX, "")
        for name in sorted(secret_names(fields))
    }
    return {name: Path(path) for name, path in named.items() if path}


def _read_secret(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _hint(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _spoken(seconds: float) -> str:
    for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {word}" + ("s" if count != 1 else "")
    return f"{seconds:g} seconds"
