"""Every interleaving of one writer and one reader, under three memory models.

The protocol is data: a list of the writer's stores and of the reader's loads.  ``violation`` tries
all orders in which they can take effect and returns what a reader would wrongly believe.

The ring has two slots of two words and holds records 0 and 1; the writer publishes three more.
Both words of record s are s, so a torn or overwritten one shows.  The reader's own check of seq
is left out: the protocol must be right without it.
"""

import enum
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ringbuf.view import oldest_safe

CAPACITY = 2
FIRST, LAST = 2, 4  # the records that the writer publishes
CURSOR = 2 * CAPACITY  # memory: words of slot 0, words of slot 1, cursor


class Model(enum.Enum):
    """How stores become visible and loads are satisfied."""

    SC = "each step takes effect at once"
    TSO = "stores wait in a queue and leave it in order"
    WEAK = "stores leave in any order but per word; loads happen in any order but per word"


@dataclass(frozen=True)
class Protocol:
    """The right protocol, and the ways to break it."""

    guard: int = 1
    second_read: bool = True
    check_before_copy: bool = False
    cursor_first: bool = False
    zeroed_cursor: bool = False  # what struct.pack_into does to its target
    writer_fences: bool = False
    reader_fences: bool = False
    membarrier: bool = False  # the reader's fences reach over to the writer's core

    def __str__(self) -> str:
        changed = [name for name, value in asdict(self).items() if value != getattr(RIGHT, name)]
        return "+".join(changed) or "right"


RIGHT = Protocol()


@dataclass(frozen=True, slots=True)
class Step:
    """A store (``value`` set), or a fence of the writer (``word`` None)."""

    word: int | None = None
    value: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """One moment of both sides."""

    memory: tuple[int, ...]
    pending: tuple[Step, ...]  # stores that aren't visible yet, oldest first
    writer: int  # steps issued
    seen: tuple[tuple[str, int], ...]  # the reader's loads so far, sorted by name


def writer_program(protocol: Protocol) -> list[Step]:
    """The writer's steps in program order."""
    program = []
    for seq in range(FIRST, LAST + 1):
        slot = 2 * (seq % CAPACITY)
        payload = [Step(slot, seq), Step(slot + 1, seq)]
        cursor = [Step(CURSOR, seq + 1)]
        if protocol.zeroed_cursor:
            cursor.insert(0, Step(CURSOR, 0))
        fence = [Step()] if protocol.writer_fences else []
        first, second = (cursor, payload) if protocol.cursor_first else (payload, cursor)
        program += [*first, *fence, *second, *fence]
    return program


def reader_program(protocol: Protocol) -> list[list[tuple[str, int]]]:
    """The reader's loads as (name, word), in groups; a group ends where a fence may stand."""
    copy = [(f"w{word}", word) for word in range(CURSOR)]
    if protocol.check_before_copy:
        return [[("p1", CURSOR)], [("p2", CURSOR)], copy]
    return [[("p1", CURSOR)], copy, [("p2", CURSOR)]]


def violation(protocol: Protocol, model: Model) -> tuple[int, int, int] | None:
    """A record (seq, word, word) that some interleaving makes the reader accept wrongly.

    None after all interleavings have been tried.
    """
    program, groups = writer_program(protocol), reader_program(protocol)
    start = State((0, 0, 1, 1, FIRST), (), 0, ())
    reached, todo = {start}, [start]
    loads = sum(len(group) for group in groups)
    while todo:
        state = todo.pop()
        if len(state.seen) == loads:
            for wrong in wrongly_accepted(protocol, dict(state.seen)):
                return wrong
            continue
        following = writer_moves(state, program, protocol, model)
        for new in (*following, *reader_moves(state, groups, protocol, model)):
            if new not in reached:
                reached.add(new)
                todo.append(new)
    return None


def writer_moves(
    state: State, program: list[Step], protocol: Protocol, model: Model
) -> Iterator[State]:
    """Issue the next step, or let a waiting store become visible."""
    memory, pending, issued, seen = state.memory, state.pending, state.writer, state.seen
    if issued < len(program):
        step = program[issued]
        if model is Model.SC:
            memory = memory if step.word is None else stored(memory, step)
            yield State(memory, pending, issued + 1, seen)
        elif step.word is None:
            if not pending:  # a fence waits until every store before it is visible
                yield State(memory, pending, issued + 1, seen)
        else:
            yield State(memory, (*pending, step), issued + 1, seen)
            # Nobody can tell an issued store from one that isn't, but a membarrier: without one,
            # issuing first and always loses no outcome.
            if not protocol.membarrier:
                return
    for place, step in enumerate(pending):
        if any(earlier.word == step.word for earlier in pending[:place]):
            continue
        rest = pending[:place] + pending[place + 1 :]
        yield State(stored(memory, step), rest, issued, seen)
        if model is Model.TSO:
            return


def reader_moves(
    state: State, groups: list[list[tuple[str, int]]], protocol: Protocol, model: Model
) -> Iterator[State]:
    """Satisfy one more load."""
    done = dict(state.seen)
    fenced = protocol.reader_fences or protocol.membarrier
    in_order = model is not Model.WEAK
    for number, group in enumerate(groups):
        waiting = [(name, word) for name, word in group if name not in done]
        memory, pending = state.memory, state.pending
        if protocol.membarrier and number and not any(name in done for name, _ in group):
            for step in pending:  # the barrier on the writer's core makes its stores visible
                memory = stored(memory, step)
            pending = ()
        for name, word in waiting:
            # Two loads of one word stay in order on every machine.
            if any(other == word and first not in done for first, other in before(groups, name)):
                continue
            seen = tuple(sorted((done | {name: memory[word]}).items()))
            yield State(memory, pending, state.writer, seen)
            if in_order:
                return
        if waiting and fenced:
            return  # no later group before this one is complete


def before(groups: list[list[tuple[str, int]]], name: str) -> list[tuple[str, int]]:
    """Loads that stand before *name* in program order."""
    flat = [load for group in groups for load in group]
    return flat[: [load[0] for load in flat].index(name)]


def stored(memory: tuple[int, ...], step: Step) -> tuple[int, ...]:
    """Memory after one store."""
    assert step.word is not None
    return (*memory[: step.word], step.value, *memory[step.word + 1 :])


def wrongly_accepted(protocol: Protocol, seen: dict[str, int]) -> Iterator[tuple[int, int, int]]:
    """Records that the reader believes after these loads, and that aren't what they should be."""
    first_cursor, last_cursor = seen["p1"], seen["p2"] if protocol.second_read else seen["p1"]
    oldest = max(
        oldest_safe(first_cursor, CAPACITY), oldest_safe(last_cursor, CAPACITY) + protocol.guard - 1
    )
    if protocol.guard == 0:
        oldest = max(0, first_cursor - CAPACITY, last_cursor - CAPACITY)
    for seq in range(oldest, first_cursor):
        slot = 2 * (seq % CAPACITY)
        words = seen[f"w{slot}"], seen[f"w{slot + 1}"]
        if words != (seq, seq):
            yield (seq, *words)
