"""Rows of rollups and raw records as lines of CSV and of JSON: quickly, a million is ordinary.

What is the same in all lines of a series is made once.  Numbers need no quotes; text from outside
can be executed by neither a spreadsheet nor a terminal.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Generic, TypeVar

from aggregator.history.dayline import Record
from cli import render
from cli.times import NS
from notifier.printable import printable

FIELDS = (
    "metric", "labels", "unit", "interval_start", "interval_end", "interval_seconds",
    "count", "min", "max", "avg", "sum", "p50", "p90", "p99", "p999", "lost", "partial",
)  # fmt: skip
RAW_FIELDS = ("time", "metric", "labels", "value", "unit", "skipped")

# A cell that begins so is a formula to a spreadsheet, whatever quotes are around it.
# Source: OWASP, "CSV Injection".
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_KNOWN = 40_000  # texts remembered of each kind

Value = TypeVar("Value")


class Texts(dict[Any, Value], Generic[Value]):
    """Remembers what *make* makes of a key; bounded."""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> Value:
        if len(self) >= _KNOWN:
            self.clear()
        made = self[key] = self._make(key)
        return made


def csv_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows of rollups as CSV; the first line names the columns."""
    yield ",".join(FIELDS) + "\n"
    # Most quantiles are middles of buckets: few, and slow to print.
    text = Texts(repr)
    names: dict[int, tuple[str, object]] = {}
    for row in rows:
        labels = row["labels"]  # one object for all rows of a series, held so that its id stays its
        known = names.get(id(labels))
        if known is None:
            known = names[id(labels)] = (_cells(row["metric"], labels, row["unit"]), labels)
        lost = row["lost"]
        yield (
            f"{known[0]},{row['interval_start']},{row['interval_end']},{row['interval_seconds']},"
            f"{row['count']},{row['min']!r},{row['max']!r},{row['avg']!r},{row['sum']!r},"
            f"{text[row['p50']]},{text[row['p90']]},{text[row['p99']]},{text[row['p999']]},"
            f"{'' if lost is None else lost},{'true' if row['partial'] else 'false'}\n"
        )


def json_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows of rollups, one JSON object a line."""
    return (render.json_text(row) + "\n" for row in rows)


def csv_records(records: Iterable[Record]) -> Iterator[str]:
    """Raw records as CSV; the first line names the columns."""
    yield ",".join(RAW_FIELDS) + "\n"
    for time, names, record in _named(records, lambda *each: (_cells(*each[:2]), _cells(each[2]))):
        yield f"{time},{names[0]},{record.value!r},{names[1]},{record.skipped}\n"


def json_records(records: Iterable[Record]) -> Iterator[str]:
    """Raw records, one JSON object a line."""

    def texts(metric: str, labels: Mapping[str, str], unit: str) -> tuple[str, str]:
        names = {"metric": metric, "labels": dict(labels)}
        return render.json_text(names)[1:-1], render.json_text(unit)

    for time, names, record in _named(records, texts):
        yield (
            f'{{"time": "{time}", {names[0]}, "value": {record.value!r}, '
            f'"unit": {names[1]}, "skipped": {record.skipped}}}\n'
        )


def _named(
    records: Iterable[Record], make: Callable[[str, Mapping[str, str], str], tuple[str, str]]
) -> Iterator[tuple[str, tuple[str, str], Record]]:
    """Each record with its time, and with what *make* makes of metric, labels and unit."""
    seconds = Texts(_second)
    names: dict[tuple[str, str, int], tuple[tuple[str, str], object]] = {}
    for record in records:
        key = (record.metric, record.unit, id(record.labels))
        known = names.get(key)
        if known is None:
            if len(names) >= _KNOWN:
                names.clear()
            made = make(record.metric, record.labels, record.unit)
            known = names[key] = (made, record.labels)
        second, rest_ns = divmod(record.time_ns, NS)
        yield f"{seconds[second]}.{rest_ns:09d}Z", known[0], record


def _second(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}"


def _cells(*values: object) -> str:
    """Cells of CSV, quoted where they must be; labels become JSON."""
    line = StringIO()
    csv.writer(line, lineterminator="").writerow(
        harmless(value) if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for value in values
    )
    text = line.getvalue()
    return "" if text == '""' else text  # an empty cell that stands alone


def harmless(text: str) -> str:
    """*text* so that no spreadsheet takes it for a formula and no terminal for a command."""
    return f"'{printable(text)}" if text.lstrip(" ").startswith(_FORMULA) else printable(text)
