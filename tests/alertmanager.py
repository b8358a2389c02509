"""A real Alertmanager on 127.0.0.1 for tests, and amtool to ask it."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.servers import LOCALHOST, free_port

BINARY = shutil.which("prometheus-alertmanager")
AMTOOL = shutil.which("amtool")

CONFIG = """
route:
  receiver: test
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: test
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


def require() -> None:
    """Skip where the programs are missing; fail where they must not be."""
    if BINARY is None or AMTOOL is None:
        if "CI" in os.environ:
            pytest.fail("prometheus-alertmanager and amtool must be installed for CI")
        pytest.skip("prometheus-alertmanager isn't installed")


class Alertmanager:
    """Alertmanager with one webhook receiver at *receiver*; its files are under *directory*."""

    def __init__(self, directory: Path, receiver: str = "http://127.0.0.1:9/", port: int = 0):
        assert BINARY is not None
        self.port = port or free_port()
        self.url = f"http://{LOCALHOST}:{self.port}"
        config = directory / "alertmanager.yml"
        config.write_text(CONFIG.format(url=receiver))
        self._log = (directory / "alertmanager.log").open("ab")
        self._process = subprocess.Popen(
            [
                BINARY,
                f"--config.file={config}",
                f"--storage.path={directory / 'data'}",
                f"--web.listen-address={LOCALHOST}:{self.port}",
                "--cluster.listen-address=",
            ],
            stdout=self._log,
            stderr=self._log,
            cwd=directory,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        ends = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, "Alertmanager ended at start"
                assert time.monotonic() < ends, "Alertmanager is not ready after 30 s"
                time.sleep(0.05)

    def active(self) -> list[dict[str, Any]]:
        """The alerts that amtool sees firing."""
        assert AMTOOL is not None
        done = subprocess.run(
            [AMTOOL, f"--alertmanager.url={self.url}", "alert", "query", "--output=json"],
            capture_output=True,
            check=True,
            timeout=30,
            env={**os.environ, "HOME": "/nonexistent"},
        )
        found = json.loads(done.stdout or b"[]") or []
        assert isinstance(found, list)
        return found

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(10)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
