"""`metrics show` and `metrics summary`."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from cli import known, place, render, rollups, times
from cli.place import Place
from cli.render import Cell, Column, Look, Styled
from cli.rollups import Question, Row

_SERIES = (Column("metric"), Column("labels"), Column("unit"))
_STATS = ("min", "avg", "p50", "p99", "max")
_NUMBERS = (
    Column("count", right=True),
    *(Column(stat, right=True) for stat in _STATS),
    Column("lost", right=True),
)
# What a summary compares with the period before, and what it keeps of that period.
_COMPARED = ("avg", "p99")
_BEFORE = ("count", "min", "max", "avg", "sum", "p50", "p90", "p99", "p999")


def show(args: Mapping[str, Any]) -> int:
    """Print statistics per series and interval."""
    how = render.look(args)
    where = place.find(args)
    known.require(where)
    with rollups.opened(where) as db:
        days = rollups.day_rows(where)
        asked = rollups.question(args, db, days)
        found = rollups.intervals(db, asked, days)
        if how.json:
            render.json_rows(found)
        else:
            rows = list(found)
    rollups.say_trouble(days)
    if how.json:
        return 0
    if not rows:
        _nothing(where, asked, how)
    elif how.terminal:
        _by_series(rows, how)
    else:
        columns = (Column("start"), *_SERIES, *_NUMBERS, Column("note"))
        render.table(how, columns, [_cells(row, how) for row in rows])
        print()
        _courses(rows, how)
    return 0


def _nothing(where: Place, asked: Question, how: Look) -> None:
    since, until = (times.show_s(s, utc=how.utc) for s in (asked.start_s, asked.end_s))
    render.note(
        f"no records from {since} to {until}: use --hours or --from, "
        f"or see `tickwatch status` whether an engine writes{rollups.hint(where, asked.metric)}"
    )


def _cells(row: Row, how: Look) -> list[Cell]:
    start = times.show_s(rollups.start_of(row), utc=how.utc, precision="minutes")
    name = [row["metric"], render.labels(row["labels"]), row["unit"]]
    return [start, *name, *_numbers(row), "partial" if row["partial"] else ""]


def _numbers(row: Row) -> list[Cell]:
    lost = Styled(f"{row['lost']:,}", "warning") if row["lost"] else "0"
    stats = (render.number(row[stat]) for stat in _STATS)
    return [f"{row['count']:,}", *stats, lost]


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """*rows* by series, each in order of time."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(rollups.series_key(row), []).append(row)
    return [found[key] for key in sorted(found)]


def _courses(rows: list[Row], how: Look) -> None:
    """The course of each series' mean, one line each."""
    cells = [
        [
            group[0]["metric"],
            render.labels(group[0]["labels"]),
            render.sparkline(rollups.course(group, "avg"), how),
        ]
        for group in grouped(rows)
    ]
    render.table(how, (Column("metric"), Column("labels"), Column("avg over time")), cells)


def _by_series(rows: list[Row], how: Look) -> None:
    """One table a series under its name: fits a narrow terminal."""
    columns = (Column("start", whole=True), *_NUMBERS, Column("", whole=True))
    for place_in_order, group in enumerate(grouped(rows)):
        if place_in_order:
            print()
        first = group[0]
        spark = render.sparkline(rollups.course(group, "avg"), how)
        unit = f"({first['unit']})" if first["unit"] else ""
        names = (Styled(first["metric"], "bold"), render.labels(first["labels"]), unit, spark)
        render.line(how, *(cell for cell in names if cell))
        cells = [
            [
                times.show_s(rollups.start_of(row), utc=how.utc, precision="minutes")[5:],
                *_numbers(row),
                "*" if row["partial"] else " ",
            ]
            for row in group
        ]
        render.table(how, columns, cells)
    if any(row["partial"] for row in rows):
        render.line(how, Styled("* not over yet", "dim"))


def summary(args: Mapping[str, Any]) -> int:
    """Print merged statistics per series, and how they compare with the equal period before."""
    how = render.look(args)
    where = place.find(args)
    known.require(where)
    with rollups.opened(where) as db:
        days = rollups.day_rows(where)
        asked = rollups.question(args, db, days)
        rows = rollups.summaries(db, asked, days)
        earlier = rollups.summaries(db, _before(asked, rows), days) if rows else []
    rollups.say_trouble(days)
    before = {rollups.series_key(row): row for row in earlier}
    rows = [_compared(row, before.get(rollups.series_key(row))) for row in rows]
    if how.json:
        render.json_rows(rows)
    elif rows:
        columns = chain(_SERIES, _NUMBERS, (Column("avg before"), Column("p99 before")))
        render.table(how, tuple(columns), [_summary_cells(row) for row in rows])
    else:
        _nothing(where, asked, how)
    return 0


def _before(asked: Question, rows: list[Row]) -> Question:
    """The equal period before the one that *rows* cover, which grew to whole intervals."""
    start_s = rollups.start_of(rows[0])
    length_s = rows[0]["interval_seconds"]
    return Question(asked.metric, asked.match, start_s - length_s, start_s, asked.interval_s)


def _compared(row: Row, before: Row | None) -> Row:
    changes = {f"{stat}_change_pct": _change(row, before, stat) for stat in _COMPARED}
    kept = None if before is None else {stat: before[stat] for stat in _BEFORE}
    return {**row, "before": kept, **changes}


def _change(row: Row, before: Row | None, stat: str) -> float | None:
    """By how many percent *stat* changed; None without something to compare with."""
    if before is None or not before[stat]:
        return None
    change = 100 * (row[stat] / abs(before[stat]) - before[stat] / abs(before[stat]))
    return round(change, 2) if abs(change) < 1e9 else None


def _summary_cells(row: Row) -> list[Cell]:
    name = [row["metric"], render.labels(row["labels"]), row["unit"]]
    changes = (row[f"{stat}_change_pct"] for stat in _COMPARED)
    return [*name, *_numbers(row), *("" if c is None else f"{c:+.1f} %" for c in changes)]
