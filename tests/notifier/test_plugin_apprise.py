"""The Apprise plugin against Apprise's own ``json://`` target."""

import os
import sys
from collections.abc import Iterator

import pytest

from notifier.plugin import PartialError, PermanentError, RetryableError
from notifier.plugins.apprise import ApprisePlugin
from tests.messages import message, row
from tests.servers import HttpServer, Reply, free_port

try:
    import apprise  # noqa: F401 - only whether it is there
except ImportError:
    if "CI" in os.environ:
        raise
    pytest.skip("apprise is not installed", allow_module_level=True)

# Apprise's own import of a module that newer Pythons drop
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A target."""
    with HttpServer() as server:
        yield server


def plugin(*ports: int, timeout_s: float = 10.0) -> ApprisePlugin:
    """The plugin for targets on this host."""
    urls = [f"json://user:s3cr3t@127.0.0.1:{port}/x" for port in ports]
    return ApprisePlugin("apprise", options={"urls": urls}, timeout_s=timeout_s)


def test_a_message_reaches_every_target(server: HttpServer) -> None:
    """Subject as title, the rest as body, a resolution as success."""
    sender = plugin(server.port, server.port)
    sender.prepare()
    assert sender.deliver(message()) is True
    assert sender.deliver(message("resolved")) is True
    first, _, third, _ = (request.json() for request in server.wait(4))
    assert first["title"] == "CRITICAL order_latency 812 ms > 250 ms"
    assert "intraday mean_reversion" in first["message"]
    assert (first["type"], third["type"]) == ("failure", "success")
    assert sender.reply == "2 of 2 accepted"


def test_only_the_target_that_failed_is_tried_again(server: HttpServer) -> None:
    """Targets are told by number, since their URLs are secrets."""
    sender = plugin(server.port, free_port())
    with pytest.raises(PartialError, match=r"^target 2 failed$") as caught:
        sender.deliver(message())
    assert (caught.value.recipients, caught.value.delivered) == (("2",), ("1",))
    with pytest.raises(RetryableError, match=r"^target 2 failed$"):
        sender.deliver(message(recipients=caught.value.recipients))
    assert len(server.requests) == 1


def test_what_apprise_does_not_know_is_permanent(server: HttpServer) -> None:
    """No later attempt changes that."""
    sender = ApprisePlugin("apprise", options={"urls": ["nowhere://s3cr3t"]})
    with pytest.raises(PermanentError, match=r"^target 1 is nothing that Apprise knows$"):
        sender.deliver(message())
    with pytest.raises(PartialError) as caught:
        ApprisePlugin(
            "apprise", options={"urls": ["nowhere://x", f"json://127.0.0.1:{free_port()}"]}
        ).deliver(message())
    assert caught.value.recipients == ("2",)
    with pytest.raises(PermanentError):
        plugin(server.port).deliver(message(recipients=("9",)))


def test_a_silent_target_is_given_up(server: HttpServer) -> None:
    """Apprise's own limits are set to what the attempt has left."""
    server.answer(Reply(never=True))
    with pytest.raises(RetryableError):
        plugin(server.port, timeout_s=0.5).deliver(message(within_s=60))
    with pytest.raises(RetryableError):
        plugin(server.port).deliver(message(within_s=-1))


def test_many_failures_are_summed_up() -> None:
    """One short line."""
    with pytest.raises(RetryableError, match=r"target 3 failed and 2 more$"):
        plugin(*[free_port()] * 5).deliver(message(alert=row()))


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, at start and, if it vanished since, at an attempt."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(PermanentError, match=r"pip install 'tickwatch\[apprise\]'"):
        plugin(1).deliver(message())
    monkeypatch.setattr("notifier.plugins.apprise.find_spec", lambda name: None)
    [problem] = plugin(1).check()
    assert problem == "apprise: needs the package apprise: pip install 'tickwatch[apprise]'"


def test_a_half_configuration_is_told() -> None:
    """Never with a URL."""
    assert "urls is empty" in ApprisePlugin("apprise", options={}).check()[0]
    [problem] = ApprisePlugin("apprise", options={"urls": ["json://x", "s3cr3t"]}).check()
    assert problem.startswith("apprise: urls entry 2 is no URL")
