"""Try dead deliveries again, on an operator's word."""

import sqlite3

from notifier.book import Book, Now
from notifier.decisions import Decision
from notifier.delivery import DEAD
from notifier.dispatch import Dispatcher
from notifier.keeper import Keeper


def revive(
    decision: Decision, book: Book, keeper: Keeper, dispatcher: Dispatcher, now: Now
) -> None:
    """Have the delivery that *decision* names leave again, once for each such decision.

    A digest takes those of its members along that nothing newer stands for.
    """
    id = decision.delivery
    try:
        delivery = book.changes.deliveries.get(id) or keeper.delivery(id)
        members = keeper.members(id)
    except sqlite3.Error:
        return  # nothing is known of it now; the next start finds the decision again
    asked_ns = now.from_wall(decision.at_ns)
    if (
        delivery is None
        or delivery.state != DEAD
        or delivery.plugin not in dispatcher.lanes
        or (delivery.finished_ns or 0) >= asked_ns
    ):
        return
    taken = []
    for one in members if not delivery.alert else [delivery]:
        entry = book.entries.get(one.alert) or keeper.recall(book, one.alert)
        if entry is not None and one.state == DEAD and one.plugin not in entry.pending:
            entry.pending[one.plugin] = one
            taken.append(one)
    if taken:
        dispatcher.retry(delivery, taken if not delivery.alert else (), now.ns)
