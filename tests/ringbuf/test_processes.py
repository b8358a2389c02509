"""Looking at a ring from other processes does nothing to it, and everybody leaves quietly."""

import sys
import time
from pathlib import Path

import pytest

from ringbuf import Recorder, RingReader, segment
from tests.ringbuf.conftest import Script

TRACKER = """
from multiprocessing import resource_tracker
assert resource_tracker._resource_tracker._fd is None, "a tracker runs"
"""


LOOKS = {
    "reader": "from ringbuf import RingReader\nreader = RingReader.attach('engine', data_dir)\n"
    "reader.poll()",
    "texts": "from ringbuf import TextReader\nTextReader.attach('engine', data_dir).poll()",
    "survey": "from ringbuf.survey import survey\nassert survey(data_dir)[0].alive",
    "writer": "import logging; logging.disable()\nfrom ringbuf import Recorder\n"
    "assert Recorder('engine', data_dir).problem",
    "segment": "from pathlib import Path\nfrom ringbuf import descriptor, segment\n"
    "known = descriptor.read(Path(data_dir, 'rings'), 'engine')\n"
    "segment.Segment(known.current.segment).unlink()",
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_attaches_and_exits_leaves_the_ring_as_it_was(
    look: str, recorder: Recorder, data_dir: Path, script: Script
) -> None:
    """The standard library's tracker would unlink it, at once or a second later."""
    result = script(LOOKS[look] + TRACKER)
    assert (result.returncode, result.stderr) == (0, "")
    time.sleep(0.2)
    recorder.metric("x").record(1.0)
    with RingReader.attach("engine", data_dir, timeout_s=0) as reader:
        assert reader.is_current
        assert reader.poll().records["value"].tolist() == [1.0]


LEAVING = {
    "without closing": "",
    "closed": "recorder.close()",
    "only the metric left": "del recorder",
    "reader with an array alive": (
        "from ringbuf import RingReader\nreader = RingReader.attach('engine', data_dir)\n"
        "slots = reader._slots; view = reader._view.words; records = reader.poll().records"
    ),
    "closed reader with an array alive": (
        "from ringbuf import RingReader\nreader = RingReader.attach('engine', data_dir)\n"
        "slots = reader._slots; reader.close()"
    ),
    "text reader": (
        "from ringbuf import TextReader\nreader = TextReader.attach('engine', data_dir)\n"
        "reader.poll()"
    ),
    "in a cycle": "loop = [recorder, metric]; loop.append(loop); del recorder, metric",
    "by sys.exit": "sys.exit(0)",
    "recording at exit": "import atexit\natexit.register(metric.record, 5.0)",
    "recording in a daemon thread": (
        "import threading, time\n"
        "def work():\n    while True: metric.record(1.0)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.05)"
    ),
    "released in the middle": "recorder._rings.records.words.release(); metric.record(1.0)",
}


@pytest.mark.parametrize("how", LEAVING)
def test_interpreter_exit_is_silent(how: str, script: Script) -> None:
    """Exit code 0, empty stderr, no hang, whatever is still alive."""
    result = script(
        "from ringbuf import Recorder\n"
        "recorder = Recorder('engine', data_dir, capacity=1024, threads='thread' in arguments[0])\n"
        "metric = recorder.metric('x')\nmetric.record(1.0)\n"
        "recorder.emit_alert('rule', 'info')\n" + LEAVING[how],
        how,
        options=("-X", "dev"),
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_exit_during_import_is_silent(script: Script) -> None:
    """Somebody pressed Ctrl-C early."""
    result = script("import ringbuf.recorder, ringbuf.segment\nraise SystemExit(0)")
    assert (result.returncode, result.stderr) == (0, "")


def modules(script: Script, code: str) -> set[str]:
    """Top-level packages with a file that *code* loads beyond the standard library."""
    result = script(
        "before = set(sys.modules)\n"
        + code
        + "\nprint(*{name.split('.')[0] for name in set(sys.modules) - before"
        " if getattr(sys.modules[name], '__file__', None)})"
    )
    assert (result.returncode, result.stderr) == (0, "")
    return set(result.stdout.split())


def test_recording_loads_only_the_standard_library_and_msgpack(script: Script) -> None:
    """An engine whose broker SDK pins other versions can embed the recorder."""
    loaded = modules(
        script,
        "import ringbuf\nfrom ringbuf import Recorder\n"
        "with Recorder('engine', data_dir) as recorder:\n"
        "    recorder.metric('x').record(1.0); recorder.emit_alert('rule', 'info')\n",
    )
    assert loaded - sys.stdlib_module_names == {"ringbuf", "msgpack"}


def test_importing_ringbuf_loads_nothing_yet(script: Script) -> None:
    """Not even msgpack: names are found on first use."""
    assert modules(script, "import ringbuf") - sys.stdlib_module_names == {"ringbuf"}


def test_survey_and_texts_load_neither_numpy_nor_multiprocessing(script: Script) -> None:
    """``status`` starts in a fraction of a second."""
    loaded = modules(
        script,
        "from ringbuf.survey import survey, marks\nfrom ringbuf import TextReader, RingMissing\n"
        "survey(data_dir); marks(data_dir)\n"
        "try:\n    TextReader.attach('engine', data_dir, timeout_s=0)\n"
        "except RingMissing:\n    pass",
    )
    assert not loaded & {"numpy", "multiprocessing"}
    assert loaded - sys.stdlib_module_names == {"ringbuf", "msgpack"}


def test_a_reader_adds_numpy_and_nothing_else(recorder: Recorder, script: Script) -> None:
    """And still no multiprocessing."""
    loaded = modules(
        script, "from ringbuf import RingReader\nRingReader.attach('engine', data_dir).close()"
    )
    assert "multiprocessing" not in loaded
    ours = loaded - sys.stdlib_module_names
    assert {"ringbuf", "numpy", "msgpack"} <= ours
    assert not ours & {"requests", "watchdog", "docopt", "pydantic", "rich", "aggregator"}


def test_the_recorder_works_where_nothing_but_msgpack_is_installed(script: Script) -> None:
    """What ``pip install --no-deps tickwatch msgpack`` gives."""
    result = script("""
import importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("ringbuf", "msgpack"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from ringbuf import Recorder, TextReader, WriterBusy
from ringbuf.survey import survey
with Recorder("engine", data_dir) as recorder:
    assert recorder.problem is None
    recorder.metric("x", unit="ms").record(1.0)
    recorder.emit_alert("rule", "info", "words")
assert survey(data_dir)[0].published == 1
assert TextReader.attach("engine", data_dir).poll().texts[0].message == "words"
try:
    from ringbuf import RingReader
except ModuleNotFoundError as problem:
    assert problem.name == "numpy"
else:
    raise AssertionError("numpy was there")
""")
    assert (result.returncode, result.stderr) == (0, "")


def test_public_names_are_listed_and_others_are_refused() -> None:
    """``dir`` shows what can be imported."""
    import ringbuf

    assert set(ringbuf.__all__) <= set(dir(ringbuf))
    for name in ringbuf.__all__:
        assert getattr(ringbuf, name).__module__.startswith("ringbuf.")
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        ringbuf.Manager  # noqa: B018


def test_other_shared_memory_of_the_engine_is_tracked_as_always(script: Script) -> None:
    """Also of another thread, in the very moment in which a ring is made."""
    result = script("""
import threading
from multiprocessing import resource_tracker, shared_memory
from ringbuf import Recorder, segment
seen = []
register = resource_tracker.register
resource_tracker.register = lambda name, kind: (seen.append(name), register(name, kind))
fallback = segment.resource_tracker
theirs = []
stop = threading.Event()
def make():
    while not stop.is_set():
        memory = shared_memory.SharedMemory(create=True, size=64)
        theirs.append(memory._name)
        memory.close(); memory.unlink()
thread = threading.Thread(target=make)
thread.start()
for number in range(20):
    Recorder(f"engine{number}", data_dir, capacity=16).close()
stop.set(); thread.join()
assert seen == theirs, (len(seen), len(theirs))
assert shared_memory.resource_tracker is resource_tracker
""")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_closed_segment_says_so(recorder: Recorder) -> None:
    """Whoever still holds the object gets a plain error."""
    assert recorder._rings is not None
    mapped = segment.attach(recorder._rings.pair.segment)
    mapped.close()
    mapped.close()
    with pytest.raises(ValueError, match="closed"):
        mapped.memory  # noqa: B018
    assert not segment.remove("tickwatch-of-nobody")
