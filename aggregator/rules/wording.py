"""What an alert says: its rule's template filled in, or the plain sentence without one."""

from collections.abc import Mapping

from aggregator.rules import message
from aggregator.rules.emitted import Identity
from aggregator.rules.levels import CompiledLevels
from aggregator.rules.rule import ABSENT, LAST, Rule
from aggregator.rules.units import duration


def alert_text(
    rule: Rule,
    levels: CompiledLevels,
    who: Identity,
    code: int,
    value: float,
    *,
    stat: str,
    values: Mapping[str, float],
    note: str,
) -> str:
    """The message of an alert.

    Args:
        code: the level that it is at.
        stat, values: which of the rule's stats *value* is, and all of them.
        note: what came with the value, for values that the aggregator samples itself.
    """
    fields = {
        **who.labels,
        **{name: message.Number(each) for name, each in values.items()},
        "value": message.Number(value),
        "threshold": message.Number(levels.threshold(code)),
        "unit": levels.unit,
        "rule": rule.name,
        "metric": who.metric,
        "stat": stat,
        "severity": levels.severity(code).word,
        "window": duration(rule.window_s),
        "session": rule.session,
        "note": note,
    }
    return message.render(rule.message, fields) or _plain(rule, levels, who, code, value, stat)


def _plain(
    rule: Rule, levels: CompiledLevels, who: Identity, code: int, value: float, stat: str
) -> str:
    """Without a template, or with one that came out empty: an alert always says something."""
    if rule.stat == (ABSENT,):
        return f"{who.metric}: no record for {duration(round(value))}"
    what = f"{who.metric} / {rule.per}" if rule.per else who.metric
    if rule.stat != (LAST,):
        what += f" {stat}"
    threshold, above = levels.threshold(code), levels.sign > 0
    return message.plain(what, value, threshold, levels.unit, above=above)
