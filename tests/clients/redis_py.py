"""redis-py with its defaults: the replies through the proxy are those of a direct connection.

The calls of `CALLS` run one by one and as one pipeline, in RESP3 (the default), RESP2 and with decoded
replies, from the synchronous client and the asyncio one. Around them stand what is no single call:
the handshake, iterators, scripts, databases, threads and tasks and large values.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import redis
import redis.asyncio

from compare import digest, kind, lifetime, main, only, unordered, without

BINARY = bytes(range(256)) + b"\r\n$-1\r\n"
# Within the 64 bytes up to which a server keeps a small hash or sorted set in the order of insertion.
SHORT_BINARY = b"\x00\xff\x80\xc3\x28\r\n$-1\r\n"
BIG = b"0123456789" * 100_000  # 1 MB, just under the largest request a shared connection takes
YEAR_2100 = 4_102_444_800
TASKS = 50
SCANNED = 1_000
INTEGER_LIBRARY = (
    "#!lua name=arithmetic\n"
    "redis.register_function('twice', function(keys, args) return args[1] * 2 end)"
)


class Call:
    """One method call on a client or pipeline, and the shape its reply is compared in.

    `text` is false where the call or its reply holds bytes that are no UTF-8.
    """

    def __init__(self, method, *arguments, shape=None, text=True, **options):
        self.method, self.arguments, self.options, self.shape = method, arguments, options, shape
        self.text = text and "\\x" not in repr((arguments, options))

    def on(self, target):
        return getattr(target, self.method)(*self.arguments, **self.options)

    def label(self):
        shown = [repr(argument)[:60] for argument in self.arguments]
        shown += [f"{name}={option!r}"[:60] for name, option in self.options.items()]
        return f"{self.method}({', '.join(shown)})"


STRINGS = [
    Call("set", "s", "value"),
    Call("get", "s"),
    Call("get", "missing"),
    Call("set", "s", "other", nx=True),
    Call("set", "s", "other", xx=True, get=True),
    Call("set", BINARY, BINARY),
    Call("strlen", BINARY),
    Call("append", "s", "-more"),
    Call("getrange", "s", 1, -2),
    Call("setrange", "s", 2, "XY"),
    Call("getset", "s", "new"),
    Call("getdel", "s"),
    Call("incr", "n"),
    Call("incrby", "n", 41),
    Call("decrby", "n", 2),
    Call("incrbyfloat", "f", 10.5),
    Call("mset", {"a": "1", "b": "", "c": "ünïcode"}),
    Call("mget", "a", "b", "c", "missing"),
    Call("msetnx", {"a": "2", "d": "2"}),
    Call("set", "e", "v", ex=1_000),
    Call("set", "e", "v", px=1_000_000),
    Call("getex", "e", persist=True),
    Call("lcs", "a", "b"),
    Call("mset", {"this": "ohmytext", "that": "mynewtext"}),
    Call("lcs", "this", "that", idx=True, withmatchlen=True),
]

KEYS = [
    Call("exists", "a", "b", "missing", "a"),
    Call("type", "a"),
    Call("ttl", "a"),
    Call("ttl", "missing"),
    Call("expire", "a", 1_000),
    Call("ttl", "a", shape=lifetime(1_000)),
    Call("pttl", "a", shape=lifetime(1_000_000)),
    Call("expireat", "a", YEAR_2100),
    Call("expiretime", "a"),
    Call("pexpiretime", "a"),
    Call("expire", "a", 10, gt=True),
    Call("persist", "a"),
    Call("copy", "a", "a2"),
    Call("rename", "a2", "a3"),
    Call("renamenx", "a3", "b"),
    Call("dump", "b", text=False),
    Call("restore", "restored", 0, b"\x00\x01w no dump"),
    Call("touch", "a", "b"),
    Call("unlink", "c"),
    Call("delete", "b", "missing"),
    Call("object", "encoding", "n"),
    Call("object", "refcount", "a"),
    Call("object", "idletime", "a", shape=kind),
    Call("keys", "*", shape=unordered),
    Call("dbsize"),
    Call("randomkey", shape=kind),
    Call("move", "a", 5),
]

HASHES = [
    Call("hset", "h", mapping={"one": 1, "two": SHORT_BINARY, "": "empty name"}),
    Call("hget", "h", "two"),
    Call("hget", "h", "missing"),
    Call("hgetall", "h"),
    Call("hgetall", "missing"),
    Call("hmget", "h", ["one", "missing"]),
    Call("hkeys", "h"),
    Call("hvals", "h"),
    Call("hlen", "h"),
    Call("hexists", "h", "one"),
    Call("hsetnx", "h", "one", 2),
    Call("hincrby", "h", "one", 5),
    Call("hincrbyfloat", "h", "one", 0.25),
    Call("hstrlen", "h", "two"),
    Call("hrandfield", "h", 10, withvalues=True, shape=unordered),
    Call("hdel", "h", "one", "missing"),
    Call("hscan", "h"),
]

LISTS = [
    Call("rpush", "l", "a", "b", "c", SHORT_BINARY),
    Call("lpush", "l", "z"),
    Call("lrange", "l", 0, -1),
    Call("lindex", "l", 1),
    Call("linsert", "l", "BEFORE", "b", "ab"),
    Call("lset", "l", 0, "first"),
    Call("lpos", "l", "c"),
    Call("lpos", "l", "c", count=0),
    Call("lrem", "l", 1, "ab"),
    Call("llen", "l"),
    Call("lpop", "l"),
    Call("rpop", "l", 2),
    Call("lmove", "l", "l2", "LEFT", "RIGHT"),
    Call("rpoplpush", "l2", "l"),
    Call("lmpop", 2, "missing", "l", direction="LEFT", count=5),
    Call("ltrim", "l", 0, 0),
    Call("lpop", "missing"),
    Call("rpush", "unsorted", 3, 1, 2),
    Call("sort", "unsorted", desc=True),
    Call("sort", "unsorted", by="nosort", get="#"),
    Call("sort", "unsorted", store="sorted"),
    Call("sort_ro", "sorted", alpha=True),
]

SETS = [
    Call("sadd", "t", "a", "b", "c", SHORT_BINARY),
    Call("sadd", "u", "b", "c", "d"),
    Call("smembers", "t", shape=unordered),
    Call("sismember", "t", "a"),
    Call("smismember", "t", "a", "d"),
    Call("scard", "t"),
    Call("sinter", "t", "u", shape=unordered),
    Call("sintercard", 2, ["t", "u"]),
    Call("sunion", "t", "u", shape=unordered),
    Call("sdiff", "t", "u", shape=unordered),
    Call("sdiffstore", "v", "t", "u"),
    Call("smove", "t", "u", "a"),
    Call("srandmember", "t", 10, shape=unordered),
    Call("srem", "t", "b", "missing"),
    Call("spop", "v", 10, shape=unordered),
]

SORTED_SETS = [
    Call("zadd", "z", {"a": 1, "b": 2.5, "c": float("inf"), SHORT_BINARY: -3}),
    Call("zadd", "z", {"a": 5}, gt=True, ch=True),
    Call("zincrby", "z", 0.1, "a"),
    Call("zscore", "z", "a"),
    Call("zscore", "z", "missing"),
    Call("zmscore", "z", ["a", "missing"]),
    Call("zrange", "z", 0, -1),
    Call("zrange", "z", 0, -1, withscores=True),
    Call("zrange", "z", "(2", "+inf", byscore=True, offset=0, num=2),
    Call("zrevrange", "z", 0, 1, withscores=True),
    Call("zrangebyscore", "z", "-inf", "+inf", withscores=True),
    Call("zrank", "z", "a"),
    Call("zrank", "z", "a", withscore=True),
    Call("zrevrank", "z", "missing"),
    Call("zcard", "z"),
    Call("zcount", "z", 0, 10),
    Call("zadd", "z2", {"a": 1, "d": 1}),
    Call("zlexcount", "z2", "-", "+"),
    Call("zrangebylex", "z2", "[a", "(d"),
    Call("zunion", ["z", "z2"], withscores=True),
    Call("zinter", ["z", "z2"], withscores=True),
    Call("zdiff", ["z", "z2"]),
    Call("zunionstore", "z3", {"z": 2, "z2": 1}, aggregate="MAX"),
    Call("zrandmember", "z3", 10, withscores=True, shape=unordered),
    Call("zpopmin", "z3", 2),
    Call("zpopmax", "z3"),
    Call("zmpop", 1, ["z3"], min=True),
    Call("zremrangebyscore", "z", 0, 3),
    Call("zrem", "z", "a"),
    Call("zscan", "z"),
]

STREAMS = [
    Call("xadd", "x", {"f": "v", "bin": SHORT_BINARY}, id="1-1"),
    Call("xadd", "x", {"f": "w"}, id="2-*"),
    Call("xadd", "x", {"f": "v"}, id="1-1"),
    Call("xadd", "clocked", {"f": "v"}, shape=kind),
    Call("xlen", "x"),
    Call("xrange", "x"),
    Call("xrevrange", "x", count=1),
    Call("xread", {"x": "0", "missing": "0"}),
    Call("xread", {"x": "$"}),
    Call("xgroup_create", "x", "g", id="0"),
    Call("xgroup_create", "x", "g", id="0"),
    Call("xreadgroup", "g", "me", {"x": ">"}),
    Call("xpending", "x", "g"),
    Call("xpending_range", "x", "g", "-", "+", 10, shape=without("time_since_delivered")),
    Call("xclaim", "x", "g", "you", 0, ["1-1"]),
    Call("xautoclaim", "x", "g", "you", 0),
    Call("xack", "x", "g", "1-1"),
    Call("xinfo_stream", "x"),
    Call("xinfo_groups", "x"),
    Call("xinfo_consumers", "x", "g", shape=without("idle", "inactive")),
    Call("xtrim", "x", maxlen=1, approximate=False),
    Call("xdel", "x", "2-0"),
]

BITS_AND_PLACES = [
    Call("setbit", "bits", 7, 1),
    Call("getbit", "bits", 7),
    Call("bitcount", "bits"),
    Call("bitpos", "bits", 1),
    Call("bitop", "NOT", "inverse", "bits"),
    Call("get", "inverse", text=False),
    Call("execute_command", "BITFIELD", "bits", "SET", "u8", 0, 255, "GET", "u4", 0, "OVERFLOW", "FAIL", "INCRBY", "u8", 0, 1),
    Call("pfadd", "hll", "a", "b", "c"),
    Call("pfcount", "hll"),
    Call("pfmerge", "hll2", "hll"),
    Call("geoadd", "geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")),
    Call("geodist", "geo", "Palermo", "Catania", "km"),
    Call("geopos", "geo", "Palermo", "missing"),
    Call("geohash", "geo", "Palermo"),
    Call("geosearch", "geo", longitude=15, latitude=37, radius=200, unit="km", withdist=True, withcoord=True, sort="ASC"),
    Call("geosearchstore", "geo2", "geo", member="Palermo", radius=1, unit="m"),
]

ERRORS = [
    Call("set", "string", "v"),
    Call("lpush", "string", "v"),
    Call("hgetall", "string"),
    Call("incr", "string"),
    Call("execute_command", "GET"),
    Call("execute_command", "SET", "k", "v", "NONSENSE"),
    Call("execute_command", "OBJECT", "NONSENSE"),
    Call("lset", "missing", 0, "v"),
    Call("rename", "missing", "m"),
    Call("zadd", "string", {"a": 1}),
    Call("xreadgroup", "g", "me", {"missing": ">"}),
    Call("xinfo_stream", "missing"),
    Call("eval", "return redis.error_reply('CUSTOM wrong')", 0),
    Call("eval", "return redis.call('LPUSH', KEYS[1], 'v')", 1, "string"),
    Call("eval", "syntax error", 0),
    Call("evalsha", "0" * 40, 0),
    Call("fcall", "missing", 0),
    Call("get", "string"),
]

SERVER = [
    Call("ping"),
    Call("echo", BINARY),
    Call("time", shape=kind),
    Call("info", "server", shape=only("redis_version", "redis_mode", "valkey_version")),
    Call("info", "keyspace", shape=without("avg_ttl")),
    Call("config_get", "maxmemory*", shape=unordered),
    Call("command_count"),
    Call("command_getkeys", "MSET", "a", "1", "b", "2"),
    Call("execute_command", "COMMAND", "INFO", "get"),
    Call("acl_whoami"),
    Call("memory_usage", "string"),
    Call("client_getname"),
    Call("client_setname", "renamed"),
    Call("client_getname"),
    Call("client_id", shape=kind),
    Call("client_info", shape=only("name", "db", "user", "resp", "sub", "psub", "multi")),
    Call("client_setname", ""),
    Call("slowlog_len", shape=kind),
    Call("lastsave", shape=kind),
    Call("eval", "return {1, 'two', false, {KEYS[1], ARGV[1]}}", 1, "k", BINARY),
    Call("eval_ro", "return redis.call('GET', KEYS[1])", 1, "string"),
    Call("script_load", "return 1"),
    Call("script_exists", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0" * 40),
    Call("evalsha", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 0),
    Call("function_load", INTEGER_LIBRARY, replace=True),
    Call("fcall", "twice", 0, 21),
    Call("function_list"),
    Call("function_flush"),
    Call("script_flush"),
    Call("swapdb", 0, 6),
    Call("dbsize"),
    Call("flushdb"),
]

CALLS = STRINGS + KEYS + HASHES + LISTS + SETS + SORTED_SETS + STREAMS + BITS_AND_PLACES + ERRORS + SERVER


def each_call(**options):
    """One client, one call after the other."""

    def group(url, log):
        with fresh(url, log, single_connection_client=True, **options) as client:
            for call in understood(options):
                try:
                    reply = call.on(client)
                except redis.RedisError as error:
                    reply = error
                log.record(call.label(), reply, call.shape)

    return group


def one_pipeline(**options):
    """All calls in one pipeline without MULTI."""

    def group(url, log):
        with fresh(url, log, **options) as client, client.pipeline(transaction=False) as pipeline:
            calls = understood(options)
            for call in calls:
                call.on(pipeline)
            for call, reply in zip(calls, pipeline.execute(raise_on_error=False), strict=True):
                log.record(call.label(), reply, call.shape)

    return group


def understood(options):
    """The calls for a client with these options: over a reply that it cannot decode it drops the connection."""
    return [call for call in CALLS if call.text or not options.get("decode_responses")]


def async_calls(url, log):
    """The asyncio client, one call after the other, then all of them in a pipeline."""

    async def scenario():
        async with redis.asyncio.Redis.from_url(url) as client:
            log.dials(1)
            await client.flushall()
            for call in CALLS:
                try:
                    reply = await call.on(client)
                except redis.RedisError as error:
                    reply = error
                log.record(call.label(), reply, call.shape)
            pipeline = client.pipeline(transaction=False)
            for call in CALLS:
                call.on(pipeline)
            for call, reply in zip(CALLS, await pipeline.execute(raise_on_error=False), strict=True):
                log.record(call.label(), reply, call.shape)

    asyncio.run(scenario())


def handshake(url, log):
    """What the connection learns while it is made, by protocol, database and name."""
    for options in ({}, {"protocol": 2}, {"protocol": 3}, {"db": 3}, {"client_name": "a-name"}):
        with fresh(url, log, single_connection_client=True, **options) as client:
            hello = client.connection.handshake_metadata
            log.record(f"HELLO with {options}", hello, without("id"))
            log.record("CLIENT INFO", client.client_info(), only("name", "db", "user", "resp", "lib-name", "lib-ver"))
            log.record("CLIENT GETNAME", client.client_getname())
            first, last = client.client_id(), client.client_id()
            log.record("the id stays", first == last)


def iterators(url, log):
    """SCAN and its kin over collections large enough to need several rounds."""
    with fresh(url, log) as client:
        fill_for_scans(client)
        log.record("scan_iter", sorted(client.scan_iter("key:*", count=50)))
        log.record("scan_iter of a type", sorted(client.scan_iter(_type="hash")))
        log.record("hscan_iter", sorted(client.hscan_iter("h")))
        log.record("sscan_iter", sorted(client.sscan_iter("t", count=7)))
        log.record("zscan_iter", sorted(client.zscan_iter("z", match="*5*")))


def fill_for_scans(client):
    with client.pipeline(transaction=False) as pipeline:
        for i in range(SCANNED):
            pipeline.set(f"key:{i}", i)
            pipeline.hset("h", i, i)
            pipeline.sadd("t", f"member:{i}")
            pipeline.zadd("z", {f"member:{i}": i})
        pipeline.execute()


def scripts(url, log):
    """A registered script falls back from EVALSHA to SCRIPT LOAD when the server does not know it."""
    with fresh(url, log) as client:
        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        for _ in range(2):
            log.record("script", script(keys=["n"], args=[5]))
            client.script_flush()
        with client.pipeline(transaction=False) as pipeline:
            script(keys=["n"], args=[1], client=pipeline)
            pipeline.get("n")
            log.record("script in a pipeline", pipeline.execute())
        client.set("original", BINARY)
        log.record("restore", client.restore("copy", 0, client.dump("original")))
        log.record("restored", client.get("copy"))


def databases(url, log):
    """Clients of four databases at once: none sees another's keys."""
    clients = [fresh(url, log, db=db, flush=False) for db in (0, 1, 3, 15)]
    clients[0].flushall()
    for client in clients:
        db = client.get_connection_kwargs()["db"]
        for i in range(100):
            client.set(f"key:{i}", f"{db}:{i}")
    for client in clients:
        log.record("values", client.mget(f"key:{i}" for i in range(100)))
        log.record("dbsize", client.dbsize())
    log.record("SELECT", clients[0].execute_command("SELECT", 1))
    log.record("moved", clients[0].get("key:7"))
    log.record("SELECT", attempt(lambda: clients[0].execute_command("SELECT", 99)))
    log.record("stayed", clients[0].get("key:7"))
    for client in clients:
        client.close()


def big_values(url, log):
    """Values of 1 MB, both ways, alone and in a pipeline."""
    with fresh(url, log) as client:
        log.record("set", client.set("big", BIG))
        log.record("get", digest([client.get("big")]))
        log.record("append", client.append("big", BIG))
        log.record("mget", digest(client.mget("big", "missing", "big")))
        with client.pipeline(transaction=False) as pipeline:
            for i in range(10):
                pipeline.set(f"big:{i}", BIG[i:]).get(f"big:{i}").strlen(f"big:{i}")
            log.record("pipeline", digest(pipeline.execute()))


def threads(url, log):
    """Fifty threads over one pool. Threads share connections as they happen to, so dials are bounded, not fixed."""
    with fresh(url, log) as client:

        def work(task):
            return [reply for i in range(40) for reply in exchange(client, task, i)]

        with ThreadPoolExecutor(TASKS) as workers:
            replies = list(workers.map(work, range(TASKS)))
        log.dials(client.connection_pool._created_connections - 1)
        log.record("replies", replies)


def exchange(client, task, i):
    """A few requests whose replies name the task and the round that they belong to."""
    yield client.set(f"{task}:{i}", f"value {task} {i}")
    yield client.get(f"{task}:{i}")
    with client.pipeline(transaction=False) as pipeline:
        for value in range(5):
            pipeline.rpush(f"list:{task}", f"{i}-{value}")
        yield pipeline.lrange(f"list:{task}", -5, -1).execute()


def tasks(url, log):
    """Fifty asyncio tasks over one pool."""

    async def work(client, task):
        replies = []
        for i in range(40):
            replies.append(await client.set(f"{task}:{i}", f"value {task} {i}"))
            replies.append(await client.get(f"{task}:{i}"))
            pipeline = client.pipeline(transaction=False)
            replies.append(await pipeline.hset(f"hash:{task}", str(i), i).hgetall(f"hash:{task}").execute())
        return replies

    async def scenario():
        async with redis.asyncio.Redis.from_url(url) as client:
            await client.flushall()
            log.record("replies", await asyncio.gather(*(work(client, task) for task in range(TASKS))))
            pool = client.connection_pool
            log.dials(len(pool._available_connections) + len(pool._in_use_connections))

    asyncio.run(scenario())


def fresh(url, log, flush=True, **options):
    """A client with the given options, which makes one connection unless the group says otherwise."""
    client = redis.Redis.from_url(url, **options)
    log.dials(1)
    if flush:
        client.flushall()
    return client


def attempt(call):
    try:
        return call()
    except redis.RedisError as error:
        return error


if __name__ == "__main__":
    main(
        [
            ("handshake", handshake),
            ("calls, RESP3", each_call()),
            ("calls, RESP2", each_call(protocol=2)),
            ("calls, decoded", each_call(decode_responses=True)),
            ("pipeline, RESP3", one_pipeline()),
            ("pipeline, RESP2", one_pipeline(protocol=2)),
            ("pipeline, decoded", one_pipeline(decode_responses=True)),
            ("asyncio", async_calls),
            ("iterators", iterators),
            ("scripts", scripts),
            ("databases", databases),
            ("big values", big_values),
            ("threads", threads),
            ("tasks", tasks),
        ]
    )
