/**
 * node-redis with its defaults: the replies through the proxy are those of a direct connection.
 *
 * The calls of `CALLS` and `ERRORS` run one by one and all in one turn, which the library makes a pipeline of
 * by itself, in RESP3 (the default) and RESP2; `CALLS` also as an explicit pipeline. Around them stand what is
 * no single call: the handshake, iterators, databases, concurrent tasks, and large values.
 */
"use strict";

const { createClient, RESP_TYPES } = require("redis");
const { digest, kind, lifetime, lines, main, unordered, without } = require("./compare.js");

const BINARY = Buffer.from([...Array(256).keys(), ...Buffer.from("\r\n$-1\r\n")]);
// 1 MB, just under the largest request that a shared connection takes.
const BIG = "0123456789".repeat(100_000);
const YEAR_2100 = 4_102_444_800;
const TASKS = 50;
const SCANNED = 1_000;
const UNKNOWN_SCRIPT = "0".repeat(40);
const LIBRARY = "#!lua name=m\nredis.register_function('twice', function(k, a) return a[1] * 2 end)";

/** Each entry: the method, its arguments, and where needed the shape in which its reply is compared. */
const CALLS = [
  // Strings.
  ["set", ["s", "value"]],
  ["get", ["s"]],
  ["get", ["missing"]],
  ["set", ["s", "other", { condition: "NX" }]],
  ["set", ["s", "other", { condition: "XX", GET: true }]],
  ["set", [BINARY, BINARY]],
  ["get", [BINARY]],
  ["strLen", [BINARY]],
  ["append", ["s", "-more"]],
  ["getRange", ["s", 1, -2]],
  ["setRange", ["s", 2, "XY"]],
  ["getDel", ["s"]],
  ["incr", ["n"]],
  ["incrBy", ["n", 41]],
  ["incrByFloat", ["f", 10.5]],
  ["mSet", [{ a: "1", b: "", c: "ünïcode" }]],
  ["mGet", [["a", "b", "c", "missing"]]],
  ["mSetNX", [{ a: "2", d: "2" }]],
  ["setEx", ["e", 1_000, "v"]],
  ["getEx", ["e", { type: "PERSIST" }]],
  ["lcs", ["a", "b"]],
  ["mSet", [{ this: "ohmytext", that: "mynewtext" }]],
  ["lcsIdxWithMatchLen", ["this", "that"]],
  // Keys.
  ["exists", [["a", "b", "missing", "a"]]],
  ["type", ["a"]],
  ["ttl", ["missing"]],
  ["expire", ["a", 1_000]],
  ["ttl", ["a"], lifetime(1_000)],
  ["pTTL", ["a"], lifetime(1_000_000)],
  ["expireAt", ["a", YEAR_2100]],
  ["expireTime", ["a"]],
  ["expire", ["a", 10, "GT"]],
  ["persist", ["a"]],
  ["copy", ["a", "a2"]],
  ["rename", ["a2", "a3"]],
  ["renameNX", ["a3", "b"]],
  ["dump", ["b"]],
  ["touch", [["a", "b"]]],
  ["unlink", ["c"]],
  ["del", [["b", "missing"]]],
  ["objectEncoding", ["n"]],
  ["objectIdleTime", ["n"], kind],
  ["keys", ["?"], unordered],
  ["dbSize", []],
  ["randomKey", [], kind],
  ["move", ["a", 5]],
  // Hashes.
  ["hSet", ["h", { one: 1, two: "zwei", "": "empty name" }]],
  ["hSet", ["h", "three", Buffer.from([0, 255, 13, 10])]],
  ["hGet", ["h", "two"]],
  ["hGetAll", ["h"]],
  ["hGetAll", ["missing"]],
  ["hmGet", ["h", ["one", "missing"]]],
  ["hKeys", ["h"]],
  ["hVals", ["h"]],
  ["hLen", ["h"]],
  ["hExists", ["h", "one"]],
  ["hIncrByFloat", ["h", "one", 0.25]],
  ["hRandFieldCountWithValues", ["h", 10], unordered],
  ["hDel", ["h", ["one", "missing"]]],
  ["hScan", ["h", "0"]],
  // Lists.
  ["rPush", ["l", ["a", "b", "c", BINARY]]],
  ["lPush", ["l", "z"]],
  ["lRange", ["l", 0, -1]],
  ["lInsert", ["l", "BEFORE", "b", "ab"]],
  ["lSet", ["l", 0, "first"]],
  ["lPosCount", ["l", "c", 0]],
  ["lRem", ["l", 1, "ab"]],
  ["lPop", ["l"]],
  ["rPopCount", ["l", 2]],
  ["lMove", ["l", "l2", "LEFT", "RIGHT"]],
  ["lmPop", [["missing", "l"], "LEFT", { COUNT: 5 }]],
  ["lPop", ["missing"]],
  ["rPush", ["unsorted", ["3", "1", "2"]]],
  ["sort", ["unsorted", { DIRECTION: "DESC" }]],
  ["sortStore", ["unsorted", "sorted"]],
  ["sortRo", ["sorted", { ALPHA: true }]],
  // Sets.
  ["sAdd", ["t", ["a", "b", "c"]]],
  ["sAdd", ["u", ["b", "c", "d"]]],
  ["sMembers", ["t"], unordered],
  ["smIsMember", ["t", ["a", "d"]]],
  ["sInter", [["t", "u"]], unordered],
  ["sInterCard", [["t", "u"]]],
  ["sUnion", [["t", "u"]], unordered],
  ["sDiffStore", ["v", ["t", "u"]]],
  ["sMove", ["t", "u", "a"]],
  ["sRandMemberCount", ["t", 10], unordered],
  ["sRem", ["t", ["b", "missing"]]],
  ["sPopCount", ["v", 10], unordered],
  // Sorted sets.
  ["zAdd", ["z", [{ score: 1, value: "a" }, { score: 2.5, value: "b" }, { score: Infinity, value: "c" }]]],
  ["zAdd", ["z", { score: 5, value: "a" }, { comparison: "GT", CH: true }]],
  ["zIncrBy", ["z", 0.1, "a"]],
  ["zScore", ["z", "a"]],
  ["zScore", ["z", "missing"]],
  ["zmScore", ["z", ["a", "missing"]]],
  ["zRangeWithScores", ["z", 0, -1]],
  ["zRange", ["z", "(2", "+inf", { BY: "SCORE", LIMIT: { offset: 0, count: 2 } }]],
  ["zRank", ["z", "a"]],
  ["zRevRank", ["z", "missing"]],
  ["zCount", ["z", 0, 10]],
  ["zAdd", ["z2", [{ score: 1, value: "a" }, { score: 1, value: "d" }]]],
  ["zRangeByLex", ["z2", "[a", "(d"]],
  ["zUnionWithScores", [["z", "z2"]]],
  ["zUnionStore", ["z3", ["z", "z2"], { AGGREGATE: "MAX" }]],
  ["zPopMinCount", ["z3", 2]],
  ["zmPop", [["z3"], "MIN"]],
  ["zRemRangeByScore", ["z", 0, 3]],
  // Streams.
  ["xAdd", ["x", "1-1", { f: "v" }]],
  ["xAdd", ["x", "2-*", { f: "w" }]],
  ["xAdd", ["clocked", "*", { f: "v" }], kind],
  ["xLen", ["x"]],
  ["xRange", ["x", "-", "+"]],
  ["xRead", [[{ key: "x", id: "0" }, { key: "missing", id: "0" }], { COUNT: 10 }]],
  ["xRead", [{ key: "x", id: "$" }]],
  ["xGroupCreate", ["x", "g", "0"]],
  ["xReadGroup", ["g", "me", { key: "x", id: ">" }]],
  ["xPending", ["x", "g"]],
  ["xPendingRange", ["x", "g", "-", "+", 10], without("millisecondsSinceLastDelivery")],
  ["xClaim", ["x", "g", "you", 0, "1-1"]],
  ["xAutoClaim", ["x", "g", "you", 0, "0"]],
  ["xAck", ["x", "g", "1-1"]],
  ["xInfoStream", ["x"]],
  ["xInfoConsumers", ["x", "g"], without("idle", "inactive")],
  ["xTrim", ["x", "MAXLEN", 1]],
  // Bits, counters and places.
  ["setBit", ["bits", 7, 1]],
  ["bitCount", ["bits"]],
  ["bitPos", ["bits", 1]],
  ["bitOp", ["NOT", "inverse", "bits"]],
  ["get", ["inverse"]],
  ["bitField", ["bits", [{ operation: "SET", encoding: "u8", offset: 0, value: 255 }, { operation: "GET", encoding: "u4", offset: 0 }]]],
  ["pfAdd", ["hll", ["a", "b", "c"]]],
  ["pfCount", ["hll"]],
  ["pfMerge", ["hll2", ["hll"]]],
  ["geoAdd", ["geo", [{ longitude: 13.361389, latitude: 38.115556, member: "Palermo" }, { longitude: 15.087269, latitude: 37.502669, member: "Catania" }]]],
  ["geoDist", ["geo", "Palermo", "Catania", "km"]],
  ["geoPos", ["geo", ["Palermo", "missing"]]],
  ["geoHash", ["geo", ["Palermo"]]],
  ["geoSearchWith", ["geo", { longitude: 15, latitude: 37 }, { radius: 200, unit: "km" }, ["WITHDIST", "WITHCOORD"], { SORT: "ASC" }]],
  // Scripts and functions.
  ["eval", ["return {1, 'two', false, {KEYS[1], ARGV[1]}}", { keys: ["k"], arguments: ["v"] }]],
  ["scriptLoad", ["return 1"]],
  ["scriptExists", [["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", UNKNOWN_SCRIPT]]],
  ["evalSha", ["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", {}]],
  ["functionLoad", [LIBRARY, { REPLACE: true }]],
  ["fCall", ["twice", { arguments: ["21"] }]],
  ["functionList", []],
  ["functionFlush", []],
  ["scriptFlush", []],
  // The server and the connection.
  ["ping", []],
  ["ping", ["text"]],
  ["echo", ["text"]],
  ["time", [], kind],
  ["info", ["server"], lines("redis_version", "redis_mode", "valkey_version")],
  ["configGet", ["maxmemory*"], unordered],
  ["commandCount", []],
  ["commandGetKeys", [["MSET", "a", "1", "b", "2"]]],
  ["commandInfo", [["get", "missing"]]],
  ["aclWhoAmI", []],
  ["clientSetName", ["renamed"]],
  ["clientGetName", []],
  ["clientId", [], kind],
  ["sendCommand", [["CLIENT", "INFO"]], lines("name", "db", "user", "resp", "sub", "psub", "multi")],
  ["clientSetName", [""]],
  ["swapDb", [0, 6]],
  ["dbSize", []],
  ["flushDb", []],
];

/** Calls that the server refuses; an explicit pipeline shows only the first of them. */
const ERRORS = [
  ["set", ["string", "v"]],
  ["lPush", ["string", "v"]],
  ["hGetAll", ["string"]],
  ["incr", ["string"]],
  ["sendCommand", [["GET"]]],
  ["sendCommand", [["SET", "k", "v", "NONSENSE"]]],
  ["sendCommand", [["OBJECT", "NONSENSE"]]],
  ["lSet", ["missing", 0, "v"]],
  ["rename", ["missing", "m"]],
  ["xReadGroup", ["g", "me", { key: "missing", id: ">" }]],
  ["eval", ["return redis.error_reply('CUSTOM wrong')", {}]],
  ["eval", ["return redis.call('LPUSH', KEYS[1], 'v')", { keys: ["string"] }]],
  ["eval", ["syntax error", {}]],
  ["evalSha", [UNKNOWN_SCRIPT, {}]],
  ["fCall", ["missing", {}]],
];

const label = ([method, parameters]) => `${method} ${JSON.stringify(parameters).slice(0, 80)}`;

/** Runs `scenario` with a client of its own on an empty server. */
async function withClient(url, log, options, scenario) {
  const client = await connect(url, log, options);
  await client.flushAll();
  try {
    await scenario(client);
  } finally {
    await client.close();
  }
}

/** A connected client; every connection it loses or retries is noted, which no side should do. */
async function connect(url, log, options) {
  log.dials(1);
  const client = createClient({ url, ...options });
  client.on("reconnecting", () => log.record("event", "reconnecting"));
  client.on("error", (error) => log.record("event", error));
  return client.connect();
}

/** Hands out the bytes of bulk strings, which is how binary values are read with this library. */
function asBuffers(client) {
  return client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
}

function eachCall(options, mapped = (client) => client) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      for (const call of [...CALLS, ...ERRORS]) {
        const [method, parameters, shape] = call;
        await log.settle(label(call), mapped(client)[method](...parameters), shape);
      }
    });
}

/** All calls in the same turn: the library makes a pipeline of them by itself. */
function automaticPipeline(options) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      const calls = [...CALLS, ...ERRORS];
      const replies = await Promise.allSettled(calls.map(([method, parameters]) => client[method](...parameters)));
      replies.forEach(({ reason, value }, at) => log.record(label(calls[at]), reason ?? value, calls[at][2]));
    });
}

function explicitPipeline(options) {
  return (url, log) =>
    withClient(url, log, options, async (client) => {
      const pipeline = client.multi();
      for (const [method, parameters] of CALLS) pipeline[method](...parameters);
      const replies = await pipeline.execAsPipeline();
      CALLS.forEach((call, at) => log.record(label(call), replies[at], call[2]));
      const refused = client.multi().set("string", "v").lPush("string", "v").get("string");
      await log.settle("a pipeline with an error", refused.execAsPipeline());
      await log.settle("after it", client.get("string"));
    });
}

/** What the connection learns while it is made, by protocol, database and name. */
async function handshake(url, log) {
  for (const options of [{}, { RESP: 2 }, { RESP: 3 }, { database: 3 }, { name: "a-name" }]) {
    const client = await connect(url, log, options);
    log.record(`ready with ${JSON.stringify(options)}`, [client.isReady, client.options.RESP]);
    await log.settle("HELLO", client.hello(), without("id"));
    const info = client.sendCommand(["CLIENT", "INFO"]);
    await log.settle("CLIENT INFO", info, lines("name", "db", "user", "resp", "lib-name", "lib-ver"));
    const ids = [await client.clientId(), await client.clientId()];
    log.record("the id stays", ids[0] === ids[1]);
    await client.close();
  }
}

/** SCAN and its kin over collections large enough to need several rounds. */
function iterators(url, log) {
  return withClient(url, log, {}, async (client) => {
    await Promise.all(
      Array.from({ length: SCANNED }, (_, i) => [
        client.set(`key:${i}`, i.toString()),
        client.hSet("h", `field:${i}`, i),
        client.sAdd("t", `member:${i}`),
        client.zAdd("z", { score: i, value: `member:${i}` }),
      ]).flat(),
    );
    const gather = async (pages) => {
      const found = [];
      for await (const page of pages) found.push(...page);
      return unordered(found);
    };
    log.record("scan", await gather(client.scanIterator({ MATCH: "key:*", COUNT: 50 })));
    log.record("scan of a type", await gather(client.scanIterator({ TYPE: "hash" })));
    log.record("hscan", await gather(client.hScanIterator("h")));
    log.record("sscan", await gather(client.sScanIterator("t", { COUNT: 7 })));
    log.record("zscan", await gather(client.zScanIterator("z", { MATCH: "*5*" })));
  });
}

/** Clients of four databases at once: none sees another's keys. */
async function databases(url, log) {
  const clients = await Promise.all([0, 1, 3, 15].map((database) => connect(url, log, { database })));
  await clients[0].flushAll();
  const keys = Array.from({ length: 100 }, (_, i) => `key:${i}`);
  await Promise.all(
    clients.flatMap((client) => keys.map((key) => client.set(key, `${client.options.database} ${key}`))),
  );
  for (const client of clients) {
    await log.settle("values", client.mGet(keys));
    await log.settle("dbsize", client.dbSize());
  }
  await log.settle("SELECT", clients[0].select(1));
  await log.settle("moved", clients[0].get("key:7"));
  await log.settle("SELECT", clients[0].select(99));
  await log.settle("stayed", clients[0].get("key:7"));
  await Promise.all(clients.map((client) => client.close()));
}

/** Values of 1 MB, both ways, alone and in a pipeline. */
function bigValues(url, log) {
  return withClient(url, log, {}, async (client) => {
    await log.settle("set", client.set("big", BIG));
    await log.settle("get", client.get("big"), (value) => digest([value]));
    await log.settle("append", client.append("big", BIG));
    await log.settle("mget", client.mGet(["big", "missing", "big"]), digest);
    const pipeline = client.multi();
    for (let i = 0; i < 10; i += 1) pipeline.set(`big:${i}`, BIG.slice(i)).get(`big:${i}`).strLen(`big:${i}`);
    await log.settle("pipeline", pipeline.execAsPipeline(), digest);
  });
}

/** Fifty tasks on one connection. */
function tasks(url, log) {
  return withClient(url, log, {}, async (client) => {
    const work = async (task) => {
      const replies = [];
      for (let i = 0; i < 40; i += 1) {
        replies.push(await client.set(`${task}:${i}`, `value ${task} ${i}`));
        replies.push(await client.get(`${task}:${i}`));
        const list = `list:${task}`;
        replies.push(await client.multi().rPush(list, i.toString()).lRange(list, 0, -1).execAsPipeline());
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
  ["calls, RESP2", eachCall({ RESP: 2 })],
  ["calls, as buffers", eachCall({}, asBuffers)],
  ["automatic pipeline, RESP3", automaticPipeline({})],
  ["automatic pipeline, RESP2", automaticPipeline({ RESP: 2 })],
  ["explicit pipeline, RESP3", explicitPipeline({})],
  ["explicit pipeline, RESP2", explicitPipeline({ RESP: 2 })],
  ["iterators", iterators],
  ["databases", databases],
  ["big values", bigValues],
  ["tasks", tasks],
]);
