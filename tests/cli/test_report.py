"""`report` as text, JSON and page, of a day that another process recorded."""

import dataclasses
import html.parser
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from aggregator.store.course import Course, Point, courses, written
from aggregator.store.query import open_readonly
from aggregator.store.store import Store
from cli import report_facts, report_plots
from cli.report_facts import step_s
from cli.report_rows import median
from notifier import ledger, tally
from notifier.alert import Kind, Severity
from notifier.decisions import Journal, covering, decide
from tests.cli.test_metrics import rollup
from tests.environments import clean_environment, unmeasured

NS = 10**9
HOUR = 3600
SVG = "{http://www.w3.org/2000/svg}"
ALERT = {
    "id", "rule", "labels", "severity", "state", "message", "value", "threshold", "unit",
    "started_at", "last_seen_at", "resolved_at", "count", "seconds_firing", "acked_by", "acked_at",
    "seconds_to_ack",
}  # fmt: skip


@pytest.fixture
def day(desk):
    """The last hours, and the same hours the day before: latency, PnL, a gap, alerts and acks."""
    now_s = int(time.time()) // 300 * 300
    begin_s = desk.begin_s = now_s - 6 * HOUR
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        tick = store.series_id("tick_latency", "ms", {"engine": "intraday", "strategy": "swing"})
        pnl = store.series_id("pnl", "INR", {"engine": "intraday"})
        for step in range(60):
            if 20 <= step < 26:
                continue
            start_s = begin_s + 300 * step
            slow = [200.0] if step == 40 else [2.0]
            rows = [rollup(tick, start_s, [0.5] * 98 + [1.0] + slow)]
            rows.append(rollup(pnl, start_s, [100.0 * step, 100.0 * step - 50, 100.0 * step + 25]))
            store.commit(rows, {("intraday", start_s): 7} if step == 41 else {}, {})
            before = [rollup(tick, start_s - 6 * HOUR, [0.25] * 98 + [0.5, 1.0])]
            before.append(rollup(pnl, start_s - 6 * HOUR, [0.0, -10.0]))
            store.commit(before, {}, {})
    desk.tell(
        "performance_degradation", severity=Severity.WARNING, ago_s=7000, value=2.0, threshold=1.0,
        unit="ms", labels={"engine": "intraday", "metric": "tick_latency"}, message="tick slow",
        evidence=((time.time_ns(), 200.0),),
    )  # fmt: skip
    desk.tell("performance_degradation", Kind.RESOLVED, Severity.WARNING, ago_s=6400, value=0.5,
              threshold=1.0, unit="ms",
              labels={"engine": "intraday", "metric": "tick_latency"})  # fmt: skip
    desk.tell("connection_lost", ago_s=3000, value=0.0, threshold=0.0, message="connection lost")
    desk.tell("order_rejected", ago_s=20, free_text=True, message="RMS <b>says</b> no",
              labels={"engine": "intraday", "symbol": "<script>alert(1)</script>"})  # fmt: skip
    desk.tell("connection_lost", ago_s=5 * 86_400, labels={"engine": "old"})
    desk.tell("connection_lost", Kind.RESOLVED, ago_s=5 * 86_400 - 60, labels={"engine": "old"})
    desk.notify(ops="", slack="HTTP 404: no such hook")
    acknowledge(desk, "connection_lost", "asha", after_s=65)
    return desk


def acknowledge(desk, rule, by, *, after_s, **fields):
    """An ack so long after the alert of *rule* began."""
    db = ledger.open_readonly(desk.data_dir / "alerts.db")
    [alert] = [one for one in ledger.alerts(db) if one.rule == rule]
    db.close()
    fields = {"covers": covering([alert]), "rule": rule, "ttl_s": 7200} | fields
    decision = decide("ack", by, **fields)
    at_ns = alert.started_ns + int(after_s * NS)
    Journal(desk.journal).append(dataclasses.replace(decision, at_ns=at_ns))


def names(desk):
    return sorted(path.name for path in desk.folder.iterdir())


def hours(desk):
    """The recorded hours and the five minutes in which the last alerts are."""
    begin, end = (
        datetime.fromtimestamp(at_s, UTC).isoformat()
        for at_s in (desk.begin_s, desk.begin_s + 6 * HOUR + 600)
    )
    return ["--from", begin, "--to", end]


def test_a_report_has_everything_of_its_period_and_of_the_one_before(day):
    """From another process: all fields, figures that can be checked by hand."""
    ended = day.command("report", "--json", *hours(day))
    assert (ended.code, ended.err) == (0, "")
    [row] = ended.rows
    assert set(row) == {
        "from", "to", "at", "data_dir", "missing", "records", "records_lost", "alert_counts",
        "alerts", "pnl", "latency", "deliveries", "gaps", "before",
    }  # fmt: skip
    assert row["missing"] == [] and row["data_dir"] == str(day.data_dir)
    assert row["records_lost"] == 7
    counts = row["alert_counts"]
    assert (counts["critical"], counts["warning"], counts["acknowledged"]) == (2, 1, 1)
    assert counts["median_seconds_to_ack"] == counts["longest_seconds_to_ack"] == 65.0
    assert all(set(alert) == ALERT for alert in row["alerts"])
    [lost] = [alert for alert in row["alerts"] if alert["rule"] == "connection_lost"]
    assert (lost["acked_by"], lost["seconds_to_ack"], lost["state"]) == ("asha", 65.0, "firing")
    [pnl] = row["pnl"]
    assert (pnl["last"], pnl["max"]) == (5925.0, 5925.0)
    assert pnl["change"] == pnl["last"] - pnl["first"]
    assert pnl["days"][-1]["last"] == 5925.0
    [latency] = row["latency"]
    assert latency["p99"] == pytest.approx(1.0, rel=0.02) and latency["max"] == 200.0
    assert latency["before"]["p99"] == pytest.approx(0.5, rel=0.02)
    assert latency["p99_change_pct"] == pytest.approx(100, abs=4)
    assert {one["plugin"]: (one["delivered"], one["dead"]) for one in row["deliveries"]} == {
        "ops": (2, 0),
        "slack": (0, 2),
    }
    kinds = [(gap["kind"], gap["lost"]) for gap in row["gaps"]]
    assert kinds == [("silent", 0), ("lost", 7)]
    before = row["before"]
    assert set(before) == {
        "from", "to", "records", "records_lost", "alert_counts", "pnl", "deliveries",
    }  # fmt: skip
    assert before["to"] == row["from"]
    assert before["records"] > 0 and before["alert_counts"]["critical"] == 0


def test_text_is_the_same_for_people(day):
    """Headlines first, then a table a subject."""
    out = day.command("report", *hours(day)).out
    head, records, alerts, messages, *_ = out.splitlines()
    assert re.fullmatch(r".* to .* \(6 h 10 min\)  /.*/data", head)
    assert records.endswith(", 7 lost")
    assert alerts.startswith("alerts: 2 critical, 1 warning (before: 0); 1 of 3 acknowledged")
    assert "median after 1 min 5 s (before: -)" in alerts
    assert messages == ("messages: 2 delivered, 2 dead, 0 skipped, 0 pending (before: 0 delivered)")
    assert "asha after 1 min 5 s" in out
    assert "200 ms (limit 1)" in out  # the worst record, not the last
    assert "connection lost" in out and "RMS <b>says</b> no" in out
    assert "wrote nothing for 30 min" in out and "7 records lost" in out
    assert " so far" in out and "▄" in out


def test_without_a_range_it_ends_with_the_newest_record_or_alert(day):
    """An engine's death is told after its last record."""
    [row] = day.command("report", "--json").rows
    rules = [alert["rule"] for alert in row["alerts"]]
    assert rules == ["performance_degradation", "connection_lost", "order_rejected"]
    [old] = day.command("report", "--json", "--from", "2020-01-01", "--to", "2020-01-02").rows
    assert (old["records"], old["alerts"], old["latency"]) == (0, [], [])


def test_days_are_told_one_by_one(desk):
    """With more than one, each with its end, in local time."""
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        pnl = store.series_id("pnl", "INR", {"engine": "intraday"})
        for hour, value in ((10, 5.0), (20, 7.0), (34, -3.0)):
            store.commit([rollup(pnl, at(2026, 1, 30) + hour * HOUR, [value, value + 1])], {}, {})
    argv = ["report", "--from", "2026-01-30T00:00:00Z", "--to", "2026-02-01T00:00:00Z"]
    out = desk.command(*argv, TZ="Asia/Kolkata").out
    assert re.findall(r"^(2026-\d\d-\d\d) +(\S+) +(\S+) +(\S+)$", out, flags=re.MULTILINE) == [
        ("2026-01-30", "6", "5", "6"),
        ("2026-01-31", "-2", "-3", "8"),
    ]
    [row] = desk.command(*argv, "--json", TZ="UTC").rows
    assert [day["last"] for day in row["pnl"][0]["days"]] == [8.0, -2.0]


def test_an_acknowledgement_in_advance_took_no_time(desk):
    """All future alerts of a rule; one that was taken back doesn't count."""
    desk.tell("connection_lost", ago_s=600)
    desk.tell("connection_lost", Kind.RESOLVED, ago_s=500)
    desk.notify(ops="")
    acks = {"scope": "future", "rule": "connection_lost", "severity": Severity.CRITICAL}
    decision = decide("ack", "ravi", ttl_s=7200, **acks)
    at_ns = time.time_ns() - 550 * NS
    Journal(desk.journal).append(dataclasses.replace(decision, at_ns=at_ns))
    desk.tell("connection_lost", ago_s=300, labels={"engine": "swing"})
    clear = decide("clear", "ravi", rule="connection_lost")
    Journal(desk.journal).append(dataclasses.replace(clear, at_ns=time.time_ns() - 200 * NS))
    desk.tell("connection_lost", ago_s=100, labels={"engine": "other"})
    [row] = desk.command("report", "--json", "--hours", "1").rows
    answers = {a["labels"]["engine"]: a["seconds_to_ack"] for a in row["alerts"]}
    assert answers == {"intraday": None, "swing": 0.0, "other": None}
    out = desk.run("report", "--hours", "1").out
    assert "ravi in advance" in out


def test_a_part_that_cannot_be_read_hides_no_other(day):
    """It is named in the report."""
    for path in day.data_dir.glob("rollups.db*"):
        path.unlink()
    ended = day.command("report", "--json", "--hours", "24")
    [row] = ended.rows
    assert row["missing"][0].startswith("rollups: ")
    assert len(row["alerts"]) == 3 and row["deliveries"]
    assert "not in this report: rollups: " in day.run("report", "--hours", "24").out


def test_an_unknown_loss_is_not_zero(desk):
    """After a reboot nobody knows how many there were."""
    now_s = int(time.time()) // 300 * 300 - 600
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        series = store.series_id("a", "", {"engine": "intraday"})
        store.commit([rollup(series, now_s, [1.0])], {("intraday", now_s): None}, {})
    [row] = desk.command("report", "--json").rows
    assert row["records_lost"] is None and row["gaps"][0]["lost"] is None
    out = desk.run("report").out
    assert "an unknown number lost" in out and "nobody knows how many" in out


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--from", "2026-01-31", "--to", "2026-01-30"], 2, "--to"),
        (["--hours", "0"], 2, "--hours=0"),
        (["--html", "x.html", "--json"], 2, "--html can't be combined with --json"),
        (["--html", "/"], 1, "/: is a directory"),
        (["--html", "/nonexistent/x.html"], 1, "there is no directory /nonexistent"),
    ],
)
def test_what_cannot_be_reported_is_one_line(day, argv, code, text):
    """2 for wrong use, 1 for what can't be done."""
    ended = day.run("report", *argv)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err and ended.err.count("\n") == 1


class Page(html.parser.HTMLParser):
    """Tags, attributes and texts of a page; every tag must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.said = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def test_the_page_is_one_file_that_loads_nothing(day):
    """Plots inside, for a phone, day and night; 0600; and nothing from outside can act in it."""
    path = day.folder / "day.html"
    ended = day.command("report", "--html", str(path), *hours(day))
    assert (ended.code, ended.out, ended.err) == (0, "", f"report in {path}\n")
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    page = Page(text)
    assert page.tags.count("svg") == 3  # alerts, PnL, latency
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    outside = [
        value for name, value in page.attributes
        if name in ("src", "href", "xlink:href") and not str(value).startswith("#")
    ]  # fmt: skip
    assert outside == []
    assert "@import" not in text and "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    assert "prefers-color-scheme: dark" in text and "currentColor" in text
    assert "<script>" not in text
    said = " ".join(page.said)
    for words in ("RMS <b>says</b> no", "symbol=<script>alert(1)</script>", "connection_lost"):
        assert words in said
    assert "acknowledged by asha after 1 min 5 s" in said
    assert "1 critical" not in said and "2 critical, before 0" in said
    assert names(day) == ["data", "day.html", "logs"]


def test_the_page_of_an_empty_place_is_a_page(desk):
    """No alert, no record: it says so."""
    path = desk.folder / "empty.html"
    assert desk.run("report", "--html", str(path)).code == 0
    said = " ".join(Page(path.read_text()).said)
    assert "Alerts (0)" in said and "none" in said


def test_without_the_extra_the_page_is_refused_and_the_text_is_not(day, tmp_path):
    """With what to install; matplotlib is looked for only when a page is asked for."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; from cli.__main__ import main;"
        "sys.exit(main(sys.argv[1:]))"
    )

    def run(*argv):
        return subprocess.run(
            [sys.executable, "-c", code, "--data-dir", str(day.data_dir), *argv],
            check=False, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True,
        )  # fmt: skip

    ended = run("report", "--html", "x.html")
    assert ended.returncode == 1
    assert ended.stderr == (
        "tickwatch: --html needs the package matplotlib: pip install 'tickwatch[report]'\n"
    )
    assert run("report").returncode == 0


def test_a_page_that_cannot_be_finished_leaves_nothing_behind(day, monkeypatch):
    """Nor does it spoil the one that was there."""
    path = day.folder / "day.html"
    path.write_text("yesterday's")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ended = day.run("report", "--html", str(path))
    assert ended.code == 1 and "No space left" in ended.err
    assert path.read_text() == "yesterday's"
    assert names(day) == ["data", "day.html", "logs"]


def test_text_and_json_load_nothing_heavy(day):
    """Only the page needs numpy and matplotlib."""
    code = (
        "import sys; from cli.__main__ import main; main(sys.argv[1:]);"
        "heavy = {'numpy', 'matplotlib', 'pydantic', 'requests'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environment = unmeasured()
    ended = subprocess.run(
        [sys.executable, "-c", code, "--data-dir", str(day.data_dir), "report", "--json"],
        check=False, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


def test_many_alerts_gaps_and_days_stay_a_page(desk):
    """What would be endless is cut, and says where the rest is."""
    now_s = int(time.time()) // 300 * 300
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        pnl = store.series_id("pnl", "INR", {"engine": "intraday"})
        rows = [rollup(pnl, now_s - 600 * i, [float(i)]) for i in range(1, 2000)]
        store.commit(sorted(rows, key=lambda one: one.start_s), {}, {})
    for number in range(205):
        desk.tell("rejected", ago_s=number + 1, labels={"symbol": f"S{number}"})
    path = desk.folder / "x.html"
    assert desk.run("report", "--hours", "360", "--html", str(path)).code == 0
    text = path.read_text()
    assert "and 5 more: see report --json" in text
    assert "<details><summary>day by day</summary>" in text
    assert "and 150 more: see report --json" in text
    out = desk.run("report", "--hours", "360").out
    assert "and 170 more gaps: see --json" in out


# the parts


def test_intervals_are_wide_enough_to_be_few_and_multiples_of_the_base():
    """A few dozen on a phone."""
    assert step_s(HOUR, 60) == 60
    assert step_s(6 * HOUR, 300) == 300
    assert step_s(24 * HOUR, 300) == 900
    assert step_s(31 * 86_400, 300) == 43_200
    assert step_s(24 * HOUR, 720) == 3600
    assert step_s(3650 * 86_400, 300) == 86_400


def test_a_median_is_the_middle():
    """Of nothing it is nothing."""
    assert median([]) is None
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0, 4.0, 9.0]) == 3.0


def test_a_course_has_first_and_last_values_of_every_tier(desk):
    """Also where base rollups have expired and hours or days stand in for them."""
    now_s = int(time.time()) // 86_400 * 86_400
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        pnl = store.series_id("pnl", "INR", {"engine": "a"})
        for start_s in (now_s - 10 * 86_400, now_s - 10 * 86_400 + 300, now_s - 600, now_s - 300):
            store.commit([rollup(pnl, start_s, [1.0, 5.0, 3.0])], {}, {})
        store.commit([rollup(pnl, now_s, [7.0])], {}, {})
        store.expire(now_s - 5 * 86_400, now_s - 20 * 86_400)
    db = open_readonly(desk.data_dir / "rollups.db")
    [one] = courses(db, "p*", start_s=0, end_s=2 * now_s)
    assert [point.end_s - point.start_s for point in one.points] == [3600, 300, 300, 300]
    hour = one.points[0]
    assert (hour.first, hour.minimum, hour.maximum, hour.last) == (1.0, 1.0, 5.0, 3.0)
    assert written(db, start_s=now_s - 900, end_s=now_s + 900) == {
        "a": [(now_s - 600, now_s - 300), (now_s - 300, now_s), (now_s, now_s + 300)]
    }
    assert courses(db, "x", start_s=0, end_s=now_s) == []
    db.close()


def test_an_empty_store_has_no_course(desk):
    """Nor any engine that wrote."""
    Store.open(desk.data_dir / "rollups.db", 300).close()
    db = open_readonly(desk.data_dir / "rollups.db")
    assert courses(db, "*", start_s=0, end_s=1) == [] and written(db, start_s=0, end_s=1) == {}
    db.close()


def test_a_tally_counts_deliveries_by_end_and_time(day):
    """Per plugin, in the period in which they were written."""
    db = ledger.open_readonly(day.data_dir / "alerts.db")
    [ops, slack] = tally.tallies(db, 0, 1 << 62)
    assert (ops.plugin, ops.states, ops.retried) == ("ops", {"delivered": 2}, 0)
    assert len(ops.took_s) == 2 and ops.took_s == sorted(ops.took_s)
    assert (slack.states, slack.took_s) == ({"dead": 2}, [])
    assert list(tally.tallies(db, 0, 1)) == []
    db.close()


def test_retried_deliveries_are_counted(desk):
    """Those that took more than one attempt."""
    desk.tell("connection_lost")
    desk.notify(ops="again: HTTP 503")
    desk.notify(later_s=120, ops="")
    db = ledger.open_readonly(desk.data_dir / "alerts.db")
    [ops] = tally.tallies(db, 0, 1 << 62)
    db.close()
    assert ops.retried == 1


def at(*fields):
    return int(datetime(*fields, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (
            (at(2026, 1, 30, 22, 10), at(2026, 1, 31, 2, 10)),
            ["23:00\n30 Jan", "00:00\n31 Jan", "01:00", "02:00"],
        ),
        (
            (at(2026, 1, 1), at(2026, 1, 31)),
            ["01 Jan", "08 Jan", "15 Jan", "22 Jan", "29 Jan"],
        ),
        ((at(2026, 1, 30, 10, 0), at(2026, 1, 30, 10, 20)),
         ["10:00\n30 Jan", "10:05", "10:10", "10:15", "10:20"]),
    ],
)  # fmt: skip
def test_times_on_an_axis_are_round(span, labels):
    """The first one, and each new day, with its date."""
    assert [label for _, label in report_plots.ticks(span, utc=True)] == labels


def test_a_day_with_another_clock_is_still_a_day(monkeypatch):
    """Ticks stay at midnight when the clocks change."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = report_plots.ticks((at(2026, 3, 27), at(2026, 4, 1)), utc=False)
        hours = {datetime.fromtimestamp(at_s).hour for at_s, _ in found}  # noqa: DTZ006
    finally:
        monkeypatch.undo()
        time.tzset()
    assert hours == {0}
    assert [label for _, label in found] == ["28 Mar", "29 Mar", "30 Mar", "31 Mar", "01 Apr"]


def test_points_are_merged_but_never_over_a_gap():
    """Extremes stay, the line breaks where nothing was recorded."""
    points = [Point(i, i + 1, i, i - 1, i + 1, i + 0.5) for i in range(900)]
    gap = [Point(i, i + 1, 0.0, -5.0, 5.0, 0.0) for i in range(1000, 1002)]
    found = report_plots.thinned(points + gap)
    assert len(found) == 301
    assert (found[0].start_s, found[0].end_s, found[0].first, found[0].last) == (0, 3, 0, 2.5)
    assert (found[0].minimum, found[0].maximum) == (-1, 3)
    assert (found[-1].start_s, found[-1].end_s, found[-1].minimum) == (1000, 1002, -5.0)
    assert report_plots.thinned([]) == []


def test_a_plot_takes_the_width_and_colours_of_its_page():
    """No fixed size, no font of its own, no metadata; the same input gives the same plot."""
    one = Course(
        "pnl", "INR", {"engine": "a"}, [Point(0, 300, 0, -1, 4, 2), Point(600, 900, 1, 1, 1, 1)]
    )
    svg = report_plots.pnl(one, (0, 900), utc=True)
    assert svg == report_plots.pnl(one, (0, 900), utc=True)
    assert svg.startswith("<svg ") and "viewBox=" in svg.partition(">")[0]
    assert "width=" not in svg.partition(">")[0]
    assert "DejaVu" not in svg and "metadata" not in svg and "<style" not in svg
    assert "currentColor" in svg and "<text" in svg
    assert not re.search(r' id="\w+_\d+"', svg)


def test_facts_are_gathered_without_anything_there(desk):
    """Every part that isn't there is named, or simply empty."""
    from cli import place
    from cli.rollups import day_rows

    where = place.find({"--data-dir": str(desk.data_dir)})
    facts = report_facts.gather(where, 0, 3600, day_rows(where))
    assert facts.records == 0 and [one.partition(":")[0] for one in facts.missing] == ["rollups"]


def test_an_interval_that_stands_alone_is_a_dot():
    """A line needs two; what was recorded is never invisible."""
    points = [Point(0, 300, 0, -1, 4, 2), Point(300, 600, 1, 1, 1, 1)]
    one, two = (Course("pnl", "INR", {"engine": "a"}, points[:count]) for count in (1, 2))
    dotted, plain = (report_plots.pnl(each, (0, 900), utc=True) for each in (one, two))
    assert dotted.count("<use") > plain.count("<use")
