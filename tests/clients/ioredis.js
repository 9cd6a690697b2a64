/**
 * ioredis with its defaults: the replies through the proxy are those of a direct connection.
 *
 * The calls of `CALLS` run one by one, as one pipeline, and all at once with automatic pipelining, in RESP3
 * (the default) and RESP2. Around them stand what is no single call: the handshake, iterators, scripts,
 * databases, concurrent tasks, and large values.
 */
"use strict";

const { Redis } = require("ioredis");
const { digest, kind, lifetime, lines, main, pairs, unordered, without } = require("./compare.js");

const BINARY = Buffer.from([...Array(256).keys(), ...Buffer.from("\r\n$-1\r\n")]);
// 1 MB, just under the largest request that a shared connection takes.
const BIG = "0123456789".repeat(100_000);
const YEAR_2100 = 4_102_444_800;
const TASKS = 50;
const SCANNED = 1_000;

/** Each entry: the method, its arguments, and where needed the shape in which its reply is compared. */
const CALLS = [
  // Strings.
  ["set", ["s", "value"]],
  ["get", ["s"]],
  ["get", ["missing"]],
  ["set", ["s", "other", "NX"]],
  ["set", ["s", "other", "XX", "GET"]],
  ["set", [BINARY, BINARY]],
  ["getBuffer", [BINARY]],
  ["strlen", [BINARY]],
  ["append", ["s", "-more"]],
  ["getrange", ["s", 1, -2]],
  ["setrange", ["s", 2, "XY"]],
  ["getdel", ["s"]],
  ["incr", ["n"]],
  ["incrby", ["n", 41]],
  ["incrbyfloat", ["f", 10.5]],
  ["mset", [{ a: "1", b: "", c: "ünïcode" }]],
  ["mget", ["a", "b", "c", "missing"]],
  ["msetnx", ["a", "2", "d", "2"]],
  ["setex", ["e", 1_000, "v"]],
  ["getex", ["e", "PERSIST"]],
  ["lcs", ["a", "b", "IDX", "WITHMATCHLEN"]],
  // Keys.
  ["exists", ["a", "b", "missing", "a"]],
  ["type", ["a"]],
  ["ttl", ["missing"]],
  ["expire", ["a", 1_000]],
  ["ttl", ["a"], lifetime(1_000)],
  ["pttl", ["a"], lifetime(1_000_000)],
  ["expireat", ["a", YEAR_2100]],
  ["expiretime", ["a"]],
  ["expire", ["a", 10, "GT"]],
  ["persist", ["a"]],
  ["copy", ["a", "a2"]],
  ["rename", ["a2", "a3"]],
  ["renamenx", ["a3", "b"]],
  ["dumpBuffer", ["b"]],
  ["touch", ["a", "b"]],
  ["unlink", ["c"]],
  ["del", ["b", "missing"]],
  ["object", ["ENCODING", "n"]],
  ["object", ["IDLETIME", "n"], kind],
  ["keys", ["?"], unordered],
  ["dbsize", []],
  ["randomkey", [], kind],
  ["move", ["a", 5]],
  // Hashes.
  ["hset", ["h", { one: 1, two: "zwei", "": "empty name" }]],
  ["hset", ["h", new Map([["three", Buffer.from([0, 255, 13, 10])]])]],
  ["hget", ["h", "two"]],
  ["hgetBuffer", ["h", "three"]],
  ["hgetall", ["h"]],
  ["hgetall", ["missing"]],
  ["hmget", ["h", "one", "missing"]],
  ["hkeys", ["h"]],
  ["hvals", ["h"]],
  ["hlen", ["h"]],
  ["hexists", ["h", "one"]],
  ["hincrbyfloat", ["h", "one", 0.25]],
  ["hrandfield", ["h", 10, "WITHVALUES"], pairs],
  ["hdel", ["h", "one", "missing"]],
  // Lists.
  ["rpush", ["l", "a", "b", "c", BINARY]],
  ["lpush", ["l", "z"]],
  ["lrangeBuffer", ["l", 0, -1]],
  ["linsert", ["l", "BEFORE", "b", "ab"]],
  ["lset", ["l", 0, "first"]],
  ["lpos", ["l", "c", "COUNT", 0]],
  ["lrem", ["l", 1, "ab"]],
  ["lpop", ["l"]],
  ["rpop", ["l", 2]],
  ["lmove", ["l", "l2", "LEFT", "RIGHT"]],
  ["lmpop", [2, "missing", "l", "LEFT", "COUNT", 5]],
  ["lpop", ["missing"]],
  ["rpush", ["unsorted", 3, 1, 2]],
  ["sort", ["unsorted", "DESC"]],
  ["sort", ["unsorted", "STORE", "sorted"]],
  ["sort_ro", ["sorted", "ALPHA"]],
  // Sets.
  ["sadd", ["t", "a", "b", "c"]],
  ["sadd", ["u", "b", "c", "d"]],
  ["smembers", ["t"], unordered],
  ["smismember", ["t", "a", "d"]],
  ["sinter", ["t", "u"], unordered],
  ["sintercard", [2, "t", "u"]],
  ["sunion", ["t", "u"], unordered],
  ["sdiffstore", ["v", "t", "u"]],
  ["smove", ["t", "u", "a"]],
  ["srandmember", ["t", 10], unordered],
  ["srem", ["t", "b", "missing"]],
  ["spop", ["v", 10], unordered],
  // Sorted sets.
  ["zadd", ["z", 1, "a", 2.5, "b", "+inf", "c"]],
  ["zadd", ["z", "GT", "CH", 5, "a"]],
  ["zincrby", ["z", 0.1, "a"]],
  ["zscore", ["z", "a"]],
  ["zscore", ["z", "missing"]],
  ["zmscore", ["z", "a", "missing"]],
  ["zrange", ["z", 0, -1, "WITHSCORES"]],
  ["zrange", ["z", "(2", "+inf", "BYSCORE", "LIMIT", 0, 2]],
  ["zrank", ["z", "a"]],
  ["zrevrank", ["z", "missing"]],
  ["zcount", ["z", 0, 10]],
  ["zadd", ["z2", 1, "a", 1, "d"]],
  ["zrangebylex", ["z2", "[a", "(d"]],
  ["zunion", [2, "z", "z2", "WITHSCORES"]],
  ["zunionstore", ["z3", 2, "z", "z2", "WEIGHTS", 2, 1, "AGGREGATE", "MAX"]],
  ["zpopmin", ["z3", 2]],
  ["zmpop", [1, "z3", "MIN"]],
  ["zremrangebyscore", ["z", 0, 3]],
  // Streams.
  ["xadd", ["x", "1-1", "f", "v"]],
  ["xadd", ["x", "2-*", "f", "w"]],
  ["xadd", ["x", "1-1", "f", "v"]],
  ["xadd", ["clocked", "*", "f", "v"], kind],
  ["xlen", ["x"]],
  ["xrange", ["x", "-", "+"]],
  ["xread", ["COUNT", 10, "STREAMS", "x", "missing", "0", "0"]],
  ["xread", ["STREAMS", "x", "$"]],
  ["xgroup", ["CREATE", "x", "g", "0"]],
  ["xreadgroup", ["GROUP", "g", "me", "STREAMS", "x", ">"]],
  ["xpending", ["x", "g"]],
  ["xclaim", ["x", "g", "you", 0, "1-1"]],
  ["xautoclaim", ["x", "g", "you", 0, "0"]],
  ["xack", ["x", "g", "1-1"]],
  ["xinfo", ["STREAM", "x"]],
  ["xinfo", ["CONSUMERS", "x", "g"], without("idle", "inactive")],
  ["xtrim", ["x", "MAXLEN", 1]],
  // Bits, counters and places.
  ["setbit", ["bits", 7, 1]],
  ["bitcount", ["bits"]],
  ["bitpos", ["bits", 1]],
  ["bitop", ["NOT", "inverse", "bits"]],
  ["getBuffer", ["inverse"]],
  ["bitfield", ["bits", "SET", "u8", 0, 255, "OVERFLOW", "FAIL", "INCRBY", "u8", 0, 1]],
  ["pfadd", ["hll", "a", "b", "c"]],
  ["pfcount", ["hll"]],
  ["pfmerge", ["hll2", "hll"]],
  ["geoadd", ["geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"]],
  ["geodist", ["geo", "Palermo", "Catania", "km"]],
  ["geopos", ["geo", "Palermo", "missing"]],
  ["geohash", ["geo", "Palermo"]],
  ["geosearch", ["geo", "FROMLONLAT", 15, 37, "BYRADIUS", 200, "km", "ASC", "WITHDIST", "WITHCOORD"]],
  // Errors.
  ["set", ["string", "v"]],
  ["lpush", ["string", "v"]],
  ["hgetall", ["string"]],
  ["incr", ["string"]],
  ["call", ["GET"]],
  ["call", ["SET", "k", "v", "NONSENSE"]],
  ["call", ["OBJECT", "NONSENSE"]],
  ["lset", ["missing", 0, "v"]],
  ["rename", ["missing", "m"]],
  ["xreadgroup", ["GROUP", "g", "me", "STREAMS", "missing", ">"]],
  ["eval", ["return redis.error_reply('CUSTOM wrong')", 0]],
  ["eval", ["return redis.call('LPUSH', KEYS[1], 'v')", 1, "string"]],
  ["eval", ["syntax error", 0]],
  ["evalsha", ["0".repeat(40), 0]],
  ["fcall", ["missing", 0]],
  // The server and the connection.
  ["ping", []],
  ["ping", ["text"]],
  ["echo", ["text"]],
  ["time", [], kind],
  ["info", ["server"], lines("redis_version", "redis_mode", "valkey_version")],
  ["config", ["GET", "maxmemory*"], pairs],
  ["command", ["COUNT"]],
  ["command", ["GETKEYS", "MSET", "a", "1", "b", "2"]],
  ["command", ["INFO", "get", "missing"]],
  ["acl", ["WHOAMI"]],
  ["client", ["SETNAME", "renamed"]],
  ["client", ["GETNAME"]],
  ["client", ["ID"], kind],
  ["client", ["INFO"], lines("name", "db", "user", "resp", "sub", "psub", "multi")],
  ["client", ["SETNAME", ""]],
  ["eval", ["return {1, 'two', false, {KEYS[1], ARGV[1]}}", 1, "k", "v"]],
  ["script", ["LOAD", "return 1"]],
  ["script", ["EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0".repeat(40)]],
  ["evalsha", ["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 0]],
  ["function", ["LOAD", "REPLACE", "#!lua name=m\nredis.register_function('twice', function(k, a) return a[1] * 2 end)"]],
  ["fcall", ["twice", 0, 21]],
  ["function", ["LIST"]],
  ["function", ["FLUSH"]],
  ["script", ["FLUSH"]],
  ["swapdb", [0, 6]],
  ["dbsize", []],
  ["flushdb", []],
];

const label = ([method, parameters]) => `${method} ${parameters.map((one) => String(one).slice(0, 40)).join(" ")}`;

/** Runs `scenario` with a client of its own on an empty server. */
async function withClient(url, log, options, scenario) {
  const client = await connect(url, log, options);
  await client.flushall();
  try {
    await scenario(client);
  } finally {
    await client.quit();
  }
}

/** A client that is ready; every connection it loses or retries is noted, which no side should do. */
async function connect(url, log, options = {}) {
  log.dials(1);
  const client = new Redis(url, options);
  client.on("reconnecting", () => log.record("event", "reconnecting"));
  client.on("error", (error) => log.record("event", error));
  await new Promise((ready) => client.once("ready", ready));
  return client;
}

function eachCall(options) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      for (const call of CALLS) {
        const [method, parameters, shape] = call;
        await log.settle(label(call), client[method](...parameters), shape);
      }
    });
}

function onePipeline(options) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      const pipeline = client.pipeline();
      for (const [method, parameters] of CALLS) pipeline[method](...parameters);
      const replies = await pipeline.exec();
      CALLS.forEach((call, at) => {
        const [error, reply] = replies[at];
        log.record(label(call), error ?? reply, call[2]);
      });
    });
}

/** All calls in the same turn: the library makes pipelines of them by itself. */
function automaticPipelines(url, log) {
  return withClient(url, log, { enableAutoPipelining: true }, async (client) => {
    const replies = await Promise.allSettled(CALLS.map(([method, parameters]) => client[method](...parameters)));
    replies.forEach(({ reason, value }, at) => log.record(label(CALLS[at]), reason ?? value, CALLS[at][2]));
  });
}

/** What the connection learns while it is made, by protocol, database and name. */
async function handshake(url, log) {
  for (const options of [{}, { protocol: 2 }, { db: 3 }, { connectionName: "a-name" }]) {
    const client = await connect(url, log, options);
    const { select, protocol, subscriber } = client.condition;
    log.record(`ready with ${JSON.stringify(options)}`, { select, protocol, subscriber, status: client.status });
    await log.settle("HELLO", client.call("HELLO"), without("id"));
    await log.settle("CLIENT INFO", client.client("INFO"), lines("name", "db", "user", "resp", "lib-name", "lib-ver"));
    const ids = [await client.client("ID"), await client.client("ID")];
    log.record("the id stays", ids[0] === ids[1]);
    await client.quit();
  }
}

/** SCAN and its kin over collections large enough to need several rounds. */
function iterators(url, log) {
  return withClient(url, log, {}, async (client) => {
    const pipeline = client.pipeline();
    for (let i = 0; i < SCANNED; i += 1) {
      pipeline.set(`key:${i}`, i).hset("h", `field:${i}`, i).sadd("t", `member:${i}`).zadd("z", i, `member:${i}`);
    }
    await pipeline.exec();
    const gather = async (stream) => unordered((await stream.toArray()).flat());
    log.record("scan", await gather(client.scanStream({ match: "key:*", count: 50 })));
    log.record("scan of a type", await gather(client.scanStream({ type: "hash" })));
    log.record("hscan", await gather(client.hscanStream("h")));
    log.record("sscan", await gather(client.sscanStream("t", { count: 7 })));
    log.record("zscan", await gather(client.zscanStream("z", { match: "*5*" })));
  });
}

/** A defined command falls back from EVALSHA to EVAL when the server does not know the script. */
function scripts(url, log) {
  return withClient(url, log, {}, async (client) => {
    client.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    for (let round = 0; round < 2; round += 1) {
      await log.settle("script", client.add("n", 5));
      await log.settle("script again", client.add("n", 5));
      await client.script("FLUSH");
    }
    await log.settle("script in a pipeline", client.pipeline().add("n", 1).get("n").exec());
  });
}

/** Clients of four databases at once: none sees another's keys. */
async function databases(url, log) {
  const clients = await Promise.all([0, 1, 3, 15].map((db) => connect(url, log, { db })));
  await clients[0].flushall();
  const keys = Array.from({ length: 100 }, (_, i) => `key:${i}`);
  await Promise.all(
    clients.flatMap((client) => keys.map((key) => client.set(key, `${client.options.db} ${key}`))),
  );
  for (const client of clients) {
    await log.settle("values", client.mget(keys));
    await log.settle("dbsize", client.dbsize());
  }
  await log.settle("SELECT", clients[0].select(1));
  await log.settle("moved", clients[0].get("key:7"));
  await log.settle("SELECT", clients[0].select(99));
  await log.settle("stayed", clients[0].get("key:7"));
  await Promise.all(clients.map((client) => client.quit()));
}

/** Values of 1 MB, both ways, alone and in a pipeline. */
function bigValues(url, log) {
  return withClient(url, log, {}, async (client) => {
    await log.settle("set", client.set("big", BIG));
    await log.settle("get", client.get("big"), (value) => digest([value]));
    await log.settle("append", client.append("big", BIG));
    await log.settle("mget", client.mget("big", "missing", "big"), digest);
    const pipeline = client.pipeline();
    for (let i = 0; i < 10; i += 1) pipeline.set(`big:${i}`, BIG.slice(i)).get(`big:${i}`).strlen(`big:${i}`);
    await log.settle("pipeline", pipeline.exec(), digest);
  });
}

/** Fifty tasks on one connection. */
function tasks(options) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      const work = async (task) => {
        const replies = [];
        for (let i = 0; i < 40; i += 1) {
          replies.push(await client.set(`${task}:${i}`, `value ${task} ${i}`));
          replies.push(await client.get(`${task}:${i}`));
          replies.push(await client.pipeline().rpush(`list:${task}`, i).lrange(`list:${task}`, 0, -1).exec());
        }
        return replies;
      };
      const all = await Promise.all(Array.from({ length: TASKS }, (_, task) => work(task)));
      all.forEach((replies, task) => log.record(`task ${task}`, replies));
    });
}

main([
  ["handshake", handshake],
  ["calls, RESP3", eachCall({})],
  ["calls, RESP2", eachCall({ protocol: 2 })],
  ["pipeline, RESP3", onePipeline({})],
  ["pipeline, RESP2", onePipeline({ protocol: 2 })],
  ["automatic pipelines", automaticPipelines],
  ["iterators", iterators],
  ["scripts", scripts],
  ["databases", databases],
  ["big values", bigValues],
  ["tasks", tasks({})],
  ["tasks, automatic pipelines", tasks({ enableAutoPipelining: true })],
]);
