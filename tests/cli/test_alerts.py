"""`alerts list`, `ack` and `clear` on a log that another process wrote, no notifier alive."""

import json
import os
import re
import stat

import pytest

from notifier.alert import Kind, Severity
from notifier.decisions import Journal

ROW = {
    "id", "rule", "labels", "severity", "state", "message", "value", "threshold", "unit",
    "started_at", "last_seen_at", "resolved_at", "count", "ack",
}  # fmt: skip


def test_alerts_are_listed_from_another_process(desk):
    """Every field of the contract, with no notifier and no ledger there."""
    fired = desk.tell("daily_loss_high", value=-4.5, threshold=-4.0, unit="%", message="loss")
    desk.tell("connection_lost", severity=Severity.WARNING)
    ended = desk.command("alerts", "list", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert [row["rule"] for row in ended.rows] == ["daily_loss_high", "connection_lost"]
    row = ended.rows[0]
    assert set(row) == ROW
    assert row["id"] == fired.id
    assert (row["severity"], row["state"], row["ack"]) == ("critical", "firing", None)
    assert (row["value"], row["threshold"], row["unit"]) == (-4.5, -4.0, "%")
    assert row["labels"] == {"engine": "intraday"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row["started_at"])


def test_the_list_is_a_plain_table_in_a_pipe(desk):
    """Worst first, units with values, no colour."""
    desk.tell("connection_lost", severity=Severity.WARNING)
    desk.tell("latency", value=812.0, threshold=250.0, unit="ms")
    lines = desk.command("alerts", "list").out.splitlines()
    assert lines[0].split()[:4] == ["id", "severity", "state", "rule"]
    assert "critical" in lines[1] and "812 ms (limit 250)" in lines[1]
    assert "warning" in lines[2]
    assert "\x1b" not in "".join(lines)


def test_resolved_alerts_are_listed_on_request(desk):
    """Active ones by default; --all and --hours show what is over."""
    desk.tell("connection_lost", ago_s=7200)
    desk.tell("connection_lost", Kind.RESOLVED, ago_s=7100)
    assert desk.run("alerts", "list", "--json").rows == []
    assert [r["state"] for r in desk.run("alerts", "list", "--all", "--json").rows] == ["resolved"]
    assert desk.run("alerts", "list", "--hours", "1", "--json").rows == []
    assert len(desk.run("alerts", "list", "--hours", "3", "--json").rows) == 1


def test_hours_never_hide_what_still_fires(desk):
    """An alert that fired yesterday and still fires was active in the last hour."""
    desk.tell("connection_lost", ago_s=86_400)
    assert len(desk.run("alerts", "list", "--hours", "1", "--json").rows) == 1


def test_severity_means_this_and_worse(desk):
    """Nobody misses a critical alert for having asked about warnings."""
    for severity in Severity:
        desk.tell(f"rule_{severity.word}", severity=severity)
    rows = desk.run("alerts", "list", "--severity", "warning", "--json").rows
    assert [row["severity"] for row in rows] == ["critical", "warning"]
    ended = desk.run("alerts", "list", "--severity", "critcal")
    assert ended.code == 2
    assert "use info, warning or critical; did you mean critical?" in ended.err


def test_an_empty_list_says_what_to_do_next(desk):
    """On stderr: stdout is data, and an empty array as JSON."""
    ended = desk.run("alerts", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "tickwatch alerts list --all" in ended.err
    assert desk.run("alerts", "list", "--json").rows == []
    assert "tickwatch status" in desk.run("alerts", "list", "--all").err
    desk.tell("x", severity=Severity.INFO)
    assert "without --severity" in desk.run("alerts", "list", "--severity", "critical").err


def test_a_wrong_directory_is_named(desk):
    """Never taken for one without alerts."""
    desk.folder.joinpath("data").rename(desk.folder / "elsewhere")
    for argv in (["list"], ["ack", "a"], ["clear", "a"]):
        ended = desk.run("alerts", *argv)
        assert (ended.code, ended.out) == (1, "")
        assert f"{desk.data_dir}: no such directory (--data-dir)" in ended.err
    assert not desk.journal.exists()


def test_an_ack_holds_in_the_next_process(desk):
    """By rule, with the service's own time limit and the login name, on disk before it is said."""
    desk.tell("connection_lost")
    ended = desk.command("alerts", "ack", "connection_lost", "--reason", "known", LOGNAME="asha")
    assert ended.code == 0
    assert re.match(r"acknowledged connection_lost engine=intraday until 20.* by asha\n", ended.out)
    assert "no service runs" in ended.err
    [row] = desk.command("alerts", "list", "--json").rows
    assert row["ack"]["by"] == "asha" and row["ack"]["reason"] == "known"
    [line] = desk.journal.read_text().splitlines()
    assert json.loads(line)["ttl_s"] == 7200
    assert stat.S_IMODE(desk.journal.stat().st_mode) == 0o600
    assert (
        "asha, 2 h left" in desk.run("alerts", "list").out
        or "1 h 59 min left" in desk.run("alerts", "list").out
    )


def test_an_ack_of_a_rule_leaves_other_series_alone(desk):
    """Symbol B is told although A is acknowledged; --all covers what is to come."""
    desk.tell("order_rejected", labels={"symbol": "A"})
    desk.run("alerts", "ack", "order_rejected")
    desk.tell("order_rejected", labels={"symbol": "B"})
    acks = {r["labels"]["symbol"]: r["ack"] for r in desk.run("alerts", "list", "--json").rows}
    assert acks["A"] is not None and acks["B"] is None
    ended = desk.run("alerts", "ack", "order_rejected", "--all")
    assert "future alerts of order_rejected" in ended.out
    desk.tell("order_rejected", labels={"symbol": "C"})
    assert all(r["ack"] for r in desk.run("alerts", "list", "--json").rows)


def test_one_alert_can_be_acknowledged_by_its_id(desk):
    """The first digits are enough, four at least."""
    one = desk.tell("order_rejected", labels={"symbol": "A"})
    desk.tell("order_rejected", labels={"symbol": "B"})
    assert desk.run("alerts", "ack", one.id[:3]).code == 1
    assert desk.run("alerts", "ack", one.id[:8].upper()).code == 0
    acks = {r["labels"]["symbol"]: r["ack"] for r in desk.run("alerts", "list", "--json").rows}
    assert acks["A"] is not None and acks["B"] is None
    assert desk.run("alerts", "ack", one.id[:8], "--all").code == 2


def test_everything_active_can_be_acknowledged_at_once(desk):
    """--all alone; nothing active is an error."""
    assert "nothing to acknowledge" in desk.run("alerts", "ack", "--all").err
    desk.tell("a")
    desk.tell("b")
    desk.tell("c")
    desk.tell("c", Kind.RESOLVED)
    out = desk.run("alerts", "ack", "--all", "--until-resolved").out
    assert out.count("until it is resolved") == 2
    rows = desk.run("alerts", "list", "--json").rows
    assert all(row["ack"]["expires_at"] is None for row in rows)
    assert "asha, until resolved" in desk.run("alerts", "list").out


def test_alerts_can_be_acknowledged_by_the_time_they_began(desk):
    """As a list prints it, to the second, or exactly."""
    desk.tell("a", ago_s=100)
    [row] = desk.run("alerts", "list", "--json").rows
    second = row["started_at"][:19] + "Z"
    assert desk.run("alerts", "ack", "--at", "2020-01-01T00:00:00Z").code == 1
    assert not desk.journal.exists()
    for at in (second, row["started_at"]):
        assert desk.run("alerts", "ack", "--at", at).code == 0
    assert desk.run("alerts", "ack", "--at", "soon").code == 2


@pytest.mark.parametrize("word", ["conection_lost", "zzz"])
def test_an_unknown_rule_is_an_error_that_names_the_active_ones(desk, word):
    """With a suggestion, and nothing written."""
    desk.tell("connection_lost")
    ended = desk.run("alerts", "ack", word)
    assert ended.code == 1
    assert "(active: connection_lost)" in ended.err
    assert ("did you mean connection_lost?" in ended.err) == (word == "conection_lost")
    assert not desk.journal.exists()


def test_a_rule_that_is_over_cannot_be_acknowledged(desk):
    """Within the reopen window it can: it may be back in a minute."""
    desk.tell("a", ago_s=5000)
    desk.tell("a", Kind.RESOLVED, ago_s=4000)
    assert "none is active" in desk.run("alerts", "ack", "a").err
    desk.tell("b", ago_s=100)
    desk.tell("b", Kind.RESOLVED, ago_s=50)
    assert desk.run("alerts", "ack", "b").code == 0


def test_a_severity_that_rises_breaks_through(desk):
    """The ack of a warning doesn't cover the critical alert that it becomes."""
    desk.tell("loss", severity=Severity.WARNING)
    desk.run("alerts", "ack", "loss")
    desk.tell("loss", Kind.SEVERITY, Severity.CRITICAL)
    [row] = desk.run("alerts", "list", "--json").rows
    assert (row["severity"], row["ack"]) == ("critical", None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ttl", "8d"], "--ttl=8d: must be 1s to 7d"),
        (["--ttl", "0s"], "must be 1s to 7d"),
        (["--ttl", "soon"], "use a number and s, m, h or d"),
        (["--operator", " "], "--operator= is empty"),
    ],
)
def test_a_bad_value_acknowledges_nothing(desk, options, text):
    """Exit code 2, one line, nothing written."""
    desk.tell("a")
    ended = desk.run("alerts", "ack", "a", *options)
    assert ended.code == 2
    assert text in ended.err
    assert not desk.journal.exists()


def test_a_clear_takes_an_ack_back(desk):
    """By rule, seen by the next process."""
    desk.tell("connection_lost")
    desk.run("alerts", "ack", "connection_lost", "--operator", "ravi", "--ttl", "1h")
    ended = desk.command("alerts", "clear", "connection_lost")
    assert ended.code == 0
    assert "cleared connection_lost engine=intraday (acknowledged by ravi)" in ended.out
    [row] = desk.run("alerts", "list", "--json").rows
    assert row["ack"] is None
    assert [d.kind for d in Journal(desk.journal).read_all()] == ["ack", "clear"]


def test_a_clear_takes_an_ack_of_the_future_back(desk):
    """Also of a series that nobody has seen yet, and by an alert's id."""
    desk.tell("order_rejected", labels={"symbol": "A"})
    desk.run("alerts", "ack", "order_rejected", "--all")
    assert desk.run("alerts", "clear", "order_rejected").code == 0
    desk.tell("order_rejected", labels={"symbol": "B"})
    assert not any(row["ack"] for row in desk.run("alerts", "list", "--json").rows)
    one = desk.run("alerts", "list", "--json").rows[0]["id"]
    desk.run("alerts", "ack", one[:8])
    [row] = desk.run("alerts", "clear", one[:8], "--json").rows
    assert (row["id"], row["ack"]) == (one, None)


def test_clearing_what_is_not_acknowledged_is_an_error(desk):
    """It names what is; nothing is written."""
    desk.tell("connection_lost")
    desk.tell("daily_loss_high")
    assert "nothing is acknowledged" in desk.run("alerts", "clear", "connection_lost").err
    desk.run("alerts", "ack", "connection_lost")
    lines = desk.journal.read_text()
    ended = desk.run("alerts", "clear", "conection_lost")
    assert ended.code == 1
    assert "did you mean connection_lost? (acknowledged: connection_lost)" in ended.err
    assert desk.journal.read_text() == lines


def test_ack_and_clear_answer_in_json(desk):
    """The alerts that they were about, as they are now."""
    desk.tell("a")
    [row] = desk.run("alerts", "ack", "a", "--json").rows
    assert row["ack"]["by"] == "asha"


def test_damaged_lines_hide_nothing(desk):
    """A torn line in the log or the journal costs itself alone."""
    desk.tell("a")
    desk.run("alerts", "ack", "a")
    [day] = desk.alerts_dir.glob("2*.jsonl")
    for path in (day, desk.journal):
        with path.open("a") as file:
            file.write('{"torn": ')
    desk.tell("b")
    rows = desk.run("alerts", "list", "--json").rows
    assert {row["rule"]: bool(row["ack"]) for row in rows} == {"a": True, "b": False}


def test_an_ack_that_cannot_be_written_is_no_success(desk):
    """Nothing on stdout, exit code 1, the file named."""
    desk.tell("a")
    desk.journal.mkdir()
    ended = desk.run("alerts", "ack", "a")
    assert (ended.code, ended.out) == (1, "")
    assert "acknowledgements.jsonl" in ended.err


def test_a_running_service_needs_no_hint(desk):
    """The note about a missing service is only for when it is missing."""
    desk.service_runs()
    desk.tell("a")
    assert desk.run("alerts", "ack", "a").err == ""


def test_labels_cannot_act_on_the_terminal(desk):
    """Escape sequences and line breaks in labels and messages are shown as text."""
    desk.tell("evil", labels={"symbol": "A\x1b[2J\n\u202eB"}, message="x\x07")
    for argv in (["alerts", "list"], ["alerts", "list", "--json"], ["alerts", "ack", "evil"]):
        out = desk.run(*argv).out
        assert not set(out) & set("\x1b\u202e\x07")
    assert os.linesep not in desk.run("alerts", "list").out.splitlines()[1]


def test_reading_writes_nothing(desk):
    """Directories stay as they are."""
    desk.tell("a")

    def files():
        return sorted((str(p), p.stat().st_mtime_ns) for p in desk.folder.rglob("*"))

    before = files()
    desk.run("alerts", "list", "--all")
    assert files() == before


def test_an_empty_directory_is_not_one_without_alerts(desk):
    """A mistyped path must not look like peace."""
    (desk.data_dir / "service.json").unlink()
    for argv in (["list"], ["ack", "a"], ["show", "abcd"]):
        ended = desk.run("alerts", *argv)
        assert ended.code == 1
        assert f"{desk.data_dir}: no service has run here" in ended.err
    assert desk.run("watch").code == 1


def test_pending_alerts_are_listed_from_a_fresh_report(desk):
    """What holds but not for long enough to fire; an old report says nothing about now."""
    row = {
        "rule": "order_rejects", "labels": {"engine": "swing"}, "severity": "warning",
        "since": "2026-01-31T09:15:00.000000Z", "value": 0.05, "threshold": 0.02, "unit": "",
        "message": "5 % of orders rejected", "count": 1,
    }  # fmt: skip
    desk.report(pending=[row])
    assert desk.run("alerts", "list", "--json").rows == []
    desk.service_runs()
    [listed] = desk.run("alerts", "list", "--json").rows
    assert (listed["state"], listed["rule"], listed["id"]) == ("pending", "order_rejects", "")
    assert "pending" in desk.run("alerts", "list").out
    desk.report(pending=[row], ago_s=60)
    assert desk.run("alerts", "list", "--json").rows == []


def test_a_narrow_terminal_breaks_no_word(desk):
    """Where ten columns can't stand side by side, each alert takes a few lines."""
    desk.tell("circuit_breaker_triggered", value=1.0, threshold=0.0)
    lines = desk.screen("alerts", "list").splitlines()
    assert max(map(len, lines)) <= 80
    assert "  circuit_breaker_triggered  " in lines[0]
    assert "critical" in lines[0]


def test_a_decision_stands_although_nobody_can_tell_who_runs(desk, monkeypatch):
    """Another user's lock can't be asked; the line is on disk, so that is success."""
    from cli.place import Place

    def denied(self):
        raise PermissionError(13, "Permission denied", "service.lock")

    desk.tell("a")
    monkeypatch.setattr("cli.rollups.pending", lambda where, now_ns: [])
    monkeypatch.setattr(Place, "service_pid", denied)
    ended = desk.run("alerts", "ack", "a")
    assert ended.code == 0
    assert "can't tell whether a service runs" in ended.err
