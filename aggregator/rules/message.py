"""The text of an alert, from a rule's template.

A template is Python's format language without attributes and indices.  It is checked when the rules
are read; at run time nothing in it can fail: an alert with an odd text is better than none.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from string import Formatter

from aggregator.rules.units import human

# A message longer than this is cut: it must fit a phone and a line of the log.
LONGEST = 500
# What a template can name beside the labels and the rule's own stats.
FIELDS = (
    "value",
    "threshold",
    "unit",
    "rule",
    "metric",
    "stat",
    "severity",
    "window",
    "session",
    "note",
)
_NUMBERS = frozenset({"value", "threshold"})
MISSING = "-"
# A width or precision of three digits serves nobody, and one of nine takes a gigabyte.
_HUGE = re.compile(r"\d{3}")
_formatter = Formatter()


class Number(float):
    """A float that shows itself as people read it unless the template says how."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else human(self)

    def __str__(self) -> str:
        return human(self)


def render(template: str, fields: Mapping[str, object]) -> str:
    """*template* with *fields* put in; what can't be formatted as asked shows as it is."""
    parts = []
    try:
        for literal, name, spec, _ in _formatter.parse(template):
            parts.append(literal)
            if name is not None:
                parts.append(_shown(fields.get(name, MISSING), spec or ""))
    except ValueError:  # the template itself is broken, which the check at load refuses
        parts = [template]
    text = " ".join("".join(parts).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def problems(template: str, labels: Collection[str]) -> Iterator[str]:
    """What is wrong with *template*, a line each.

    Args:
        labels: names that it may use beside FIELDS.  Others are taken for labels of the series,
            which aren't known yet, unless they look like a mistyped known name.
    """
    try:
        parsed = list(_formatter.parse(template))
    except ValueError as error:
        yield f"message: {error}; write {{{{ and }}}} for braces"
        return
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if conversion or not name.isidentifier():
            yield f"message: {{{name}}}: name a value or a label, such as {{value}} or {{strategy}}"
        elif name not in FIELDS and name not in labels:
            near = difflib.get_close_matches(name, [*FIELDS, *labels], n=1, cutoff=0.8)
            if near:
                yield f"message: {{{name}}}: no such value; did you mean {{{near[0]}}}?"
        if spec:
            yield from _spec_problems(name, spec)


def _spec_problems(name: str, spec: str) -> Iterator[str]:
    wrong = f"message: {{{name}:{spec}}}: not a format for it; use for example {{value:.1%}}"
    if _HUGE.search(spec):
        yield wrong
        return
    if name not in FIELDS:
        return  # labels and stats show as they are if the format doesn't fit
    try:
        format(Number(1.5) if name in _NUMBERS else "text", spec)
    except (ValueError, TypeError):
        yield wrong


def _shown(value: object, spec: str) -> str:
    if _HUGE.search(spec):
        return str(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError, OverflowError):
        return str(value)


def plain(what: str, value: float, threshold: float, unit: str, *, above: bool) -> str:
    """The text of a rule that has no template: ``order_latency p99 812 ms > 250 ms``."""
    sign = ">" if above else "<"
    if value == threshold:
        sign += "="
    unit = f" {unit}" if unit else ""
    return f"{what} {human(value)}{unit} {sign} {human(threshold)}{unit}"
