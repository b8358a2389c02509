"""The feed: what a message says, and that no bytes of any kind get past it as something else."""

import gzip
import hashlib
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.feed import MAX_LINE_BYTES, UNITS, Depth, FeedFile, Quote, Trade, clock_of, parse, units
from cli.problems import Failed
from cli.synthetic import synthetic

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "btcusdt_20240808.gz"
QUOTE = (
    b'1723161255088169167 {"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":5,'
    b'"s":"BTCUSDT","b":"61800.20","B":"2.507","a":"61800.30","A":"2.510",'
    b'"T":1723161256313,"E":1723161256314}}'
)
TRADE = (
    b'1723161255088176367 {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256322,'
    b'"T":1723161256321,"s":"BTCUSDT","t":9,"p":"61800.30","q":"0.006","X":"MARKET","m":false}}'
)
DEPTH = (
    b'1723161255030314667 {"stream":"btcusdt@depth@0ms","data":{"e":"depthUpdate",'
    b'"E":1723161256299,"T":1723161256298,"s":"BTCUSDT","U":1,"u":2,"pu":0,'
    b'"b":[["58710.20","0.014"],["61496.50","0.000"]],"a":[["61800.30","3.330"]]}}'
)
SNAPSHOT = (
    b'1723161255319702566 {"lastUpdateId":5,"E":1723161256501,"T":1723161256493,'
    b'"bids":[["61800.20","2.909"]],"asks":[]}'
)


def test_a_quote_has_prices_and_sizes_in_exact_units() -> None:
    """61800.20 is 6,180,020,000,000 units of 1e-8, whatever a float would make of it."""
    assert parse(QUOTE) == Quote(
        1723161255088169167,
        1723161256314,
        "BTCUSDT",
        6_180_020_000_000,
        250_700_000,
        6_180_030_000_000,
        251_000_000,
    )


def test_a_trade_tells_which_side_was_hit() -> None:
    """The exchange's "m" is True when the buyer waited, that is when the aggressor sold."""
    trade = parse(TRADE)
    assert trade == Trade(
        1723161255088176367, 1723161256322, "BTCUSDT", 6_180_030_000_000, 600_000, False
    )
    sold = parse(TRADE.replace(b'"m":false', b'"m":true'))
    assert isinstance(sold, Trade)
    assert sold.sold


def test_depth_and_snapshot_keep_their_levels() -> None:
    """Removed levels have size 0; a snapshot is told apart and names no symbol."""
    depth = parse(DEPTH)
    assert isinstance(depth, Depth)
    assert depth.bids == ((5_871_020_000_000, 1_400_000), (6_149_650_000_000, 0))
    assert depth.asks == ((6_180_030_000_000, 333_000_000),)
    assert not depth.snapshot
    snapshot = parse(SNAPSHOT)
    assert isinstance(snapshot, Depth)
    assert snapshot.snapshot
    assert (snapshot.symbol, snapshot.asks) == ("", ())


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"b":"61800.20"', b'"b":"NaN"'),
        (b'"b":"61800.20"', b'"b":"Infinity"'),
        (b'"b":"61800.20"', b'"b":"-61800.20"'),
        (b'"b":"61800.20"', b'"b":"6e4"'),
        (b'"b":"61800.20"', b'"b":"6_1"'),
        (b'"b":"61800.20"', b'"b":" 61800.20"'),
        (b'"b":"61800.20"', b'"b":"61800.20\\n"'),
        (b'"b":"61800.20"', '"b":"٦١"'.encode()),  # digits, but not those of the format
        (b'"b":"61800.20"', b'"b":""'),
        (b'"b":"61800.20"', b'"b":"0.00"'),
        (b'"b":"61800.20"', b'"b":61800.20'),
        (b'"b":"61800.20"', b'"b":NaN'),
        (b'"b":"61800.20"', b'"b":null'),
        (b'"b":"61800.20"', b'"b":["61800.20"]'),
        (b'"b":"61800.20"', b'"c":"61800.20"'),
        (b'"s":"BTCUSDT"', b'"s":7'),
        (b'"E":1723161256314', b'"E":"1723161256314"'),
        (b'"E":1723161256314', b'"E":true'),
        (b'"E":1723161256314', b'"E":1.5'),
        (b'"T":1723161256313', b'"T":-1'),
        (b'"T":1723161256313', b'"T":' + b"9" * 5000),
        (b'"e":"bookTicker"', b'"e":"other"'),
        (b'"e":"bookTicker"', b'"e":["bookTicker"]'),
        (b'"data":{', b'"data":[{'),
        (b"1723161255088169167 ", b""),
        (b"1723161255088169167 ", b"-1723161255088169167 "),
        (b"1723161255088169167 ", b"17231612550881691670 "),
        (b"1723161255088169167 ", b"1723161255.5 "),
        (b"1723161255088169167 ", b"1723161255088169167"),
        (b"BTCUSDT", b"BTC\xff"),
    ],
)
def test_a_wrong_message_is_a_value_error(good: bytes, bad: bytes) -> None:
    """Wrong types, numbers that only Python would read, unknown events: all are malformed."""
    assert good in QUOTE
    with pytest.raises(ValueError):
        parse(QUOTE.replace(good, bad))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b'"stream"',
        b"[]",
        b"{}",
        b'{"stream":"x"}',
        b'{"stream":"x","data":null}',
        b'{"stream":"x","data":"e"}',
        b"[" * 100_000,
        b'{"E":1,"bids":{"1":"1"},"asks":[]}',
        b'{"E":1,"bids":[["1"]],"asks":[]}',
        b'{"E":1,"bids":[["1","1","1"]],"asks":[]}',
        b'{"E":1,"bids":[7],"asks":[]}',
        b'{"E":1,"bids":[[1,1]],"asks":[]}',
    ],
)
def test_json_of_another_shape_is_a_value_error(body: bytes) -> None:
    """Valid JSON that is no message is as malformed as a torn line."""
    with pytest.raises(ValueError):
        parse(b"1723161255088169167 " + body)


def test_a_trade_without_a_side_is_malformed() -> None:
    """A maker's side that is neither true nor false would be guessed at."""
    with pytest.raises(ValueError, match="side"):
        parse(TRADE.replace(b'"m":false', b'"m":0'))


@pytest.mark.parametrize("line", [QUOTE, TRADE, DEPTH, SNAPSHOT])
def test_every_cut_of_a_message_is_malformed(line: bytes) -> None:
    """No prefix of a message passes for a whole one."""
    for end in range(len(line)):
        with pytest.raises(ValueError):
            parse(line[:end])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(noise: bytes) -> None:
    """Nothing but ValueError comes out of noise, with or without a clock before it."""
    for line in (noise, b"1723161255088169167 " + noise):
        with pytest.raises(ValueError):
            parse(line)


@given(st.data())
def test_a_damaged_message_is_a_message_or_a_value_error(data: st.DataObject) -> None:
    """One byte changed anywhere: still an event of known kind, or malformed."""
    line = bytearray(data.draw(st.sampled_from([QUOTE, TRADE, DEPTH, SNAPSHOT])))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(parse(bytes(line)), Quote | Trade | Depth)
    except ValueError:
        pass


@given(st.integers(0, 10**18 - 1))
def test_units_are_exact(value: int) -> None:
    """The decimal text of n units of 1e-8 parses to n, for every n of the format."""
    text = f"{Decimal(value) / UNITS:.8f}"
    assert units(text) == value


def test_the_clock_is_read_without_the_message() -> None:
    """Pacing needs the clock of a line whose message may be torn."""
    assert clock_of(b"1723161255088169167 {") == 1723161255088169167
    with pytest.raises(ValueError, match="clock"):
        clock_of(b"{}")


def test_a_file_is_read_plain_and_zipped_whatever_its_name(tmp_path: Path) -> None:
    """Compression is seen by content; line ends and blank lines don't matter."""
    content = QUOTE + b"\n\n" + TRADE + b"\r\n" + DEPTH
    plain, zipped = tmp_path / "feed.gz", tmp_path / "feed.txt"
    plain.write_bytes(content)
    zipped.write_bytes(gzip.compress(content[:200]) + gzip.compress(content[200:]))
    for path in (plain, zipped):
        feed = FeedFile(path)
        assert list(feed) == [QUOTE, TRADE, DEPTH]
        assert (feed.skipped, feed.damage) == (0, "")
        feed.close()
        feed.close()


def test_what_stands_before_the_first_message_is_counted(tmp_path: Path) -> None:
    """A recording that starts in the middle of a line is still a feed."""
    path = tmp_path / "feed"
    path.write_bytes(QUOTE[40:] + b"\n\x00\xff\n" + QUOTE + b"\nnoise\n")
    feed = FeedFile(path)
    assert feed.skipped == 2
    assert list(feed) == [QUOTE, b"noise"]
    feed.close()


def test_a_cut_recording_is_a_feed_until_the_cut(tmp_path: Path) -> None:
    """A gzip file without its end gives what can be read, and says why it ends."""
    lines = list(synthetic(2))
    whole = gzip.compress(b"\n".join(lines))
    path = tmp_path / "feed.gz"
    path.write_bytes(whole[: len(whole) // 2])
    feed = FeedFile(path)
    read = list(feed)
    assert 0 < len(read) < len(lines)
    assert read == lines[: len(read)]
    assert "end-of-stream" in feed.damage
    feed.close()


def test_a_line_without_end_is_one_malformed_line(tmp_path: Path) -> None:
    """Memory stays bounded: the rest of an endless line is skipped, what follows is read."""
    path = tmp_path / "feed"
    path.write_bytes(QUOTE + b"\n" + b"7" * (3 * MAX_LINE_BYTES) + b"\n" + TRADE + b"\n")
    feed = FeedFile(path)
    first, endless, last = feed
    assert (first, len(endless), last) == (QUOTE, MAX_LINE_BYTES, TRADE)
    feed.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\x1f\x8b", "can't be read"),
        (b"\x1f\x8b\x08not gzip at all", "can't be read"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no message of the feed's format in its 3 lines"),
    ],
)
def test_a_file_without_a_message_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    """The operator reads which file and why, in one line."""
    path = tmp_path / "feed.gz"
    path.write_bytes(content)
    with pytest.raises(Failed) as failed:
        FeedFile(path)
    assert str(failed.value).startswith(f"--feed={path}: ")
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_missing_file_and_a_directory_are_one_line(tmp_path: Path) -> None:
    """What can't be opened is named with the system's reason."""
    with pytest.raises(Failed, match="No such file"):
        FeedFile(tmp_path / "none")
    with pytest.raises(Failed, match="Is a directory"):
        FeedFile(tmp_path)
    with pytest.raises(Failed, match="error"):
        FeedFile("/proc/self/mem")  # opens, but can't be read from its start


def test_a_made_up_feed_is_the_same_for_a_seed() -> None:
    """The same bytes on every machine and Python, and others for another seed."""
    lines = list(synthetic(5))
    assert list(synthetic(5)) == lines
    assert hashlib.sha256(b"\n".join(lines)).hexdigest().startswith("9dc649900ac9e99f")
    assert list(synthetic(5, seed=8)) != lines
    assert list(synthetic(3)) == lines[: len(list(synthetic(3)))]


def test_a_made_up_feed_looks_like_a_recorded_one() -> None:
    """Same kinds in about the same shares, same fields in the same order, a clock that runs on."""
    lines = list(synthetic(20))
    events = [parse(line) for line in lines]
    clocks = [event.clock_ns for event in events]
    assert clocks == sorted(clocks)
    assert 19e9 < clocks[-1] - clocks[0] < 20e9
    shares = Counter(type(event) for event in events)
    assert 0.65 < shares[Quote] / len(events) < 0.75
    assert 0.18 < shares[Trade] / len(events) < 0.28
    assert 0.05 < shares[Depth] / len(events) < 0.09
    assert all(event.bid < event.ask for event in events if isinstance(event, Quote))
    fields = {tuple(json.loads(line.partition(b" ")[2])["data"]) for line in lines}
    assert fields == {
        ("e", "u", "s", "b", "B", "a", "A", "T", "E"),
        ("e", "E", "T", "s", "t", "p", "q", "X", "m"),
        ("e", "E", "T", "s", "U", "u", "pu", "b", "a"),
    }


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording isn't beside this checkout")
def test_the_whole_recording_parses() -> None:
    """93,954 messages of a real exchange, and not one is malformed."""
    feed = FeedFile(RECORDING)
    kinds = Counter(type(parse(line)) for line in feed)
    feed.close()
    assert kinds == {Quote: 66_089, Trade: 21_313, Depth: 6_552}
    assert (feed.skipped, feed.damage) == (0, "")
