"""Errors of the ring, one per thing that a caller does differently."""


class WriterBusy(RuntimeError):
    """Somebody else already writes this ring.

    ``pid`` is the writer's process id, 0 when the kernel can't tell (another PID namespace).
    """

    def __init__(self, name: str, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"ring {name!r} is already written by {who}: close it or use another name")
        self.name = name
        self.pid = pid

    def __reduce__(self) -> tuple[type["WriterBusy"], tuple[str, int]]:
        return type(self), (self.name, self.pid)


class RingMissing(RuntimeError):
    """There is no such ring (yet): no descriptor, or its shared memory is gone."""


class RingInvalid(RuntimeError):
    """There is a ring, but this reader can't trust or understand it."""
