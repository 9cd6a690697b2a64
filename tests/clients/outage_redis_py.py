"""redis-py with its defaults reads through an outage: what its callers see, and how often it dials.

Takes the proxy's URL. Readers of the synchronous client share a pool, as threads of an app do; others run in asyncio.
They go on until they are told to end. Commands come on stdin, one a line, and each is answered by a line of JSON with the
counts so far:

`count`  nothing else
`new`    two more clients, one of either kind, connect now, and read from now on like the others
`end`    everybody has stopped

The server must hold what `TRUTHS` says, or nothing.
"""

import asyncio
import collections
import json
import sys
import threading
from urllib.parse import urlsplit

import redis
import redis.asyncio

THREADS = 4
# Seconds between two reads of one reader.
PACE = 0.002

# Each entry: the call, what it gives while Redis serves, and what it gives when Redis is empty (a tuple: one of these, as when
# an outage begins or ends in its midst).
TRUTHS = [
    (lambda client: client.get("s"), b"value", None),
    (lambda client: client.mget("s", "none"), [b"value", None], [None, None]),
    (lambda client: client.hgetall("h"), {b"f": b"v"}, {}),
    (lambda client: client.lrange("l", 0, -1), [b"a", b"b"], []),
    (lambda client: client.exists("s", "none"), 1, 0),
    (lambda client: client.smembers("t"), {b"7"}, set()),
    (lambda client: client.zrange("z", 0, -1, withscores=True), [[b"m", 1.5]], []),
    (
        lambda client: client.pipeline(transaction=False).get("s").hget("h", "f").execute(),
        [b"value", b"v"],
        ([None, None], [b"value", None], [None, b"v"]),
    ),
]

counts = collections.Counter()
counting = threading.Lock()
over = threading.Event()
# Connects to the proxy, counted below the library: a silent reconnect is seen as well as a reported one.
dials = collections.Counter()


def count_dial(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        dials[arguments[1][1]] += 1


def note(what):
    with counting:
        counts[what] += 1


def judge(reply, truth, empty):
    """Counts one reply; returns what it was."""
    # Whether pairs are tuples depends on the protocol.
    shaped = [list(member) if isinstance(member, tuple) else member for member in reply] if isinstance(reply, list) else reply
    empties = empty if isinstance(empty, tuple) else (empty,)
    kind = "truths" if shaped == truth else "empties" if shaped in empties else "wrong"
    if kind == "wrong":
        print(f"wrong: {reply!r} for {truth!r}", flush=True)
    note(kind)
    return kind


def failed(error):
    print(f"error: {type(error).__name__}: {error}", flush=True)
    note("errors")


def read_on(client, first=lambda kind: None):
    """Reads until all is over; tells `first` what the first reply was."""
    for number in range(sys.maxsize):
        if over.wait(PACE):
            return
        call, truth, empty = TRUTHS[number % len(TRUTHS)]
        # Whatever is raised is what the app would see: it is counted, and the next read goes on.
        try:
            kind = judge(call(client), truth, empty)
        except Exception as error:  # noqa: BLE001
            kind = failed(error)
        if number == 0:
            first(kind)


async def read_on_async(client, first=lambda kind: None):
    """The same in asyncio."""
    for number in range(sys.maxsize):
        await asyncio.sleep(PACE)
        if over.is_set():
            return
        call, truth, empty = TRUTHS[number % len(TRUTHS)]
        try:
            kind = judge(await call(client), truth, empty)
        except Exception as error:  # noqa: BLE001
            kind = failed(error)
        if number == 0:
            first(kind)


class Readers:
    """All readers of all clients."""

    def __init__(self, url):
        self.url = url
        self.threads = []
        self.tasks = []
        self.pools = []
        self.async_pools = []
        self.loop = asyncio.new_event_loop()
        self.looping = threading.Thread(target=self.loop.run_forever)
        self.looping.start()

    def start(self, count, first=lambda kind: None):
        """A client of either kind with so many readers."""
        client = redis.Redis.from_url(self.url)
        self.pools.append(client.connection_pool)
        for _ in range(count):
            thread = threading.Thread(target=read_on, args=(client, first))
            thread.start()
            self.threads.append(thread)
        client = redis.asyncio.Redis.from_url(self.url)
        self.async_pools.append(client.connection_pool)
        for _ in range(count):
            self.tasks.append(asyncio.run_coroutine_threadsafe(read_on_async(client, first), self.loop))

    def start_new(self):
        """One more client of either kind; returns once both have their first reply."""
        seen = collections.Counter()
        both = threading.Semaphore(0)

        def first(kind):
            seen[kind] += 1
            both.release()

        self.start(1, first)
        for _ in range(2):
            both.acquire()
        counts["new"] += 2
        counts["new_empties"] += seen["empties"]

    def end(self):
        """Stops everybody; counts the dials that no connection of a pool explains."""
        over.set()
        for thread in self.threads:
            thread.join()
        for task in self.tasks:
            task.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.looping.join()
        made = sum(pool._created_connections for pool in self.pools)
        for pool in self.async_pools:
            made += len(pool._available_connections) + len(pool._in_use_connections)
        counts["connections"] = made
        counts["reconnects"] = dials[urlsplit(self.url).port] - made


def main(url):
    sys.addaudithook(count_dial)
    readers = Readers(url)
    readers.start(THREADS)
    for line in sys.stdin:
        command = line.strip()
        if command == "new":
            readers.start_new()
        elif command == "end":
            readers.end()
        with counting:
            print(json.dumps(counts), flush=True)
        if command == "end":
            return
    # Nobody will tell us to end any more.
    readers.end()


if __name__ == "__main__":
    main(sys.argv[1])
