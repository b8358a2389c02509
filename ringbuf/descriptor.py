"""Files under ``<data>/rings/``: the segments behind a ring's name, and marks of missing rings.

``NAME.json`` is written by the ring's writer alone, whole and by rename; it names every segment
the writer owns, also one that it is only about to make, so that a kill at any moment leaves
nothing in shared memory that nobody knows.  ``NAME.PID.problem`` is the mark of an engine that
runs without its ring.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ringbuf import clock
from ringbuf.errors import RingInvalid, RingMissing
from ringbuf.ownership import open_private

FORMAT = 1
DEFAULT_DATA_DIR = Path("data/monitoring")
MAX_FILE_BYTES = 65_536

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,200}")
_UUID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two segments of one ring: its records and its free texts."""

    uuid: str
    text_uuid: str
    segment: str
    text_segment: str
    boot_id: str

    @property
    def segments(self) -> tuple[str, str]:
        return self.segment, self.text_segment


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What NAME.json says.  ``making`` lists segments that a writer was about to create."""

    name: str
    current: Pair | None = None
    previous: Pair | None = None
    making: tuple[str, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The rings that may be read, newest first."""
        return tuple(pair for pair in (self.current, self.previous) if pair is not None)

    @property
    def segments(self) -> frozenset[str]:
        """Every segment the descriptor names."""
        return frozenset(self.making).union(*(pair.segments for pair in self.pairs))


@dataclass(frozen=True, slots=True)
class Mark:
    """An engine runs without its ring.  ``at_ns`` is wall time."""

    engine: str
    pid: int
    problem: str
    at_ns: int
    pid_alive: bool = field(compare=False, default=False)


def check_name(name: object) -> str:
    """*name*, if a ring can be called so.

    Raises:
        ValueError: it can't.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"ring name {name!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


def data_directory(data_dir: str | os.PathLike[str] | None) -> Path:
    """*data_dir*, else $MONITORING_DATA_DIR, else data/monitoring; absolute."""
    chosen = data_dir or os.environ.get("MONITORING_DATA_DIR") or DEFAULT_DATA_DIR
    return Path(os.path.realpath(Path(chosen).expanduser()))


def rings_directory(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where the rings' files of *data_dir* are."""
    return data_directory(data_dir) / "rings"


def make_private(directory: Path) -> None:
    """Make *directory* and its missing parents, all 0700; existing ones are left as they are."""
    for path in (*reversed(directory.parents), directory):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def descriptor_path(rings: Path, name: str) -> Path:
    return rings / f"{name}.json"


def lock_path(rings: Path, name: str) -> Path:
    return rings / f"{name}.lock"


def read(rings: Path, name: str) -> Descriptor:
    """The descriptor of the ring called *name*.

    Raises:
        RingMissing: there is none.
        RingInvalid: it can't be understood.
        OSError: it can't be read, or it isn't ours.
    """
    path = descriptor_path(rings, name)
    try:
        fields = _read_json(path)
    except FileNotFoundError:
        raise RingMissing(f"ring {name!r}: no descriptor {path}") from None
    try:
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}, this reader needs {FORMAT}")
        making = tuple(_matching(_SEGMENT, segment) for segment in fields.get("making", ()))
        return Descriptor(name, _pair(fields["current"]), _pair(fields.get("previous")), making)
    except (KeyError, TypeError, ValueError) as problem:
        raise RingInvalid(f"descriptor {path} can't be understood: {problem}") from None


def write(rings: Path, descriptor: Descriptor) -> None:
    """Replace the descriptor whole, so that nobody ever reads half of one."""
    fields = asdict(descriptor) | {"format": FORMAT}
    _write_json(descriptor_path(rings, descriptor.name), fields)


def names(rings: Path) -> list[str]:
    """Names of all rings that have a descriptor, sorted; empty without a directory."""
    try:
        entries = [path.name for path in rings.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = (entry.removesuffix(".json") for entry in entries if entry.endswith(".json"))
    return sorted(name for name in found if _NAME.fullmatch(name))


def leave_mark(rings: Path, name: str, problem: str) -> None:
    """Leave a mark that this process runs without the ring *name*.

    Raises:
        OSError: it can't be written.
    """
    pid, start = clock.own_identity()
    fields = {"engine": name, "problem": problem[:2000], "at_ns": clock.wall_ns(), "start": start}
    _write_json(rings / f"{name}.{pid}.problem", fields)


def read_marks(rings: Path) -> Iterator[Mark]:
    """All marks that can be read, in the order of their files' names."""
    try:
        entries = sorted(path.name for path in rings.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name, _, pid = entry.removesuffix(".problem").rpartition(".")
        if not (entry.endswith(".problem") and _NAME.fullmatch(name) and pid.isdecimal()):
            continue
        try:
            fields = _read_json(rings / entry)
            start, problem, at_ns = int(fields["start"]), str(fields["problem"]), fields["at_ns"]
            alive = clock.start_ticks(int(pid)) == start
            yield Mark(name, int(pid), problem, int(at_ns), alive)
        except (OSError, RingInvalid, KeyError, TypeError, ValueError):
            continue  # half a file, or not ours: another mark may still be good


def sweep(rings: Path, name: str) -> None:
    """Remove the marks of *name* that dead processes and this one left, and halves of files."""
    for mark in read_marks(rings):
        if mark.engine == name and (not mark.pid_alive or mark.pid == os.getpid()):
            (rings / f"{name}.{mark.pid}.problem").unlink(missing_ok=True)
    half = re.compile(re.escape(name) + r"\.(json|[0-9]+\.problem)\.[0-9]+\.tmp")
    for path in rings.iterdir():
        if half.fullmatch(path.name) and not _written_by_another(path.name):
            path.unlink(missing_ok=True)


def _written_by_another(entry: str) -> bool:
    """Whether the process that a temporary file is named after still runs, and isn't this one."""
    pid = int(entry.split(".")[-2])
    return pid != os.getpid() and clock.start_ticks(pid) is not None


def _pair(fields: Any) -> Pair | None:
    if fields is None:
        return None
    return Pair(
        uuid=_matching(_UUID, fields["uuid"]),
        text_uuid=_matching(_UUID, fields["text_uuid"]),
        segment=_matching(_SEGMENT, fields["segment"]),
        text_segment=_matching(_SEGMENT, fields["text_segment"]),
        boot_id=_matching(_UUID, fields["boot_id"]),
    )


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} doesn't match {pattern.pattern}")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    fd = open_private(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if len(content) > MAX_FILE_BYTES or not isinstance(fields, dict):
        raise RingInvalid(f"{path} is no JSON object")
    return fields


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    fd = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(fields, indent=1).encode())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
