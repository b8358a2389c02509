"""`run`: be the service in the foreground, or print the systemd unit that does so."""

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.problems import Failed, UsageError

# KillMode=mixed: the service ends its own children, in order; systemd only kills what is left over.
# The stop limit is longer than the service's own, which delivers what is due before it ends.
_UNIT = """\
# Save as /etc/systemd/system/tickwatch.service, then:
#   systemctl daemon-reload && systemctl enable --now tickwatch
# Where engines run under a login user, set RemoveIPC=no in /etc/systemd/logind.conf, or run
# `loginctl enable-linger {user}`: logging out removes that user's shared memory otherwise.
[Unit]
Description=tickwatch: monitoring of trading engines
After=network-online.target
Wants=network-online.target

[Service]
User={user}
WorkingDirectory={directory}
ExecStart={command}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=60
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def main(args: Mapping[str, Any]) -> int:
    """Run until SIGTERM or Ctrl-C.

    Raises:
        UsageError: settings are wrong, with every problem.
        Failed: another service holds the data directory.
    """
    if args["--print-unit"]:
        print(unit(args), end="")
        return 0
    from aggregator.service import ServiceBusy, run
    from aggregator.settings import Settings, SettingsError

    if args["--config"]:
        # Its tables are read again on SIGHUP and by the children, wherever those look from.
        os.environ["MONITORING_CONFIG"] = str(Path(args["--config"]).absolute())
    own = {"monitoring_data_dir": args["--data-dir"]} if args["--data-dir"] else {}
    try:
        return run(Settings(**own))
    except SettingsError as error:
        raise UsageError(str(error)) from None
    except ServiceBusy as error:
        raise Failed(str(error)) from None


def unit(args: Mapping[str, Any]) -> str:
    """A systemd unit that runs this program with this configuration from this directory."""
    words = [sys.executable, "-m", "cli", "run"]
    for option in ("--data-dir", "--config"):
        if args[option]:
            words += [option, str(Path(args[option]).absolute())]
    return _UNIT.format(
        user=getpass.getuser(),
        directory=str(Path.cwd()).replace("%", "%%"),
        command=" ".join(map(_quoted, words)),
    )


def _quoted(word: str) -> str:
    """*word* as systemd.syntax(7) and systemd.service(5) want it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if set(word) & set(" '\"\\;") else word
