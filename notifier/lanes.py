"""One plugin's way out: what waits, whether it may be tried now, and the one attempt under way.

Pure, with the time passed in.  Storms leave in digests, whose membership is frozen when they are
made.  What was attempted before never joins one: it goes on under the id that the other side may
know.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from notifier.book import Digest
from notifier.delivery import Delivery
from notifier.hour import Hour
from notifier.plugin import DIGEST, Message
from notifier.printable import printable
from notifier.reconcile import NAMESPACE
from notifier.retry import SECOND_NS, Gate
from notifier.settings import PluginSettings
from notifier.storm import Bucket, Outbox

MEMBERS = 1000  # of one digest; more make another one
_ERROR_CHARACTERS = 300
_PATIENCE = 10.0  # messages that may go before a lesser severity that waits


@dataclass(slots=True)
class Lane:
    """The lane of one plugin.

    ``made`` counts its attempts and ends: delivered, failed, dead; ``hour`` its attempts of late.
    """

    settings: PluginSettings
    gate: Gate
    bucket: Bucket
    outbox: Outbox = field(default_factory=Outbox)
    under_way: Delivery | None = None
    made: Counter[str] = field(default_factory=Counter)
    hour: Hour = field(default_factory=Hour)

    def due_ns(self, now_ns: int) -> int | None:
        """When ``next`` has something; None if only an event changes that."""
        if not len(self.outbox):
            return None
        due_ns = now_ns
        if self.outbox.severity(now_ns, 0) is None:
            due_ns = self.outbox.next_ns() or now_ns
            due_ns = min(due_ns, self.gate.probe_at()) if self.gate.down else due_ns
        return max(due_ns, self.gate.opens_at(), self.bucket.next_ns(now_ns))

    def next(self, now_ns: int) -> tuple[Delivery | None, list[Delivery]]:
        """What to attempt now; and those to gather in a digest instead when the rate is used up."""
        gate, outbox = self.gate, self.outbox
        if now_ns < gate.opens_at() or self.bucket.next_ns(now_ns) > now_ns:
            return None, []
        outbox.wake(now_ns)
        patience_ns = round(_PATIENCE / self.settings.rate_per_s * SECOND_NS)
        severity = outbox.severity(now_ns, patience_ns)
        if severity is None:
            return (outbox.soonest() if gate.down and now_ns >= gate.probe_at() else None), []
        waiting = outbox.first(severity, MEMBERS)
        first = waiting[0]
        alone = gate.down or first.attempt or now_ns >= first.deadline_ns
        if alone or self.bucket.level(now_ns) >= 2.0:
            return first, []
        return first, [one for one in waiting if one.attempt == 0]

    def back(self, now_ns: int) -> None:
        """The other side accepted something: whoever waited for it needn't much longer."""
        if self.gate.down:
            self.outbox.release(now_ns + 2 * SECOND_NS)


def shown(error: str) -> str:
    """An error as it is stored: one printable line of bounded length."""
    return printable(error)[:_ERROR_CHARACTERS]


def make_digest(members: Sequence[Delivery], now_ns: int, deadline_ns: int) -> Digest:
    """A digest of *members*, which are of one plugin and severity, at least one."""
    name = hashlib.sha256("/".join(one.id for one in members).encode()).hexdigest()
    first = members[0]
    message = Message(DIGEST, json.loads(first.payload)["alert"], delivery="")
    carrier = Delivery(
        id=str(uuid.uuid5(NAMESPACE, f"{DIGEST}/{first.plugin}/{name}")),
        alert="",
        plugin=first.plugin,
        kind=DIGEST,
        why="many at once",
        severity=first.severity,
        fires=0,
        first=False,
        created_ns=first.created_ns,
        next_ns=now_ns,
        deadline_ns=deadline_ns,
        payload=json.dumps(message.payload(), separators=(",", ":")),
    )
    return Digest(carrier, {one.id: one for one in members})
