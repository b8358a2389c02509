"""Every command: where it lives, and the usage text that is its help and its grammar at once.

docopt parses a command's arguments by the very text that ``--help`` prints, so the two can't
differ.  A command that isn't here doesn't exist.
"""

from dataclasses import dataclass

PROGRAM = "tickwatch"

GLOBAL = """\
Everywhere:
  --data-dir DIR  where the rings and stores are (else $MONITORING_DATA_DIR,
                  .env, the TOML file, data/monitoring)
  --config FILE   TOML file with settings, rules, sessions, routes and plugins
  --json          JSON for programs instead of text for people
  --no-color      no colour on a terminal; so does NO_COLOR=1
  --utc           times in UTC instead of local time
  -h, --help      this help
"""

OVERVIEW = f"""\
tickwatch watches a latency-critical trading engine from outside.

Usage: tickwatch [options] [<command>] [<args>...]

{GLOBAL}  --version       the version

Commands:
  run                  the service in the foreground
  demo                 a paper-trading engine on a recorded feed, watched
  status               is all well?  exit code 0 OK, 1 WARNING, 2 CRITICAL,
                       3 UNKNOWN
  watch                alerts as they happen
  alerts list          what is pending or firing
  alerts show          one alert from its first transition on
  alerts ack           acknowledge: no more messages about it for a while
  alerts clear         take an acknowledgement back
  silences add         no messages about what matches, for a while
  silences list        silences that hold or are still to come
  silences expire      end a silence now
  deliveries list      what was told to whom, and what could not be
  deliveries retry     send a dead delivery again
  metrics show         statistics of each series per interval
  metrics summary      the same over the whole range, with the trend
  metrics export       CSV or JSON lines
  ring dump            the last records of a live or dead engine
  health               the pre-market check: is everything in place?
  rules check          is the rule file right, and what applies?
  rules replay         what would these rules have told about the past?
  report               hand-over, end of day, end of month

Examples:
  tickwatch demo --seconds 30
  tickwatch status
  tickwatch alerts ack connection_lost --reason "broker maintenance"
  tickwatch metrics show --interval 1h --metric "*_latency"

tickwatch <command> --help says more about one.
"""

_RANGE = """\
  --hours N             the last N hours (default: the 24 h that end at the
                        newest record)
  --from T              since a time such as 2026-01-31T09:15:00+05:30
  --to T                until such a time
"""

_SERIES = """\
  --metric PATTERN      only metrics that match, such as "*_latency"
  --match LABEL=PATTERN
                        only series whose label matches; repeatable
"""


@dataclass(frozen=True)
class Command:
    """A command: the function ``module.function(args) -> exit code`` and its usage text.

    ``monitoring``: it exits like a monitoring plugin, so wrong use of it is UNKNOWN (3).
    """

    module: str
    function: str
    text: str
    monitoring: bool = False


COMMANDS: dict[tuple[str, ...], Command] = {
    ("run",): Command(
        "cli.run",
        "main",
        """\
Run the service in the foreground: it reads the rings, applies the rules and
delivers alerts until it is told to stop.

Usage: tickwatch run [options]

Options:
  --print-unit    print a systemd unit for this service and exit

Examples:
  tickwatch run
  tickwatch run --data-dir /var/lib/desk/monitoring
  tickwatch run --print-unit
""",
    ),
    ("demo",): Command(
        "cli.demo",
        "main",
        """\
Run a paper-trading engine on a recorded (or made-up) exchange feed, watch it,
and deliver its alerts to a local web server that prints them.

Usage: tickwatch demo [options]

Options:
  --feed FILE     recorded feed, plain or .gz (default: a made-up one)
  --seconds N     stop after N seconds of running
  --speed X       times the recorded speed, or max (default: 1)
  --no-incidents  don't inject the latency stall and the drawdown

Examples:
  tickwatch demo
  tickwatch demo --seconds 30 --no-incidents
""",
    ),
    ("status",): Command(
        "cli.status",
        "main",
        """\
Say whether all is well: state and reasons, engines, alerts, latency, deliveries.
Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (no service, no engine, no
or old data, wrong directory).

Usage: tickwatch status [options]

Options:
  --watch         show it again every second, until Ctrl-C

Examples:
  tickwatch status
  tickwatch status --json
  tickwatch status --watch
""",
        monitoring=True,
    ),
    ("watch",): Command(
        "cli.watch",
        "main",
        """\
Show alerts, acknowledgements and resolutions as they happen, after the last ten.

Usage: tickwatch watch [options]

Options:
  --severity LEVEL  only this severity and worse: info, warning or critical
  --rule PATTERN    only rules that match, such as "daily_*"

Examples:
  tickwatch watch
  tickwatch watch --severity critical
  tickwatch watch --json --rule "connection_*"
""",
    ),
    ("alerts", "list"): Command(
        "cli.alerts",
        "list_alerts",
        """\
List alerts: those pending or firing now.

Usage: tickwatch alerts list [options]

Options:
  --severity LEVEL  only this severity and worse: info, warning or critical
  --hours N         those active at some time in the last N hours, resolved
                    ones too
  --all             every alert that is known, resolved ones too

Examples:
  tickwatch alerts list
  tickwatch alerts list --severity critical --json
  tickwatch alerts list --hours 8
""",
    ),
    ("alerts", "show"): Command(
        "cli.timeline",
        "main",
        """\
Show one alert: its transitions, who was told what and when, its
acknowledgements, and its worst records.

Usage: tickwatch alerts show <id> [options]

The id may be cut to its first digits, at least four.

Examples:
  tickwatch alerts show 3f2a
""",
    ),
    ("alerts", "ack"): Command(
        "cli.alerts",
        "ack",
        """\
Acknowledge alerts: nobody is told about them again until the time is over, they
get worse, or the acknowledgement is cleared.

Usage: tickwatch alerts ack <rule-or-id> [--all] [options]
       tickwatch alerts ack --all [options]
       tickwatch alerts ack --at TIMESTAMP [options]

A rule stands for its alerts that are active or were resolved within the reopen
window; another series that fires is told.  An id may be cut to four digits.

Options:
  --all             with a rule: its future alerts as well, until the time is
                    over; alone: everything active
  --at TIMESTAMP    the alerts that began at that time
  --ttl D           for how long, such as 90m, 8h or 2d, at most 7d (default:
                    the setting MONITORING_ACK_TTL_SECONDS)
  --until-resolved  until the alert is resolved, however long that takes
  --reason TEXT     why, for those who read it later
  --operator NAME   who you are (default: the user's login name)

Examples:
  tickwatch alerts ack connection_lost
  tickwatch alerts ack daily_loss_high --ttl 4h --reason "hedged"
  tickwatch alerts ack --all --until-resolved
""",
    ),
    ("alerts", "clear"): Command(
        "cli.alerts",
        "clear",
        """\
Take acknowledgements of a rule or alert back: whoever is still firing is told
again at once.

Usage: tickwatch alerts clear <rule-or-id> [options]

Options:
  --reason TEXT     why, for those who read it later
  --operator NAME   who you are (default: the user's login name)

Examples:
  tickwatch alerts clear connection_lost
""",
    ),
    ("silences", "add"): Command(
        "cli.silences",
        "add",
        """\
Silence what matches: no messages about it for a while.  It is logged and listed
all the same.

Usage: tickwatch silences add <label=pattern>... --for D [options]

Labels are those of the alert, and rule and severity; all of them must match.

Options:
  --for D           for how long, such as 30m, 8h or 2d
  --from T          beginning at that time (default: now)
  --reason TEXT     why, for those who read it later
  --operator NAME   who you are (default: the user's login name)

Examples:
  tickwatch silences add "rule=performance_*" engine=swing --for 2h
""",
    ),
    ("silences", "list"): Command(
        "cli.silences",
        "list_silences",
        """\
List silences that hold or are still to begin.

Usage: tickwatch silences list [options]

Examples:
  tickwatch silences list
""",
    ),
    ("silences", "expire"): Command(
        "cli.silences",
        "expire",
        """\
End a silence now.

Usage: tickwatch silences expire <id> [options]

Options:
  --reason TEXT     why, for those who read it later
  --operator NAME   who you are (default: the user's login name)

Examples:
  tickwatch silences expire 3f2a
""",
    ),
    ("deliveries", "list"): Command(
        "cli.deliveries",
        "list_deliveries",
        """\
List deliveries, newest first: what each plugin was told, and what failed why.

Usage: tickwatch deliveries list [options]

Options:
  --state STATE   only pending, delivered, dead or skipped ones
  --limit N       at most so many (default: 50)

Examples:
  tickwatch deliveries list
  tickwatch deliveries list --state dead
""",
    ),
    ("deliveries", "retry"): Command(
        "cli.deliveries",
        "retry",
        """\
Have a dead delivery sent again by the running service.

Usage: tickwatch deliveries retry <id> [options]

Options:
  --reason TEXT     why, for those who read it later
  --operator NAME   who you are (default: the user's login name)

Examples:
  tickwatch deliveries retry 3f2a
""",
    ),
    ("metrics", "show"): Command(
        "cli.metrics",
        "show",
        f"""\
Show each series per interval: count, min, avg, p50, p99, max, lost records.  The
interval that isn't over yet is marked.

Usage: tickwatch metrics show [--match LABEL=PATTERN]... [options]

Options:
  --interval D          width of the intervals, such as 5m, 1h or 1d (default:
                        the base interval)
{_SERIES}{_RANGE}
Examples:
  tickwatch metrics show
  tickwatch metrics show --interval 1h --metric "*_latency" --hours 8
  tickwatch metrics show --match strategy=mean_* --json
""",
    ),
    ("metrics", "summary"): Command(
        "cli.metrics",
        "summary",
        f"""\
Summarise each series over the whole range, and compare with the equal period
before.

Usage: tickwatch metrics summary [--match LABEL=PATTERN]... [options]

Options:
{_SERIES}{_RANGE}
Examples:
  tickwatch metrics summary
  tickwatch metrics summary --hours 8 --metric pnl
""",
    ),
    ("metrics", "export"): Command(
        "cli.export",
        "main",
        f"""\
Export the rows of `metrics show`, or the raw records, as CSV or as JSON, one
object a line.

Usage: tickwatch metrics export [--match LABEL=PATTERN]... [options]

Options:
  --format FORMAT       csv or json (default: csv)
  -o FILE, --output FILE
                        write to a file, which appears when it is complete
  --interval D          width of the intervals (default: the base interval)
  --raw                 the raw records themselves, from the day files; where
                        they came too fast, skipped says how many of the series
                        a line stands for besides itself
{_SERIES}{_RANGE}
Examples:
  tickwatch metrics export --hours 8 -o morning.csv
  tickwatch metrics export --raw --metric pnl --hours 1
  tickwatch metrics export --format json --metric pnl
""",
    ),
    ("ring", "dump"): Command(
        "cli.ring",
        "dump",
        """\
Show the last records of an engine, alive or dead: its flight recorder.

Usage: tickwatch ring dump <engine> [options]

Options:
  --last N        how many records (default: 50)

Examples:
  tickwatch ring dump intraday
  tickwatch ring dump intraday --last 1000 --json
""",
    ),
    ("health",): Command(
        "cli.health",
        "main",
        """\
The pre-market check: settings, directories, room, clock, service, engines,
calendars, levels, day files; one check a line, with what to do.
Exit code: that of the worst: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

Usage: tickwatch health [options]

Options:
  --send          send a marked test message through each enabled plugin, and
                  tell what the other side said

Examples:
  tickwatch health
  tickwatch health --send
  tickwatch health --json
""",
        monitoring=True,
    ),
    ("rules", "check"): Command(
        "cli.rulecheck",
        "main",
        """\
Check a rule file (or the configured one): list all its problems, or the rules
that are in force with it, and how their levels compare with the last session.
Exit code: 1 if there are problems.

Usage: tickwatch rules check [<file>] [options]

Examples:
  tickwatch rules check
  tickwatch rules check new.toml
""",
    ),
    ("rules", "replay"): Command(
        "cli.replay_rules",
        "main",
        """\
Apply rules to what was recorded, and list every message that would have been
sent, had nobody acknowledged or silenced anything.  Exact where the raw records
are complete; elsewhere approximate, from rollups, and marked.

Usage: tickwatch rules replay [options]

Options:
  --rules FILE          rules to apply (default: those that are configured)
  --diff FILE           compare them with those of another file
  --hours N             the last N hours (default: the 24 h that end at the
                        newest record)
  --from T              since a time such as 2026-01-31T09:15:00+05:30
  --to T                until such a time

Examples:
  tickwatch rules replay --hours 8
  tickwatch rules replay --from 2026-01-01 --to 2026-02-01 --diff new.toml
""",
    ),
    ("report",): Command(
        "cli.report",
        "main",
        """\
Report on a shift, a day or a month: alerts and time to acknowledge, PnL,
latency over time, deliveries, gaps, and the equal period before.

Usage: tickwatch report [options]

Options:
  --html FILE           write a self-contained page with plots instead; needs
                        the extra "report"
  --hours N             the last N hours (default: the 24 h that end at the
                        newest record)
  --from T              since a time such as 2026-01-31T09:15:00+05:30
  --to T                until such a time

Examples:
  tickwatch report --hours 8
  tickwatch report --from 2026-01-01 --to 2026-02-01 --html january.html
""",
    ),
}
