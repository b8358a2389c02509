"""Hand alerts to Alertmanagers (API v2), for desks that route and silence there.

An Alertmanager knows an alert by its labels, severity included since people route by it, and keeps
it in memory alone. So a changed severity ends the alert of the old one, everything is told again
each minute, and an alert stays until it is told to be resolved: it never ends because we fell
silent.  Source: Alertmanager's OpenAPI v2 definition.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notifier.alert import Severity, rfc3339
from notifier.plugin import DIGEST, RESOLVED, TEST, DeliveryError, Message
from notifier.plugins.posting import PostingPlugin, encode
from notifier.printable import printable
from notifier.secret import url_problem
from notifier.text import body, headline, lines

RESEND_S = 60.0
_ALERTS_PER_POST = 500
_STAYS_NS = 24 * 3600 * 1_000_000_000  # how long a firing alert stays that nobody speaks of
_TEST_STAYS_NS = 60 * 1_000_000_000
_REMEMBERED = 10_000  # alerts whose last severity is kept in mind
_OUTSIDE_NAME = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(repr=False)
class AlertmanagerPlugin(PostingPlugin):
    """Options: ``url`` (one, or all of a cluster's), ``resend_s`` and ``ca_file``."""

    # alert -> the severity that was last accepted
    _severities: dict[str, str] = field(default_factory=dict, init=False)

    kind = "alertmanager"
    known = ("url", "resend_s", "ca_file")
    switch = "monitoring_enable_alertmanager_alerts"
    variables = {"url": "MONITORING_ALERTMANAGER_URL"}  # noqa: RUF012 - a constant of the class

    @property
    def urls(self) -> list[str]:
        """Every member of the cluster: they share silences, not alerts."""
        return self.texts("url")

    @property
    def resend_s(self) -> float:
        text = self.text("resend_s", str(RESEND_S))
        try:
            return float(text)
        except ValueError:
            return RESEND_S

    def check(self) -> list[str]:
        problems = super(PostingPlugin, self).check()
        for wrong in {url_problem(url) for url in self.urls or [""]} - {""}:
            problems.append(self.problem("url", wrong))
        try:
            good = 10 <= float(self.text("resend_s", str(RESEND_S))) <= 240
        except ValueError:
            good = False
        if not good:
            problems.append(self.problem("resend_s", "must be 10..240 seconds"))
        return problems + self.check_ca_file()

    def deliver(self, message: Message) -> bool:
        rows = _rows(message)
        self._post(
            [one for row in rows for one in self._alerts(row, message)], self.deadline(message)
        )
        if message.kind != TEST:
            self._remember(rows)
        return True

    def resend(self, rows: Sequence[Mapping[str, Any]], deadline: float) -> bool:
        self._post([one for row in rows for one in self._alerts(row)], deadline)
        self._remember(rows)
        return True

    def _alerts(
        self, row: Mapping[str, Any], message: Message | None = None
    ) -> Iterable[dict[str, Any]]:
        """The alert, and the end of the same one with another severity where there may be one."""
        now_ns = time.time_ns()
        severity = str(row.get("severity", ""))
        yield as_alert(row, severity, now_ns, message)
        if message is not None and message.kind == TEST:
            return
        last = self._severities.get(str(row.get("id", "")))
        if last is not None:
            others = [last] if last != severity else []
        elif row.get("started_at") == row.get("last_seen_at"):
            others = []  # brand-new: it had no other severity
        else:
            others = [one.word for one in Severity if one.word != severity]
        for other in others:
            yield as_alert({**row, "state": RESOLVED}, other, now_ns)

    def _remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            alert = str(row.get("id", ""))
            self._severities.pop(alert, None)
            self._severities[alert] = str(row.get("severity", ""))
        while len(self._severities) > _REMEMBERED:
            self._severities.pop(next(iter(self._severities)), None)

    def _post(self, alerts: Sequence[dict[str, Any]], deadline: float) -> None:
        """Tell every Alertmanager; one that accepted is enough, the others hear it with the next
        resend.

        Raises:
            PermanentError, RetryableError: none accepted; what the last one said.
        """
        problem: DeliveryError | None = None
        accepted = 0
        for position, url in enumerate(self.urls):
            left = deadline - time.monotonic()
            ends = time.monotonic() + left / (len(self.urls) - position)
            try:
                for start in range(0, len(alerts), _ALERTS_PER_POST):
                    part = encode(alerts[start : start + _ALERTS_PER_POST])
                    self.post(f"{url.rstrip('/')}/api/v2/alerts", part, ends, {})
                accepted += 1
            except DeliveryError as error:
                problem = error
        if problem is not None and accepted == 0:
            raise problem
        if problem is not None:
            self.reply = f"{accepted} of {len(self.urls)} accepted, else {problem}"


def as_alert(
    row: Mapping[str, Any], severity: str, now_ns: int, message: Message | None = None
) -> dict[str, Any]:
    """An alert row as a ``postableAlert``."""
    test = message is not None and message.kind == TEST
    resolved = row.get("state") == RESOLVED
    ends = row.get("resolved_at") if resolved else None
    stays_ns = _TEST_STAYS_NS if test else _STAYS_NS
    ends = str(ends or rfc3339(now_ns if resolved else now_ns + stays_ns))
    # RFC 3339 in UTC sorts as text; a start after the end, of a clock that was set, is refused
    starts = min(str(row.get("started_at") or rfc3339(now_ns)), ends)
    annotations = {"summary": printable(headline(row))}
    if message is not None and message.kind != DIGEST:
        annotations["summary"] = lines(message)[0]
        annotations["description"] = "\n".join(lines(message)[1:] or body(message))
        annotations["delivery"] = message.delivery
    elif row.get("message"):
        annotations["description"] = printable(str(row["message"]))
    return {
        "labels": labels(row, severity, test),
        "annotations": annotations,
        "startsAt": starts,
        "endsAt": ends,
        "generatorURL": "",
    }


def labels(row: Mapping[str, Any], severity: str, test: bool = False) -> dict[str, str]:
    """Labels with valid names: the rule as ``alertname``, the severity, and the alert's own.

    Two names that become one get numbers, in the order of the names, so that none hides another.
    """
    found = {
        "alertname": printable(str(row.get("rule") or "alert")),
        "severity": printable(severity) or "none",
    }
    if test:
        found["test"] = "true"
    for name, value in sorted((row.get("labels") or {}).items()):
        valid = _OUTSIDE_NAME.sub("_", str(name)) or "_"
        valid = f"_{valid}" if valid[0].isdigit() else valid
        number, free = 2, valid
        while free in found:
            free = f"{valid}_{number}"
            number += 1
        if str(value):
            found[free] = printable(str(value))
    return found


def _rows(message: Message) -> Sequence[Mapping[str, Any]]:
    """The message's alerts as the message tells them; an Alertmanager groups for itself."""
    if message.kind == DIGEST:
        return message.members
    return ({**message.alert, "state": message.state},)
