"""What tests leave in shared memory, and how it goes away again."""

from collections.abc import Iterator
from pathlib import Path

from ringbuf import descriptor, segment
from ringbuf.errors import RingInvalid, RingMissing
from ringbuf.mapping import segment_inode


def named_segments(folder: Path) -> Iterator[str]:
    """Names of all segments that descriptors anywhere below *folder* name and that exist."""
    for path in folder.rglob("rings/*.json"):
        try:
            known = descriptor.read(path.parent, path.stem)
        except (RingMissing, RingInvalid, OSError):
            continue
        yield from (name for name in known.segments if segment_inode(name) is not None)


def unlink_segments(folder: Path) -> None:
    """Remove the shared memory of every ring below *folder*; only a test may do so."""
    for name in list(named_segments(folder)):
        segment.remove(name)
