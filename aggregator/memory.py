"""How the process keeps its memory."""

import ctypes

# Names and numbers of mallopt(3), glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 << 20
_LARGEST_BYTES = 32 << 20  # glibc takes no higher threshold


def keep_freed() -> None:
    """Let freed arrays stay with the process, up to 64 MiB, for those that come next.

    Otherwise each array of a batch is new memory, and touching its pages for the first time takes
    longer than all arithmetic on them.  Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
