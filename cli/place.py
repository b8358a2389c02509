"""Find the directories that a command works on, and who runs there.

Strongest first: ``--data-dir``, ``$MONITORING_DATA_DIR``, ``.env``, the TOML file,
``data/monitoring``.  The log directory comes from the service's own ``service.json``, so that a
command reaches the running service from any directory; a setting that contradicts a running
service is refused, never guessed at.  Nothing here creates or writes anything.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.problems import Failed, UsageError

DEFAULT_DATA_DIR = Path("data/monitoring")
DEFAULT_LOG_DIR = Path("logs")
DEFAULT_CONFIG = Path("tickwatch.toml")
SERVICE_FILE = "service.json"
SERVICE_LOCK = "service.lock"


@dataclass(frozen=True)
class Place:
    """Where a command looks: absolute directories, and what the service wrote about itself.

    ``service`` is the content of service.json, empty when there is none.  ``origin`` says where
    the choice of the data directory came from, for messages.
    """

    data_dir: Path
    log_dir: Path
    origin: str
    service: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rollups(self) -> Path:
        """The store of rollups."""
        return self.data_dir / "rollups.db"

    @property
    def ledger(self) -> Path:
        """The notifier's store of alerts and deliveries."""
        return self.data_dir / "alerts.db"

    @property
    def alert_log(self) -> Path:
        """The directory of the alert log's day files and of the decisions journal."""
        return self.log_dir / "alerts"

    @property
    def decisions(self) -> Path:
        """The decisions journal."""
        return self.alert_log / "acknowledgements.jsonl"

    def setting(self, name: str, default: float) -> float:
        """A number among the settings of the service; *default* when it says nothing."""
        settings = self.service.get("settings")
        value = settings.get(name) if isinstance(settings, dict) else None
        return value if isinstance(value, int | float) else default

    def service_pid(self) -> int | None:
        """The process that holds the service's lock here now; None when no service runs.

        Raises:
            OSError: another user's lock can't be asked.
        """
        return _holder(self.data_dir / SERVICE_LOCK)


def find(args: Mapping[str, Any]) -> Place:
    """The place that the options, the environment and the configuration files name.

    Raises:
        UsageError: ``--config`` names no readable TOML file.
        Failed: the log directory contradicts the service that runs on the data directory.
    """
    settings = _Settings(args.get("--config"))
    settings.require_config()
    option = args.get("--data-dir")
    named, origin = (option, "--data-dir") if option else settings.get("data_dir")
    data_dir = Path(named or DEFAULT_DATA_DIR).expanduser().absolute()
    service = _read_service(data_dir)
    log_setting, log_origin = settings.get("log_dir")
    log_dir = _log_dir(data_dir, service, log_setting, log_origin)
    return Place(data_dir, log_dir, origin or "the default", service)


def _log_dir(data_dir: Path, service: Mapping[str, Any], named: str | None, origin: str) -> Path:
    own = Path(named or DEFAULT_LOG_DIR).expanduser().absolute()
    if not isinstance(service.get("log_dir"), str):
        return own
    theirs = Path(service["log_dir"])
    if not _same(Path(str(service.get("data_dir", data_dir))), data_dir):
        # A copy, or the same directory under another name (a container's mount): their paths mean
        # nothing here, but the two directories usually moved together.
        if named:
            return own
        return Path(os.path.normpath(data_dir / os.path.relpath(theirs, service["data_dir"])))
    # A relative setting depends on where the command was started, the service's own word doesn't.
    if named and Path(named).is_absolute() and not _same(theirs, own):
        if _is_held(data_dir / SERVICE_LOCK):
            raise Failed(
                f"{origin} says {own}, but the service on {data_dir} logs to {theirs}: "
                f"remove the setting, or stop the service"
            )
        return own
    return theirs


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def _read_service(data_dir: Path) -> dict[str, Any]:
    """service.json, or nothing when it is absent, unreadable or no JSON object."""
    try:
        content = json.loads((data_dir / SERVICE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_held(lock: Path) -> bool:
    try:
        return _holder(lock) is not None
    except OSError:
        return True  # another user's: in doubt it is


def _holder(lock: Path) -> int | None:
    from ringbuf.ownership import holder

    return holder(lock)


class _Settings:
    """The directories that the environment, ``.env`` and the TOML file name, read when needed."""

    def __init__(self, config: str | None) -> None:
        self.config = config
        self.sources: tuple[Callable[[str], tuple[str | None, str]], ...] = (
            _from_environment,
            _from_dotenv,
            self._from_toml,
        )

    def require_config(self) -> None:
        """Refuse a ``--config`` that isn't there, also where nothing is read from it.

        Raises:
            UsageError: it names no file.
        """
        if self.config and not Path(self.config).is_file():
            raise UsageError(f"--config={self.config}: no such file")

    def get(self, name: str) -> tuple[str | None, str]:
        """The value of ``monitoring_<name>`` and where it stands; (None, "") when unset."""
        for source in self.sources:
            value, origin = source(f"monitoring_{name}")
            if value:
                return value, origin
        return None, ""

    def _from_toml(self, name: str) -> tuple[str | None, str]:
        named = self.config or _from_environment("monitoring_config")[0]
        path = Path(named) if named else DEFAULT_CONFIG
        if not named and not path.is_file():
            return None, ""
        import tomllib  # 5 ms that most commands don't need

        try:
            value = tomllib.loads(path.read_text(encoding="utf-8")).get(name)
        except OSError as error:
            raise UsageError(f"--config={path}: can't be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"--config={path}: not TOML: {error}") from None
        return (value if isinstance(value, str) else None), f"{name} in {path}"


def _from_environment(name: str) -> tuple[str | None, str]:
    for key, value in os.environ.items():
        if key.lower() == name:  # the settings' names have no case either
            return value, f"${key}"
    return None, ""


def _from_dotenv(name: str) -> tuple[str | None, str]:
    path = Path(".env")
    try:
        mentioned = name in path.read_text(encoding="utf-8").lower()
    except (OSError, UnicodeDecodeError):
        return None, ""
    if not mentioned:
        return None, ""
    from dotenv import dotenv_values  # the service's own dialect, so that both read the same

    for key, value in dotenv_values(path).items():
        if key.lower() == name:
            return value, f"{key} in .env"
    return None, ""
