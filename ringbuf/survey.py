"""Look at all rings of a data directory without disturbing any.

For ``status`` and for the aggregator's discovery: no numpy, no multiprocessing, nothing written,
no lock taken.  A ring that can't be read is listed with the reason, never left out.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ringbuf import clock, descriptor, layout
from ringbuf.clock import Anchor
from ringbuf.descriptor import Descriptor, Mark, Pair
from ringbuf.errors import RingInvalid, RingMissing
from ringbuf.mapping import segment_inode
from ringbuf.ownership import holder
from ringbuf.view import RingView

__all__ = ["Mark", "RingInfo", "marks", "survey"]


@dataclass(slots=True)
class RingInfo:
    """What can be seen of one ring.

    Attributes:
        name: the ring's, which is the engine's.
        uuid, text_uuid: of its records and texts; empty when there is no readable descriptor.
        boot_id: of the boot it was made in.
        pid: the writer's, from the lock if it is held, else from the header.
        alive: whether the writer's lock is held; where its file was removed, whether the process
            that the header names still runs.
        clean_end: whether the last writer closed it.
        epoch: rises by 2 with every (re)opening; odd while it is under way.
        published, text_published: cursors.
        rejected: values and texts that couldn't be written.
        overflowed: series that got no id of their own.
        crashes: how often a writer took over from one that had not closed.
        capacity: records it holds.
        heartbeat_ns: monotonic time of the last heartbeat.
        last_record_ns: monotonic time of the newest record or None.
        anchor: the writer's pair of clocks or None.
        problem: why it can't be read, or None.
        previous: uuids of replaced rings that can still be read.
    """

    name: str
    uuid: str = ""
    text_uuid: str = ""
    boot_id: str = ""
    pid: int = 0
    alive: bool = False
    clean_end: bool = False
    epoch: int = 0
    published: int = 0
    text_published: int = 0
    rejected: int = 0
    overflowed: int = 0
    crashes: int = 0
    capacity: int = 0
    heartbeat_ns: int = 0
    last_record_ns: int | None = None
    created_mono_ns: int = 0
    created_wall_ns: int = 0
    anchor: Anchor | None = None
    problem: str | None = None
    previous: list[str] = field(default_factory=list)


def survey(data_dir: str | os.PathLike[str] | None = None) -> list[RingInfo]:
    """All rings that have a descriptor in *data_dir*, by name; empty if there are none.

    Raises:
        OSError: the directory itself can't be read.
    """
    rings = descriptor.rings_directory(data_dir)
    return [_look(rings, name) for name in descriptor.names(rings)]


def marks(data_dir: str | os.PathLike[str] | None = None) -> list[Mark]:
    """Marks of engines that run without their ring.

    Raises:
        OSError: the directory can't be read.
    """
    return list(descriptor.read_marks(descriptor.rings_directory(data_dir)))


def _look(rings: Path, name: str) -> RingInfo:
    info = RingInfo(name)
    try:
        pid = holder(descriptor.lock_path(rings, name))
        info.alive = pid is not None
        known = descriptor.read(rings, name)
        info.previous = _readable(known)
        if known.current is None:
            raise RingMissing("the ring was never finished")
        _read_pair(info, known.current)
        info.pid = pid or info.pid
    except (RingMissing, RingInvalid, OSError) as problem:
        info.problem = str(problem)
    return info


def _read_pair(info: RingInfo, pair: Pair) -> None:
    info.uuid, info.text_uuid, info.boot_id = pair.uuid, pair.text_uuid, pair.boot_id
    view = RingView.open(pair.segment, pair.uuid, layout.RECORDS)
    try:
        words = view.read_words()
        info.pid = words.pid
        # Somebody may have removed the lock file of a living writer; pid and start time know it.
        if not info.alive and words.state == layout.STATE_OPEN and words.start_ticks:
            info.alive = clock.start_ticks(words.pid) == words.start_ticks
        info.clean_end = words.state == layout.STATE_CLEAN_END
        info.epoch = words.epoch
        info.published = words.published
        info.rejected = words.rejected
        info.overflowed = words.overflowed
        info.crashes = words.crashes
        info.heartbeat_ns = words.heartbeat_ns
        info.capacity = view.static.capacity
        info.created_mono_ns = view.static.created_mono_ns
        info.created_wall_ns = view.static.created_wall_ns
        info.last_record_ns = view.last_time_ns()
        info.anchor = view.anchor()
    finally:
        view.close()
    texts = RingView.open(pair.text_segment, pair.text_uuid, layout.TEXTS)
    try:
        info.text_published = texts.published
        info.rejected += texts.read_words().rejected
    finally:
        texts.close()


def _readable(known: Descriptor) -> list[str]:
    previous = known.previous
    if previous is None or segment_inode(previous.segment) is None:
        return []
    return [previous.uuid]
