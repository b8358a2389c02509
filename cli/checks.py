"""`health`'s checks of the machine: is there room, is the clock cheap, will a ring survive?

A check looks and tells; it changes nothing, and what it can't find out it says.  Each line names
one thing, how it is, and what to do.
"""

import os
import pwd
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aggregator import health
from aggregator.rules.levels import FIRST, compile_levels
from aggregator.rules.rule import Rule
from cli import probe
from cli.condition import CRITICAL, OK, UNKNOWN, WARNING
from notifier.alert import Severity
from ringbuf import layout

PACKAGES = ("ringbuf", "aggregator", "notifier", "cli")
DISTRIBUTION = "tickwatch"
RING_BYTES = (
    layout.DEFAULT_CAPACITY * layout.RECORD_BYTES
    + layout.TEXT_CAPACITY * layout.TEXT_BYTES
    + layout.SYMBOLS_BYTES
    + 2 * layout.HEADER_BYTES
)
SHARED_MEMORY = Path("/dev/shm")
_LEAST_FREE_BYTES = 256 << 20
_MIB = 1 << 20
_WORST = (OK, WARNING, UNKNOWN, CRITICAL)
# Read through the vDSO, without a system call.  Source: clock_gettime in the kernel's lib/vdso and
# arch/*/include/asm/vdso/clocksource.h.
_CHEAP_CLOCKS = frozenset({"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"})
_CLOCK = Path("sys/devices/system/clocksource/clocksource0/current_clocksource")
_SLOW_CLOCK_NS = 500
# Lowest first; a file hides those of its name in directories before.  Source: logind.conf(5).
_LOGIND = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")
_FIRST_USER = 1000  # systemd leaves root and system users' memory alone. Source: logind.conf(5)


@dataclass(frozen=True)
class Check:
    """How one thing is, and what to do about it."""

    name: str
    state: str
    text: str
    todo: str = ""

    def row(self) -> dict[str, str | None]:
        """As JSON."""
        return {
            "check": self.name,
            "state": self.state,
            "message": self.text,
            "todo": self.todo or None,
        }


def worst(states: Sequence[str]) -> str:
    """The worst of *states*; what nobody knows is worse than a warning, known trouble the worst."""
    return max(states, key=_WORST.index, default=UNKNOWN)


def directories(folders: Sequence[Path]) -> Iterator[Check]:
    """Whether the service can write to *folders*, and nobody else can read them."""
    name = "directories"
    for folder in folders:
        try:
            status = folder.stat()
        except FileNotFoundError:
            yield _absent(folder)
            continue
        if status.st_uid != os.geteuid():
            owner = _user(status.st_uid)
            text = f"{folder} belongs to {owner}"
            yield Check(name, WARNING, text, f"run the service and this as {owner}")
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield Check(name, CRITICAL, f"{folder} can't be written", f"chmod u+rwx {folder}")
        elif status.st_mode & 0o077:
            text = f"{folder} is open to others (mode {status.st_mode & 0o777:04o})"
            yield Check(name, WARNING, text, f"chmod 700 {folder}")
        else:
            yield Check(name, OK, str(folder))


def _absent(folder: Path) -> Check:
    parent = _existing(folder)
    if not os.access(parent, os.W_OK | os.X_OK):
        todo = f"make it: mkdir -p -m 700 {folder}"
        return Check("directories", CRITICAL, f"{folder} isn't there, nor can it be made", todo)
    text = f"{folder} isn't there yet: a service makes it when it starts"
    return Check("directories", UNKNOWN, text, "start a service, or name another with --data-dir")


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def disk(folders: Sequence[Path], rule: Rule | None) -> Iterator[Check]:
    """Room on the disks of *folders*, judged by the levels of the rule that watches them."""
    for sample in health.disk_samples([_existing(folder) for folder in folders]):
        path = sample.labels["path"]
        status = os.statvfs(path)
        free = status.f_bavail * status.f_frsize
        state = WARNING if free < _LEAST_FREE_BYTES else OK
        if rule is not None:
            levels = compile_levels(rule, sample.unit)
            if (code := levels.code(sample.value)) >= FIRST:
                state = CRITICAL if levels.severity(code) == Severity.CRITICAL else WARNING
        text = f"{sample.value:.1f} % of {path} used, {free / (1 << 30):,.1f} GiB free"
        todo = "make room, or lower MONITORING_MAX_ARCHIVE_DAYS" if state != OK else ""
        yield Check("disk", state, text, todo)


def shared_memory(missing: int, folder: Path = SHARED_MEMORY) -> Check:
    """Room for rings.

    Args:
        missing: engines that are expected and have no ring yet.
    """
    name = "shared_memory"
    need = f"a ring needs {RING_BYTES / _MIB:.0f} MiB"
    try:
        status = os.statvfs(folder)
    except OSError as error:
        todo = "mount a tmpfs there: engines can't be monitored without"
        return Check(name, CRITICAL, f"{folder}: {error.strerror}", todo)
    free = status.f_bavail * status.f_frsize
    text = f"{free / _MIB:,.0f} MiB free in {folder}, {need}"
    todo = f"mount -o remount,size=512M {folder} (Docker: --shm-size=512m)"
    if free < missing * RING_BYTES:
        return Check(name, CRITICAL, f"{text} and {missing} engines have none yet", todo)
    return Check(name, WARNING, text, todo) if free < RING_BYTES else Check(name, OK, text)


def remove_ipc(root: Path = Path("/"), uid: int | None = None) -> Check:
    """Whether logging out removes the user's shared memory, rings of living engines included."""
    name = "remove_ipc"
    uid = os.geteuid() if uid is None else uid
    user = _user(uid)
    if not (root / "run/systemd/system").is_dir():
        return Check(name, OK, "no systemd here: logging out removes no shared memory")
    if uid < _FIRST_USER:
        return Check(name, OK, f"{user} is no login user: systemd leaves its shared memory alone")
    said = _logind_setting(root, "RemoveIPC")
    if said in ("no", "false", "off", "0"):
        return Check(name, OK, "RemoveIPC=no")
    if (root / "var/lib/systemd/linger" / user).exists():
        return Check(name, OK, f"{user} lingers: logging out removes nothing")
    text = f"RemoveIPC={said or 'yes (the default)'}: when {user} logs out, its rings are gone"
    todo = f"RemoveIPC=no in /etc/systemd/logind.conf, or loginctl enable-linger {user}"
    return Check(name, WARNING, text, todo)


def _logind_setting(root: Path, key: str) -> str:
    """The value that holds of a setting of systemd-logind, in lower case; empty if none does."""
    main = [root / folder / "logind.conf" for folder in _LOGIND]
    chosen = [path for path in main if path.is_file()][-1:]
    drops: dict[str, Path] = {}
    for folder in _LOGIND:
        for path in sorted((root / folder / "logind.conf.d").glob("*.conf")):
            drops[path.name] = path
    value = ""
    for path in (*chosen, *(drops[name] for name in sorted(drops))):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            word, equals, rest = line.partition("=")
            if equals and word.strip() == key:
                value = rest.strip().lower()
    return value


def clock_source(root: Path = Path("/")) -> Check:
    """Whether reading the time, which every record does, is cheap."""
    name = "clock_source"
    cost_ns = _clock_cost_ns()
    try:
        source = (root / _CLOCK).read_text(encoding="ascii").strip()
    except OSError:
        source = ""  # containers often hide it; what it costs tells
    text = f"{source or 'clock source not shown'}, {cost_ns:.0f} ns to read the time"
    if source in _CHEAP_CLOCKS or (not source and cost_ns < _SLOW_CLOCK_NS):
        return Check(name, OK, text)
    todo = "each record pays for it: boot with clocksource=tsc where the processor allows"
    return Check(name, WARNING, text, todo)


def _clock_cost_ns() -> float:
    read, runs = time.monotonic_ns, []
    for _ in range(7):
        start = read()
        for _ in range(1000):
            read()
        runs.append((read() - start) / 1000)
    return statistics.median(runs)


def ring_store() -> Check:
    """Whether a cursor is stored in one piece by this interpreter on this machine."""
    name = "ring_store"
    if not layout.supported():
        return Check(name, CRITICAL, "this machine is not little-endian", "use one that is")
    seen = probe.run()
    text = f"{seen.changes:,} stores seen by a second process, {seen.torn:,} in pieces"
    if seen.torn:
        return Check(name, CRITICAL, text, "use CPython 3.11 or newer: rings can't be trusted here")
    return Check(name, OK, text)


def packages(path: Sequence[str] | None = None) -> list[Check]:
    """Modules of other programs that are called like ours, on the path or installed."""
    name = "packages"
    todo = "install tickwatch into a virtual environment of its own"
    home = Path(__file__).resolve().parents[1]
    found = []
    for folder in dict.fromkeys(path if path is not None else sys.path):
        base = Path(folder or ".").resolve()
        if base == home:
            continue
        for package in PACKAGES:
            for place in (base / package / "__init__.py", base / f"{package}.py"):
                if place.is_file():
                    found.append(Check(name, WARNING, f"another {package!r}: {place}", todo))
    for package in PACKAGES:
        loaded = sys.modules.get(package)
        origin = getattr(loaded, "__file__", None)
        if origin and Path(origin).resolve().parents[1] != home:
            text = f"{package!r} is loaded from {origin}, the rest from {home}"
            found.append(Check(name, CRITICAL, text, todo))
    for package, distributions in sorted(metadata.packages_distributions().items()):
        others = sorted(set(distributions) - {DISTRIBUTION})
        if package in PACKAGES and others:
            text = f"{', '.join(others)} also installs {package!r}"
            found.append(Check(name, WARNING, text, todo))
    return found or [Check(name, OK, f"all four from {home}")]
