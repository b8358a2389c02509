"""A reader's place in one ring, and the account that always adds up.

The protocol of every poll: read the cursor, copy, read the cursor again, and believe only what the
writer can't have been in since.  Everything passed over is counted as lost; nothing is raised for
what a damaged cursor or slot says.
"""

from types import TracebackType
from typing import Self

from ringbuf import layout
from ringbuf.clock import Anchor
from ringbuf.errors import RingInvalid
from ringbuf.view import RingView, Words, oldest_safe


class Progress:
    """Base of both readers: ``accepted + lost + unread == published`` (less where it began)."""

    def __init__(self, view: RingView, position: int) -> None:
        """Begin at *position*.

        Raises:
            RingInvalid: the ring hasn't published that much, so it is another ring's position.
        """
        published = view.published
        if not 0 <= position <= max(0, published):
            view.close()
            raise RingInvalid(
                f"ring {view.static.name!r} has published {published}: "
                f"position {position} must be another ring's"
            )
        self.name = view.static.name
        self.uuid = view.static.uuid.hex()
        self.boot_id = view.static.boot_id.hex()
        self.position = position
        self.accepted = 0
        self.lost = 0
        self.integrity_errors = 0
        self._view = view
        self._capacity = view.static.capacity
        self._cursor = max(position, min(published, layout.MAX_PUBLISHED))
        self._bad_cursor: int | None = None
        self._rewound = 0  # by how much the cursor ever moved back, in all

    @property
    def published(self) -> int:
        """Records published in the ring's life; never falls, whatever the cursor does."""
        return self._look() + self._rewound

    @property
    def unread(self) -> int:
        """Published, and neither accepted nor counted as lost yet."""
        return self._look() - self.position

    @property
    def has_moved(self) -> bool:
        """Whether the cursor isn't where the reading is; the cheapest of all questions."""
        return self._view.words[layout.PUBLISHED] != self.position

    @property
    def is_current(self) -> bool:
        """Whether the ring's segment is still the one that its name stands for."""
        return self._view.is_current

    @property
    def capacity(self) -> int:
        """Slots of the ring."""
        return self._capacity

    @property
    def anchor(self) -> Anchor | None:
        """The writer's newest pair of clocks; None when it was left half-written."""
        return self._view.anchor()

    def words(self) -> Words:
        """The header's other words, as they are now: state, heartbeat, counters."""
        return self._view.read_words()

    def _look(self) -> int:
        try:
            cursor = self._view.published
        except ValueError:  # closed
            return self._cursor
        return cursor if self.position <= cursor <= layout.MAX_PUBLISHED else self._cursor

    def _claim(self, limit: int) -> tuple[int, int]:
        """Read the cursor; count what is overwritten already; (first seq, number) to copy."""
        cursor = self._view.published
        if not 0 <= cursor <= layout.MAX_PUBLISHED:
            if cursor != self._bad_cursor:
                self._bad_cursor = cursor
                self.integrity_errors += 1
            return self.position, 0
        self._bad_cursor = None
        self._cursor = cursor
        if cursor < self.position:
            # Nobody moves a cursor back but damage; go on from where the writer now is.
            self.integrity_errors += 1
            self._rewound += self.position - cursor
            self.position = cursor
        oldest = oldest_safe(cursor, self._capacity)
        if self.position < oldest:
            self.lost += oldest - self.position
            self.position = oldest
        self._view.fence()
        return self.position, min(cursor - self.position, limit)

    def _confirm(self, first: int, count: int) -> int:
        """Read the cursor again, after the copy: how many of its leading slots to drop."""
        self._view.fence()
        cursor = self._view.published
        if not 0 <= cursor <= layout.MAX_PUBLISHED:
            cursor = self._cursor  # the next claim counts it
        dropped = min(count, max(0, oldest_safe(cursor, self._capacity) - first))
        self.lost += dropped
        self.position = first + count
        return dropped

    def _drained(self) -> bool:
        """Whether everything up to the cursor of the last claim has been dealt with."""
        return self._bad_cursor is None and self.position >= self._cursor

    def skip(self) -> int:
        """Count what is unread as lost, go on from the writer's place, return how much that was."""
        passed = self.unread
        self.lost += passed
        self.position += passed
        return passed

    def close(self) -> None:
        """Let go of the ring; more than once is fine."""
        self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
