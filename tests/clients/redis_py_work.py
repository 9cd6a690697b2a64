"""redis-py at work that needs more than a shared connection, in RESP3 (the default) and RESP2.

Locks, transactions, WATCH, publish and subscribe, blocking commands, MONITOR, the cache in the client; by threads that
share a pool, and by asyncio tasks.
"""

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from redis.keyspace_notifications import KeyspaceChannel, KeyspaceNotifications
from redis.retry import Retry

from compare import ANY, blocked_clients, digest, main, until

BINARY = bytes(range(256)) + b"\r\n$-1\r\n"
MANY = 1_500


class Clients:
    """The clients of one scenario, which are closed with it."""

    def __init__(self, url, log, protocol):
        self.url, self.log, self.protocol = url, log, protocol
        self.pools = []
        log.dials_as_often()

    def ready(self, **options):
        """A client with a pool of its own."""
        return self._kept(redis.Redis.from_url(self.url, **self._all(options)))

    def shared(self, connections):
        """A client for threads: its pool lends so many connections at most, and lets them wait for one.

        How many it comes to make is left to chance, so that it is not counted; but a connection that is lost shows,
        since nothing is tried again.
        """
        self.log.dials(ANY)
        pool = redis.BlockingConnectionPool.from_url(
            self.url, max_connections=connections, timeout=20, retry=Retry(NoBackoff(), 0), **self._all({})
        )
        return self._kept(redis.Redis(connection_pool=pool))

    def asynchronous(self, **options):
        """A client for asyncio, which the scenario closes itself."""
        return redis.asyncio.Redis.from_url(self.url, **self._all(options))

    def close(self):
        for pool in self.pools:
            pool.disconnect()

    def _all(self, options):
        return {"protocol": self.protocol, "decode_responses": True, **options}

    def _kept(self, client):
        self.pools.append(client.connection_pool)
        return client


def scenario(name, body, protocols=(3, 2)):
    """The scenario in these protocols; its keys begin with its name."""

    def bound(protocol):
        def group(url, log):
            clients = Clients(url, log, protocol)
            try:
                body(clients, log, lambda suffix: f"{protocol}:{name}:{suffix}")
            finally:
                clients.close()

        return group

    return [(f"{name}, RESP{protocol}", bound(protocol)) for protocol in protocols]


def attempt(call, *arguments, **named):
    """What a call returns, or the error that it raises."""
    try:
        return call(*arguments, **named)
    except redis.RedisError as error:
        return error


def at_once(count, work):
    """Runs `work(0)` to `work(count - 1)` in threads of their own and returns what they return."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def meanwhile(call, *arguments, **named):
    """Runs a call in a thread; the function that is returned waits for what it comes to."""
    threads = ThreadPoolExecutor(1)
    future = threads.submit(attempt, call, *arguments, **named)
    threads.shutdown(wait=False)
    return future.result


def errors_as_text(replies):
    """Replies of a pipeline, whose errors are not equal to each other otherwise."""
    return [f"{type(reply).__name__}: {reply}" if isinstance(reply, Exception) else reply for reply in replies]


# --- Transactions -------------------------------------------------------------------------------------------


def transactions(clients, log, key):
    client = clients.ready()
    text, items, number = key("text"), key("items"), key("number")
    with client.pipeline() as pipe:
        log.record("exec", pipe.set(text, "v").rpush(items, "a", "b").lrange(items, 0, -1).incr(number).get(text).execute())
        log.record("nothing", pipe.execute())
        log.record("a hash and scores", pipe.hset(key("h"), "a", 1).hgetall(key("h")).zadd(key("z"), {"m": 1.5}).zscore(key("z"), "m").zrange(key("z"), 0, -1, withscores=True).execute())
        pipe.set(text, "w").incr(text).get(text)
        log.record("an error inside", errors_as_text(pipe.execute(raise_on_error=False)))
        log.record("raised", attempt(pipe.set(text, "x").incr(text).execute))
        log.record("a wrong one", attempt(pipe.set(text, "lost").execute_command("GET").execute))
        log.record("an unknown one", attempt(pipe.execute_command("NONSENSE", "a").execute))
        log.record("nothing of it was done", client.get(text))
        pipe.set(text, "never sent")
        pipe.reset()
        log.record("taken back", client.get(text))
    with client.pipeline(transaction=False) as pipe:
        log.record("without a transaction", pipe.set(text, "y").get(text).execute())
    with clients.ready(single_connection_client=True) as bare:
        steps = [bare.execute_command("MULTI"), bare.execute_command("SET", text, "in steps")]
        log.record("step by step", [*steps, bare.execute_command("EXEC")])
        log.record("EXEC alone", attempt(bare.execute_command, "EXEC"))
        log.record("DISCARD alone", attempt(bare.execute_command, "DISCARD"))


def large_transactions(clients, log, key):
    """Blocks of many commands, and of large values."""
    client = clients.ready()
    with client.pipeline() as pipe:
        for at in range(MANY):
            pipe.rpush(key("items"), at)
        log.record("many commands", digest(pipe.execute()))
        for at in range(5):
            pipe.set(key(at), f"{at}" + "0123456789" * 40_000).strlen(key(at)).get(key(at))
        log.record("large values", digest(pipe.execute()))


def consistency(clients, log, key):
    """Money is moved by threads that share a pool; whoever looks in one transaction sees all of it."""
    client = clients.shared(6)
    rich, poor = key("rich"), key("poor")
    client.mset({rich: 10_000, poor: 0})

    def work(thread):
        seen = set()
        for _ in range(20):
            with client.pipeline() as pipe:
                if thread:
                    pipe.decrby(rich, thread).incrby(poor, thread).execute()
                else:
                    seen.add(sum(int(amount) for amount in pipe.get(rich).get(poor).execute()))
        return sorted(seen)

    log.record("sums seen", at_once(9, work))
    log.record("in the end", client.mget(rich, poor))


def watching(clients, log, key):
    client, other = clients.ready(), clients.ready()
    watched, second = key("watched"), key("second")
    with client.pipeline() as pipe:
        pipe.watch(watched, second)
        log.record("read at once", pipe.get(watched))
        pipe.multi()
        log.record("undisturbed", pipe.set(watched, 1).get(watched).execute())
        pipe.watch(watched)
        other.set(watched, "changed")
        pipe.multi()
        log.record("disturbed", attempt(pipe.set(watched, 2).execute))
        log.record("once only", pipe.get(watched).execute())
        pipe.watch(watched)
        pipe.unwatch()
        other.set(watched, "again")
        pipe.multi()
        log.record("after unwatch", pipe.get(watched).execute())
        pipe.watch(watched)
        pipe.reset()
        other.set(watched, "yet again")
        log.record("after reset", pipe.get(watched).execute())
        pipe.watch(watched)
        client.set(watched, "by another of its pool")
        pipe.multi()
        log.record("disturbed by its own", attempt(pipe.get(watched).execute))
        pipe.watch(key("missing"))
        other.rpush(key("missing"), "appeared")
        pipe.multi()
        log.record("it appeared", attempt(pipe.llen(key("missing")).execute))
        pipe.watch(key("brief"))
        pipe.multi()
        log.record("an error inside", errors_as_text(pipe.incr(watched).set(watched, "end").execute(raise_on_error=False)))


def optimistic_counter(clients, log, key):
    """The helper that watches, reads and writes, again and again until nobody has interfered."""
    client = clients.shared(6)
    counter = key("counter")

    def raised(pipe):
        value = int(pipe.get(counter) or 0)
        pipe.multi()
        pipe.set(counter, value + 1)

    log.record("replies", at_once(6, lambda _: [client.transaction(raised, counter) for _ in range(8)]))
    log.record("counted", client.get(counter))
    log.record("a value", client.transaction(lambda pipe: pipe.get(counter), counter, value_from_callable=True))


def scripts(clients, log, key):
    client = clients.ready()
    move = client.register_script(
        "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v .. ARGV[1]) end return v"
    )
    keys = [key("from"), key("to")]
    client.rpush(keys[0], "a", "b", "c", "d")
    log.record("script", [move(keys=keys, args=["!"]), move(keys=keys, args=["?"])])
    for _ in range(2):
        with client.pipeline() as pipe:
            move(keys=keys, args=["."], client=pipe)
            log.record("in a transaction", pipe.lrange(keys[1], 0, -1).execute())
        client.script_flush()
    client.function_load(
        "#!lua name=work\nredis.register_function('push', function(k, a) return redis.call('RPUSH', k[1], a[1]) end)",
        replace=True,
    )
    with client.pipeline() as pipe:
        log.record("function", pipe.fcall("push", 1, keys[1], "f").fcall("push", 1, keys[1], "g").execute())


# --- Locks --------------------------------------------------------------------------------------------------


def one_lock(clients, log, key):
    client = clients.ready()
    lock = client.lock(key("lock"), timeout=30)
    log.record("acquired", lock.acquire())
    log.record("locked, owned", (lock.locked(), lock.owned()))
    other = client.lock(key("lock"), timeout=30, blocking=False)
    log.record("another at once", other.acquire())
    log.record("another in time", other.acquire(blocking=True, blocking_timeout=0.05))
    log.record("another releases", attempt(other.release))
    log.record("extended", lock.extend(10))
    log.record("it lasts longer", client.pttl(key("lock")) > 35_000)
    log.record("extended to", lock.extend(60, replace_ttl=True))
    log.record("reacquired", lock.reacquire())
    log.record("it lasts as at first", 25_000 < client.pttl(key("lock")) <= 30_000)
    log.record("released", lock.release())
    log.record("released again", attempt(lock.release))
    log.record("extended when free", attempt(lock.extend, 1))
    with client.lock(key("lock"), timeout=30) as held:
        log.record("in a block", (held.owned(), client.exists(key("lock"))))
    log.record("after it", client.exists(key("lock")))
    brief = client.lock(key("brief"), timeout=0.02)
    brief.acquire()
    until("it has expired", lambda: not brief.locked())
    log.record("expired", attempt(brief.release))
    log.record("reacquired too late", attempt(brief.reacquire))
    taken = client.lock(key("taken"), timeout=30)
    taken.acquire(token="a token")
    log.record("stored", client.get(key("taken")))
    client.set(key("taken"), "someone else's")
    log.record("stolen", attempt(taken.release))


def lock_contention(clients, log, key):
    """What threads do under a lock, none other does in between."""
    client = clients.shared(8)

    def work(_):
        for _ in range(8):
            with client.lock(key("lock"), timeout=30, sleep=0.001, blocking_timeout=20):
                client.set(key("counter"), int(client.get(key("counter")) or 0) + 1)

    at_once(6, work)
    log.record("counted", client.get(key("counter")))
    log.record("free in the end", client.exists(key("lock")))


def waiting_for_a_lock(clients, log, key):
    client = clients.shared(2)
    held = client.lock(key("lock"), timeout=30)
    held.acquire()
    waiter = client.lock(key("lock"), timeout=30, sleep=0.005, thread_local=False)
    waited = meanwhile(waiter.acquire, blocking_timeout=20)
    log.record("it waits", client.get(key("lock")) is not None)
    held.release()
    log.record("it has it", waited())
    log.record("owned", waiter.owned())
    waiter.release()


# --- Publish and subscribe ----------------------------------------------------------------------------------


def messages(pubsub, count, **options):
    """So many messages, however long each takes to come."""
    found = []
    while len(found) < count:
        message = pubsub.get_message(timeout=20, **options)
        if message is None and not options:
            raise TimeoutError(f"{len(found)} of {count} messages came: {found}")
        if message is not None:
            found.append(message)
    return found


def channels(clients, log, key):
    client = clients.ready()
    one, two = key("one"), key("two")
    with client.pubsub() as pubsub:
        pubsub.subscribe(one, two)
        pubsub.psubscribe(key("t*"))
        log.record("confirmed", messages(pubsub, 3))
        for at in range(20):
            client.publish(two if at % 2 else one, f"message {at}")
        log.record("someone heard it", client.publish(one, "last") > 0)
        log.record("nobody heard it", client.publish(key("nobody"), "lost"))
        heard = messages(pubsub, 20 + 10 + 1)
        # A message that two subscriptions match comes twice, and which comes first is the server's choice.
        log.record("messages", [message for message in heard if message["type"] == "message"])
        log.record("by the pattern", [message for message in heard if message["type"] == "pmessage"])
        log.record("nothing more", pubsub.get_message(timeout=0.01))
        pubsub.ping()
        log.record("pong", messages(pubsub, 1))
        log.record("known channels", sorted(client.pubsub_channels(key("*"))))
        pubsub.unsubscribe(one)
        pubsub.unsubscribe(key("never"))
        log.record("unsubscribed", messages(pubsub, 2))
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        log.record("unsubscribed from all", messages(pubsub, 2))
        log.record("subscribed", pubsub.subscribed)
        pubsub.subscribe(one)
        client.publish(one, "welcome back")
        log.record("again", messages(pubsub, 2))
    until("it is gone", lambda: client.pubsub_channels(key("*")) == [])


def handlers(clients, log, key):
    """Messages are handed to functions, by a thread that the library runs."""
    client = clients.ready()
    heard = {"channel": [], "pattern": []}
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(**{key("channel"): lambda message: heard["channel"].append(message["data"])})
    pubsub.psubscribe(**{key("p*"): lambda message: heard["pattern"].append((message["channel"], message["data"]))})
    thread = pubsub.run_in_thread(sleep_time=0.01)
    until("it is subscribed", lambda: client.pubsub_channels(key("channel")))
    until("to the pattern too", lambda: client.publish(key("probe"), "probe") > 0)
    for at in range(30):
        client.publish(key("channel"), f"message {at}")
        client.publish(key(f"p{at % 3}"), f"message {at}")
    until("all is heard", lambda: len(heard["channel"]) == 30 and len(heard["pattern"]) >= 30)
    thread.stop()
    thread.join()
    log.record("on the channel", heard["channel"])
    log.record("on the pattern", [told for told in heard["pattern"] if told[1] != "probe"])


def sharded_channels(clients, log, key):
    client = clients.ready()
    with client.pubsub() as pubsub:
        pubsub.ssubscribe(key("{tag}"))
        log.record("confirmed", messages(pubsub, 1))
        for at in range(10):
            client.spublish(key("{tag}"), f"message {at}")
        log.record("heard", messages(pubsub, 10))
        log.record("known", client.pubsub_shardchannels(key("*")))
        pubsub.sunsubscribe()
        log.record("unsubscribed", messages(pubsub, 1))


def chat_room(clients, log, key):
    """Each of several subscribers hears each of several publishers in order."""
    client = clients.shared(8)
    subscribers = [client.pubsub(ignore_subscribe_messages=True) for _ in range(3)]
    for pubsub in subscribers:
        pubsub.subscribe(key("room"))
        # The confirmation is read, and hidden.
        log.record("a confirmation", pubsub.get_message(timeout=20))
    hearing = [meanwhile(messages, pubsub, 200, ignore_subscribe_messages=True) for pubsub in subscribers]
    at_once(4, lambda name: [client.publish(key("room"), f"{name} {at}") for at in range(50)] and None)
    for heard in hearing:
        told = [message["data"] for message in heard()]
        log.record("heard", [[text for text in told if text.startswith(f"{name} ")] for name in range(4)])
    for pubsub in subscribers:
        pubsub.close()


def keyspace_events(clients, log, key):
    """What happens to keys is told on channels; read as such, and by the library's own class for it."""
    client = clients.ready()
    client.config_set("notify-keyspace-events", "KEA")
    notifications = KeyspaceNotifications(client)
    notifications.subscribe(KeyspaceChannel(key("*")))
    with client.pubsub() as pubsub:
        pubsub.psubscribe(f"__keyspace@0__:{key('*')}")
        messages(pubsub, 1)
        until("the library's class hears too", lambda: _probed(client, notifications, key))
        client.set(key("a"), 1)
        client.pipeline().incr(key("a")).expire(key("a"), 100).execute()
        client.set(key("brief"), "v", px=20)
        until("it has expired", lambda: not client.exists(key("brief")))
        client.unlink(key("a"))
        told = []
        while not told or told[-1] != (key("a"), "del"):
            message = messages(pubsub, 1)[0]
            told.append((message["channel"].split(":", 1)[1], message["data"]))
        log.record("told", [event for event in told if event[0] != key("probe")])
    seen = []
    while not seen or seen[-1] != (key("a"), "del"):
        event = notifications.get_message(timeout=20)
        seen.append((event.key, event.event_type))
    log.record("told by the class", [event for event in seen if event[0] != key("probe")])
    notifications.close()
    client.config_set("notify-keyspace-events", "")


def _probed(client, notifications, key):
    client.set(key("probe"), 1)
    return notifications.get_message(timeout=0.1)


# --- Blocking -----------------------------------------------------------------------------------------------


def blocking(clients, log, key):
    client = clients.ready()
    items, other, scores, stream = key("items"), key("other"), key("scores"), key("stream")
    blocked_clients(client, 0)

    def served(label, serve, call, *arguments, **named):
        waited = meanwhile(call, *arguments, **named)
        blocked_clients(client, 1)
        serve()
        log.record(label, waited())

    client.rpush(items, "ready")
    log.record("nothing to wait for", client.blpop(items, timeout=1))
    log.record("too late", client.blpop(items, timeout=0.02))
    served("blpop", lambda: client.rpush(items, "a", "b"), client.blpop, [other, items], timeout=4)
    client.delete(items)
    served("brpop", lambda: client.rpush(items, "a", "b"), client.brpop, items, timeout=0)
    client.delete(items)
    served("blmove", lambda: client.rpush(items, "moved"), client.blmove, items, other, 4, "LEFT", "RIGHT")
    served("brpoplpush", lambda: client.rpush(items, "moved too"), client.brpoplpush, items, other, 4)
    log.record("moved", client.lrange(other, 0, -1))
    served("blmpop", lambda: client.rpush(items, "x", "y", "z"), client.blmpop, 4, 1, items, direction="LEFT", count=2)
    served("bzpopmin", lambda: client.zadd(scores, {"b": 2, "a": 1.5}), client.bzpopmin, scores, timeout=4)
    client.delete(scores)
    served("bzpopmax", lambda: client.zadd(scores, {"b": 2, "a": 1.5}), client.bzpopmax, scores, timeout=4)
    client.delete(scores)
    client.delete(scores)
    served("bzmpop", lambda: client.zadd(scores, {"c": 3, "d": 4}), client.bzmpop, 4, 1, [scores], max=True)
    served("xread", lambda: client.xadd(stream, {"f": "v"}, id="1-1"), client.xread, {stream: "$"}, block=4_000)
    log.record("nothing more", client.xread({stream: "$"}, block=10))
    log.record("of a wrong kind", attempt(client.blpop, stream, timeout=1))
    with client.pipeline() as pipe:
        log.record("does not wait in a transaction", pipe.blpop(key("none"), 0).xread({stream: "$"}, block=0).execute())


def consumers(clients, log, key):
    """Several consumers of one list: each element goes to one of them."""
    client = clients.shared(8)

    def consume(_):
        got = []
        while (job := client.brpop(key("jobs"), timeout=4)[1]) != "stop":
            got.append(int(job))
            client.pipeline().incr(key("done")).sadd(key("names"), job).execute()
        return got

    producing = meanwhile(lambda: [client.lpush(key("jobs"), job) for job in [*range(200), *["stop"] * 6]] and None)
    done = at_once(6, consume)
    producing()
    log.record("done, each once", sorted(itertools.chain(*done)))
    log.record("counted", (client.get(key("done")), client.scard(key("names"))))


def streams(clients, log, key):
    """Several consumers of one group: each entry goes to one of them, and what one leaves another claims."""
    client = clients.shared(6)
    stream = key("stream")
    client.xgroup_create(stream, "group", id="$", mkstream=True)

    def consume(consumer):
        got = []
        while True:
            read = client.xreadgroup("group", f"consumer {consumer}", {stream: ">"}, count=1, block=4_000)
            entries = read[stream][0] if isinstance(read, dict) else read[0][1]
            for entry, fields in entries:
                client.xack(stream, "group", entry)
                if fields["f"] == "stop":
                    return got
                got.append(int(fields["f"]))

    producing = meanwhile(lambda: [client.xadd(stream, {"f": job}) for job in [*range(100), *["stop"] * 4]] and None)
    done = at_once(4, consume)
    producing()
    log.record("done, each once", sorted(itertools.chain(*done)))
    log.record("pending", client.xpending(stream, "group"))
    client.xadd(stream, {"f": "left"}, id="99999999999999-1")
    client.xreadgroup("group", "leaver", {stream: ">"})
    log.record("claimed", client.xautoclaim(stream, "group", "heir", 0))


def by_id(clients, log, key):
    """A client that waits is let go by another."""
    client, waiting = clients.ready(), clients.ready(single_connection_client=True)
    identity = waiting.client_id()
    log.record("not blocked", client.client_unblock(identity))
    blocked_clients(client, 0)
    for error in (False, True):
        waited = meanwhile(waiting.blpop, key("items"), timeout=0)
        blocked_clients(client, 1)
        log.record("unblocked", client.client_unblock(identity, error=error))
        log.record("it got", waited())


def one_pool_for_all(clients, log, key):
    """Threads that share a pool, each at another kind of work."""
    client = clients.shared(10)

    def work(thread):
        replies = []
        for at in range(15):
            name = key(f"{thread}:{at}")
            match thread % 5:
                case 0:
                    replies.append((client.set(name, at), client.get(name)))
                case 1:
                    replies.append(client.pipeline().set(name, at).incr(name).get(name).execute())
                case 2:
                    client.rpush(name, at)
                    replies.append((client.blpop(name, timeout=1), client.blpop(name, timeout=0.01)))
                case 3:
                    replies.append(client.transaction(lambda pipe: _doubled(pipe, name), name))
                case 4:
                    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                        pubsub.subscribe(name)
                        pubsub.get_message(timeout=20)
                        client.publish(name, at)
                        replies.append(messages(pubsub, 1)[0]["data"])
        return replies

    for thread, replies in enumerate(at_once(10, work)):
        log.record(f"thread {thread}", replies)


def _doubled(pipe, name):
    value = int(pipe.get(name) or 1)
    pipe.multi()
    pipe.set(name, 2 * value).get(name)


# --- The rest -----------------------------------------------------------------------------------------------


def monitor(clients, log, key):
    client = clients.ready()
    seen = []
    with client.monitor() as watcher:
        client.set(key("text"), 'with "quotes"')
        client.pipeline().incr(key("number")).get(key("text")).execute()
        client.eval("return redis.call('GET', KEYS[1])", 1, key("text"))
        client.delete(key("end"))
        while not seen or key("end") not in seen[-1][1]:
            command = watcher.next_command()
            if key("") in command["command"]:
                seen.append((command["db"], command["command"], command["client_type"]))
    log.record("seen", seen)


def cache(clients, log, key):
    """A cache in the client, which the server tells what has changed.

    The library asks for a newer Redis than ours, though these have all that it uses.
    """
    other = clients.ready()
    CacheProxyConnection.MIN_ALLOWED_VERSION = "6.2.0"
    CacheProxyConnection.DEFAULT_SERVER_NAME = other.info("server").get("server_name", "redis")
    client = clients.ready(cache_config=CacheConfig(max_size=50), single_connection_client=True)
    stored = client.get_cache()
    other.set(key("text"), "first")
    log.record("first", [client.get(key("text")) for _ in range(3)])
    log.record("stored", stored.size)
    other.set(key("text"), "second")
    until("it sees the change", lambda: client.get(key("text")) == "second")
    other.hset(key("hash"), mapping={"a": 1, "b": 2})
    log.record("several", [client.hgetall(key("hash")), client.mget(key("text"), key("none")), client.hgetall(key("hash"))])
    other.set(key("none"), "no more")
    until("it sees that too", lambda: client.mget(key("text"), key("none")) == ["second", "no more"])
    client.hset(key("hash"), "a", "by itself")
    until("it sees its own", lambda: client.hgetall(key("hash"))["a"] == "by itself")
    for at in range(100):
        other.set(key(at), at)
    log.record("more than fits", [client.get(key(at)) for at in range(100)])
    log.record("stored in the end", stored.size)
    other.pipeline().delete(key("text"), key("hash")).execute()
    until("it sees them gone", lambda: client.get(key("text")) is None and client.hgetall(key("hash")) == {})


def databases(clients, log, key):
    zero, three = clients.ready(), clients.ready(db=3)
    log.record("in database 3", three.pipeline().set(key("text"), "three").get(key("text")).execute())
    log.record("not in 0", zero.get(key("text")))
    with three.pipeline() as pipe:
        pipe.watch(key("text"))
        zero.set(key("text"), "zero")
        pipe.multi()
        log.record("another key in 0", pipe.get(key("text")).execute())
    blocked_clients(zero, 0)
    waited = meanwhile(three.blpop, key("items"), timeout=4)
    blocked_clients(zero, 1)
    zero.rpush(key("items"), "of another database")
    three.rpush(key("items"), "of its own")
    log.record("it got", waited())


# --- asyncio ------------------------------------------------------------------------------------------------


def in_asyncio(body):
    """A scenario for asyncio. Tasks share connections as they happen to, so dials are not counted."""

    def run(clients, log, key):
        async def whole():
            log.dials(ANY)
            async with clients.asynchronous() as client:
                await body(client, clients, log, key)

        asyncio.run(whole())

    return run


async def attempted(awaitable):
    try:
        return await awaitable
    except redis.RedisError as error:
        return error


async def async_until(what, condition):
    deadline = time.monotonic() + 20
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up waiting until {what}")
        await asyncio.sleep(0.005)


async def async_transactions(client, _clients, log, key):
    async def task(at):
        pipe = client.pipeline()
        return await pipe.set(key(at), at).incrby(key(at), 1_000).get(key(at)).hset(key(f"h{at}"), "f", at).execute()

    log.record("transactions at once", await asyncio.gather(*(task(at) for at in range(30))))
    async with client.pipeline() as pipe:
        log.record("an error inside", await attempted(pipe.set(key("text"), "v").incr(key("text")).execute()))
        await pipe.watch(key("text"))
        await client.set(key("text"), "changed")
        pipe.multi()
        log.record("disturbed", await attempted(pipe.get(key("text")).execute()))

    async def raised(pipe):
        value = int(await pipe.get(key("counter")) or 0)
        pipe.multi()
        pipe.set(key("counter"), value + 1)

    await asyncio.gather(*(client.transaction(raised, key("counter")) for _ in range(12)))
    log.record("counted", await client.get(key("counter")))


async def async_locks(client, _clients, log, key):
    async def task(_):
        for _ in range(5):
            async with client.lock(key("lock"), timeout=30, sleep=0.001):
                await client.set(key("counter"), int(await client.get(key("counter")) or 0) + 1)

    await asyncio.gather(*(task(at) for at in range(6)))
    log.record("counted", await client.get(key("counter")))
    lock = client.lock(key("lock"), timeout=30)
    log.record("acquired", await lock.acquire())
    log.record("extended", await lock.extend(10))
    log.record("another", await client.lock(key("lock"), blocking=False).acquire())
    log.record("released", await lock.release())
    log.record("released again", await attempted(lock.release()))


async def async_channels(client, _clients, log, key):
    heard = []
    subscribed = asyncio.Event()

    async def listen():
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(key("one"))
            await pubsub.psubscribe(key("p*"))
            async for message in pubsub.listen():
                heard.append(message)
                if message["type"] == "psubscribe":
                    subscribed.set()
                if message["data"] == "stop":
                    break

    listening = asyncio.create_task(listen())
    ready = asyncio.create_task(subscribed.wait())
    # If the listener fails nobody else would tell.
    await asyncio.wait({listening, ready}, return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        await listening
    for at in range(30):
        await client.publish(key("one"), f"message {at}")
    await client.publish(key("p1"), "by the pattern")
    await client.publish(key("one"), "stop")
    await listening
    log.record("heard", heard)


async def async_consumers(client, _clients, log, key):
    async def consume(_):
        got = []
        while (job := (await client.brpop(key("jobs"), timeout=4))[1]) != "stop":
            got.append(int(job))
        return got

    working = [asyncio.create_task(consume(at)) for at in range(6)]
    for job in [*range(100), *["stop"] * 6]:
        await client.lpush(key("jobs"), job)
    log.record("done, each once", sorted(itertools.chain(*await asyncio.gather(*working))))


async def async_cancelled(client, clients, log, key):
    """A task that is cancelled while it waits takes nothing with it."""
    for at in range(4):
        async with clients.asynchronous() as waiting:
            await _async_blocked(client, 0)
            waited = asyncio.create_task(waiting.blpop(key(at), timeout=0))
            await _async_blocked(client, 1)
            waited.cancel()
            await asyncio.gather(waited, return_exceptions=True)
            await _async_blocked(client, 0)
        await client.rpush(key(at), "kept")
        log.record("nothing is lost", await client.lrange(key(at), 0, -1))


async def _async_blocked(client, count):
    async def so_many():
        return (await client.info("clients"))["blocked_clients"] == count

    await async_until(f"{count} are blocked", so_many)


if __name__ == "__main__":
    main(
        [
            *scenario("transactions", transactions),
            *scenario("large transactions", large_transactions),
            *scenario("consistency", consistency),
            *scenario("watching", watching),
            *scenario("an optimistic counter", optimistic_counter),
            *scenario("scripts", scripts),
            *scenario("one lock", one_lock),
            *scenario("lock contention", lock_contention),
            *scenario("waiting for a lock", waiting_for_a_lock),
            *scenario("channels", channels),
            *scenario("handlers", handlers),
            *scenario("sharded channels", sharded_channels),
            *scenario("a chat room", chat_room),
            *scenario("keyspace events", keyspace_events),
            *scenario("blocking", blocking),
            *scenario("consumers", consumers),
            *scenario("streams", streams),
            *scenario("by id", by_id),
            *scenario("one pool for all", one_pool_for_all),
            *scenario("monitor", monitor),
            *scenario("a cache in the client", cache, protocols=[3]),
            *scenario("databases", databases),
            *scenario("asyncio: transactions", in_asyncio(async_transactions)),
            *scenario("asyncio: locks", in_asyncio(async_locks)),
            *scenario("asyncio: channels", in_asyncio(async_channels)),
            *scenario("asyncio: consumers", in_asyncio(async_consumers)),
            *scenario("asyncio: cancelled", in_asyncio(async_cancelled)),
        ]
    )
