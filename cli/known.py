"""The alerts of the place that a command works on, and what its arguments mean among them.

Reading is :mod:`notifier.standing`'s; here trouble becomes one line for the operator that names
what there is instead.
"""

from collections.abc import Iterable

from cli.place import Place
from cli.problems import Failed, suggestion
from notifier import standing
from notifier.alert import Alert
from notifier.ledger import LedgerError
from notifier.standing import Known

__all__ = ["Known", "load", "named", "nothing_called", "require", "with_prefix"]

ID_DIGITS = 4  # of an id, so that a slip of the keyboard hits nothing


def load(place: Place, *, everything: bool = False) -> Known:
    """What is known at *place*.

    Args:
        everything: resolved alerts as well, however old; otherwise only those resolved recently.

    Raises:
        Failed: there is no such directory, nothing of ours in it, or the ledger can't be read.
        OSError: the alert log or the decisions journal can't be read.
    """
    require(place)
    own = (place.data_dir / "rings", place.rollups, place.ledger, place.alert_log)
    if not place.service and not any(path.exists() for path in own):
        raise Failed(
            f"{place.data_dir}: no service has run here ({place.origin}): name another directory "
            f"with --data-dir, or start a service with `tickwatch run`"
        )
    reopen_s = place.setting("monitoring_reopen_window_seconds", standing.REOPEN_S)
    try:
        return standing.read(
            place.ledger, place.alert_log, reopen_s=reopen_s, everything=everything
        )
    except LedgerError as error:
        raise Failed(str(error)) from None


def require(place: Place) -> None:
    """Make sure that the data directory exists.

    Raises:
        Failed: it doesn't; the message says where the command looked, and why there.
    """
    if not place.data_dir.is_dir():
        raise Failed(
            f"{place.data_dir}: no such directory ({place.origin}): name it with --data-dir, or "
            f"start a service there with `tickwatch run`"
        )


def named(known: Known, word: str) -> list[Alert]:
    """The reachable alerts that *word* means: a rule's name, or the first digits of an id.

    Raises:
        Failed: none, naming those there are, or more than one id begins like this.
    """
    reachable = known.reachable
    of_rule = [alert for alert in reachable if alert.rule == word]
    if of_rule:
        return of_rule
    by_id = with_prefix(reachable, word)
    if len(by_id) > 1:
        ids = ", ".join(f"{alert.id[:13]} ({alert.rule})" for alert in by_id)
        raise Failed(f"{word}: {len(by_id)} alerts begin like this: {ids}")
    if by_id:
        return by_id
    raise Failed(nothing_called(word, known.active))


def with_prefix(alerts: Iterable[Alert], word: str) -> list[Alert]:
    """The alerts whose id begins with *word*, which needs four digits: a slip hits nothing."""
    word = word.lower()
    return [a for a in alerts if len(word) >= ID_DIGITS and a.id.startswith(word)]


def nothing_called(word: str, alerts: list[Alert]) -> str:
    """What to say when no active alert is called *word*."""
    if not alerts:
        return f"{word}: no such alert: none is active (see `tickwatch alerts list --all`)"
    rules = {alert.rule: None for alert in alerts}
    hint = suggestion(word, [*rules, *(alert.id[:8] for alert in alerts)])
    return f"{word}: no active alert has this rule or id{hint} (active: {', '.join(rules)})"
