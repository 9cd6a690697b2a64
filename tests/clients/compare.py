"""Runs the same scenarios on two servers and compares what the library handed out.

A scenario group is a function `group(url, log)`. It runs once on the direct URL and once on the URL
that leads through the proxy, each with a fresh server behind it, and writes what it saw to `log`.
The two logs must be equal, type for type, and no group may dial more often than it says it does.

What cannot be equal on two servers is put into a comparable shape where it is recorded, never later:

`unordered`   order of sets, hashes and scans: it follows the hash seed, which each server process draws anew.
`lifetime`    a TTL: some of it passes between the two commands.
`kind`        only the type: the clock, and ids and counters that a server chooses.
`without`     the named fields of a map are left out: ids, idle times.
`only`        the named fields of a map are kept: those of CLIENT INFO and INFO that describe neither
              an address, nor a time, nor the load of one server.
"""

import collections
import difflib
import faulthandler
import hashlib
import os
import sys
import time
import traceback
from urllib.parse import urlsplit

# As a number of connections: the group expects to be cut off and to dial again.
ANY = float("inf")
# The longest that a group may take, and the longest that it may wait for one thing, in seconds; both are far more
# than usual.
GROUP_LIMIT = 60
PATIENCE = 30

_dials = collections.Counter()


def _count_dial(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _dials[arguments[1][1]] += 1


# Counts below the libraries, so that it sees a silent reconnect as well as a reported one.
sys.addaudithook(_count_dial)


def unordered(value):
    """The members of a collection in the order of their text."""
    if isinstance(value, dict):
        return dict(sorted(value.items(), key=repr))
    if isinstance(value, (list, set, tuple)):
        return sorted(value, key=repr)
    return value


def lifetime(whole):
    """A shape for a TTL that started as `whole`, in whichever unit: up to a fiftieth may have passed."""

    def shape(value):
        in_range = isinstance(value, int) and whole * 0.98 <= value <= whole
        return f"about {whole}" if in_range else value

    return shape


def kind(value):
    """The type of the value, with the kinds of its members if it has any."""
    if isinstance(value, (list, tuple)):
        return [kind(member) for member in value]
    return type(value).__name__


def without(*fields):
    """A shape that leaves the named fields out of a map, or out of each map in a list."""

    def shape(value):
        if isinstance(value, list):
            return [shape(member) for member in value]
        if isinstance(value, dict):
            return {name: shape(field) for name, field in value.items() if _text(name) not in fields}
        return value

    return shape


def only(*fields):
    """A shape that keeps the named fields of a map."""

    def shape(value):
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in sorted(value.items(), key=repr) if _text(name) in fields}

    return shape


def until(what, condition, patience=PATIENCE):
    """Waits until `condition` gives something true, and returns that; says what it waited for when it gives up."""
    deadline = time.monotonic() + patience
    while not (met := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up waiting until {what}")
        time.sleep(0.005)
    return met


def blocked_clients(client, count):
    """Waits until the server says that so many clients are blocked."""
    until(f"{count} are blocked", lambda: client.info("clients")["blocked_clients"] == count)


def digest(values):
    """A name for large values, short enough to print."""
    summary = hashlib.sha256()
    for value in values:
        summary.update(repr(value).encode())
    return f"{len(values)} values, {summary.hexdigest()}"


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


class Log:
    """What one run of a group saw, one line of text per reply; `side` is "direct" or "through"."""

    def __init__(self, side):
        self.side = side
        self.lines = []
        self.connections = 0

    def dials(self, connections):
        """Announces that the group means to make so many more connections."""
        self.connections = (self.connections or 0) + connections

    def dials_as_often(self):
        """Leaves it to the library how often it dials: that must only be equally often on both sides."""
        self.connections = None

    def record(self, label, value, shape=None):
        """Notes a reply, or the error that came instead of one."""
        if isinstance(value, Exception):
            value = f"{type(value).__module__}.{type(value).__name__}: {value}"
        elif shape is not None:
            value = shape(value)
        self.lines.append(f"{label} -> {value!r}")


def run(groups, direct, through):
    """Runs every group on both sides, prints a line for each, and returns how many differed."""
    failures = 0
    for name, group in groups:
        problems, replies = _compare(group, direct, through)
        print(f"{'FAILED' if problems else 'ok'} {name} ({replies} replies)", flush=True)
        for problem in problems:
            print(f"  {problem}", flush=True)
        failures += bool(problems)
    return failures


def _compare(group, direct, through):
    problems, logs = [], []
    for side, url in (("direct", direct), ("through", through)):
        log, port = Log(side), urlsplit(url).port
        before = _dials[port]
        # What has come to a standstill is shown, and ends the run.
        faulthandler.dump_traceback_later(GROUP_LIMIT, exit=True)
        # A group that raises is a difference to be shown like any other, not the end of the run.
        try:
            group(url, log)
        except Exception as error:  # noqa: BLE001
            log.record("group ended with", error)
            problems.append(f"{side}: {log.lines[-1]} at {_last_line(error)}")
        faulthandler.cancel_dump_traceback_later()
        dialled = _dials[port] - before
        if log.connections is None:
            log.record("dials", dialled)
        elif dialled != log.connections and log.connections != ANY and not problems:
            problems.append(f"{side}: {dialled} dials for {log.connections} connections: it reconnected")
        logs.append(log.lines)
    problems.extend(_difference(*logs))
    return problems, len(logs[0])


def _last_line(error):
    """Where in the scenarios the error came up."""
    script = os.path.basename(sys.argv[0])
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(script)]
    return f"line {ours[-1].lineno}" if ours else "an unknown line"


def _difference(direct, through):
    lines = difflib.unified_diff(direct, through, "direct", "through", lineterm="", n=1)
    return [line if len(line) <= 400 else f"{line[:400]}… ({len(line)} characters)" for line in lines]


def main(groups):
    """Takes the two URLs, and the names of groups if not all are meant, from the command line; exits with 1 if anything differed."""
    names = set(sys.argv[3:])
    chosen = [group for group in groups if not names or group[0] in names]
    if len(sys.argv) < 3 or len(chosen) < len(names):
        sys.exit(f"usage: {sys.argv[0]} DIRECT_URL THROUGH_URL [GROUP…]")
    sys.exit(1 if run(chosen, sys.argv[1], sys.argv[2]) else 0)
