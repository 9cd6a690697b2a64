/**
 * node-redis at work that needs more than a shared connection: transactions, WATCH, isolated pools, publish and
 * subscribe, blocking commands, MONITOR, in RESP3 (the default) and RESP2, and its client side caches.
 */
"use strict";

const { BasicClientSideCache, RESP_TYPES, WatchError, createClient, createClientPool, defineScript } = require("redis");
const { blockedClients, digest, main, unordered, until } = require("./compare.js");

const BINARY = Buffer.from([...Array(256).keys(), ...Buffer.from("\r\n$-1\r\n")]);
const MANY = 1_500;
const FEW = [1, 2, 3];

/** The clients of one scenario, which are closed with it. */
class Clients {
  constructor(first, log) {
    Object.assign(this, { first, log, all: [] });
  }

  /** One that is connected; an error or a reconnection that nobody asked for is noted. */
  async ready(options = {}) {
    return this.copy(this.first, options);
  }

  /** A copy, as an application makes it for whatever keeps a connection busy. */
  async copy(client, options) {
    return this.watched(client.duplicate(options), 1);
  }

  async several(count, options) {
    return Promise.all(Array.from({ length: count }, () => this.ready(options)));
  }

  /** A pool that has all its connections from the start. */
  async pool(size, options = {}) {
    const pool = createClientPool(this.first.options, { minimum: size, maximum: size, ...options });
    return this.watched(pool, size);
  }

  async watched(client, dials) {
    this.log.dials(dials);
    this.all.push(client);
    client.on("error", (error) => this.log.record("error event", error));
    client.on("reconnecting", () => this.log.record("event", "reconnecting"));
    await client.connect();
    return client;
  }

  close() {
    for (const client of this.all) if (client.isOpen) client.destroy();
  }
}

/** A client to copy: each that is made from scratch costs the library milliseconds. */
const templates = new Map();
function template(url, RESP) {
  const name = `${RESP} ${url}`;
  if (!templates.has(name)) templates.set(name, createClient({ url, RESP }));
  return templates.get(name);
}

/** The scenario in these protocols; its keys begin with its name. */
function scenario(name, body, protocols = [3, 2]) {
  return protocols.map((RESP) => {
    const group = async (url, log) => {
      const clients = new Clients(template(url, RESP), log);
      const key = (suffix) => `${RESP}:${name}:${suffix}`;
      try {
        await body(clients, log, key);
      } finally {
        clients.close();
      }
    };
    return [`${name}, RESP${RESP}`, group];
  });
}

/** What a promise comes to, with what an error of a transaction carries. */
async function outcome(log, label, promise) {
  try {
    log.record(label, await promise);
  } catch (error) {
    log.record(label, error);
    if (error.replies) log.record(`${label}: replies`, [error.replies, error.errorIndexes]);
  }
}

async function transactions(clients, log, key) {
  const client = await clients.ready();
  const [text, list, number] = [key("text"), key("list"), key("number")];
  const typed = client.multi().set(text, "v").rPush(list, ["a", "b"]).lRange(list, 0, 1).incr(number).get(text);
  log.record("exec", await typed.exec());
  log.record("nothing", await client.multi().exec());
  log.record("a hash and scores", await client.multi().hSet(key("h"), { a: 1 }).hGetAll(key("h")).zAdd(key("z"), { score: 1.5, value: "m" }).zScore(key("z"), "m").exec());
  await outcome(log, "an error inside", client.multi().set(text, "w").incr(text).get(text).exec());
  await outcome(log, "a wrong one", client.multi().set(text, "lost").addCommand(["GET"]).exec());
  await outcome(log, "an unknown one", client.multi().addCommand(["NONSENSE", "a"]).exec());
  log.record("nothing of it was done", await client.get(text));
  log.record("binary", await client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).multi().set(text, BINARY).get(text).exec());
  log.record("as a pipeline", await client.multi().set(text, "w").get(text).execAsPipeline());
  log.record("step by step", [
    await client.sendCommand(["MULTI"]),
    await client.sendCommand(["SET", text, "in steps"]),
    await client.sendCommand(["GET", text]),
    await client.sendCommand(["EXEC"]),
  ]);
  await client.sendCommand(["MULTI"]);
  await client.sendCommand(["SET", text, "taken back"]);
  log.record("discarded", await client.sendCommand(["DISCARD"]));
  log.record("unchanged", await client.get(text));
  await outcome(log, "EXEC alone", client.sendCommand(["EXEC"]));
  await outcome(log, "DISCARD alone", client.sendCommand(["DISCARD"]));
}

/** Blocks of many commands, and of large values. */
async function largeTransactions(clients, log, key) {
  const client = await clients.ready();
  const block = client.multi();
  for (let at = 0; at < MANY; at += 1) block.rPush(key("list"), `${at}`);
  log.record("many commands", digest(await block.exec()));
  const big = "0123456789".repeat(40_000);
  const heavy = client.multi();
  for (let at = 0; at < 5; at += 1) heavy.set(key(at), `${at}${big}`).strLen(key(at)).get(key(at));
  log.record("large values", digest(await heavy.exec()));
}

/** Fifty tasks on one client, whose transactions the library writes one behind the other. */
async function manyTransactions(clients, log, key) {
  const client = await clients.ready();
  const replies = await Promise.all(
    Array.from({ length: 50 }, async (_, task) => {
      const seen = [];
      for (let round = 0; round < 10; round += 1) {
        const [set, text, length] = await client.multi().set(key(task), `${task}.${round}`).get(key(task)).rPush(key("all"), "x").exec();
        seen.push(set, text, typeof length, await client.get(key(task)));
      }
      return seen;
    }),
  );
  log.record("replies", replies);
  log.record("in all", await client.lLen(key("all")));
}

async function watching(clients, log, key) {
  const client = await clients.ready();
  const other = await clients.copy(client);
  const [watched, second] = [key("watched"), key("second")];
  log.record("watch", await client.watch([watched, second]));
  log.record("undisturbed", await client.multi().set(watched, "1").exec());
  await client.watch(watched);
  await other.set(watched, "changed");
  await outcome(log, "disturbed", client.multi().set(watched, "2").exec());
  log.record("once only", await client.multi().get(watched).exec());
  await client.watch(watched);
  log.record("unwatch", await client.unwatch());
  await other.set(watched, "again");
  log.record("after unwatch", await client.multi().get(watched).exec());
  await client.watch(watched);
  await client.set(watched, "by itself");
  await outcome(log, "disturbed by itself", client.multi().set(watched, "2").exec());
  await client.watch(key("missing"));
  await other.rPush(key("missing"), "appeared");
  await outcome(log, "it appeared", client.multi().lLen(key("missing")).exec());
}

/** A counter that is raised by reading it, watching it, and writing it, on connections that a pool lends. */
async function optimisticCounter(clients, log, key) {
  const pool = await clients.pool(6);
  const counter = key("counter");
  const raise = () =>
    pool.execute(async (client) => {
      for (;;) {
        await client.watch(counter);
        const value = Number(await client.get(counter));
        try {
          return await client.multi().set(counter, `${value + 1}`).exec();
        } catch (error) {
          if (!(error instanceof WatchError)) throw error;
        }
      }
    });
  await Promise.all(Array.from({ length: 60 }, raise));
  log.record("counted", await pool.get(counter));
}

/** A pool whose clients wait, transact and read at once. */
async function isolatedPool(clients, log, key) {
  const pool = await clients.pool(8);
  const waiting = FEW.map((at) => pool.blPop(key(`list ${at}`), 0));
  const replies = await Promise.all(
    Array.from({ length: 100 }, async (_, at) => {
      const [set, text] = await pool.multi().set(key(at), `${at}`).get(key(at)).exec();
      return [set, text, await pool.get(key(at))];
    }),
  );
  log.record("replies", replies);
  for (const at of FEW) await pool.rPush(key(`list ${at}`), `element ${at}`);
  log.record("waited for", await Promise.all(waiting));
  log.record("lent", await pool.execute(async (client) => [await client.clientSetName("lent"), await client.clientGetName()]));
}

async function channels(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = { one: [], two: [], pattern: [] };
  const [one, two, pattern] = [key("one"), key("two"), key("t*")];
  await subscriber.subscribe(one, (message, channel) => heard.one.push([message, channel]));
  await subscriber.subscribe(two, (message) => heard.two.push(message));
  await subscriber.pSubscribe(pattern, (message, channel) => heard.pattern.push([message, channel]));
  const second = [];
  const listener = (message) => second.push(message);
  await subscriber.subscribe(one, listener);
  for (let at = 0; at < 50; at += 1) await publisher.publish(at % 2 ? one : two, `message ${at}`);
  log.record("someone heard it", (await publisher.publish(one, "last")) > 0);
  log.record("nobody heard it", await publisher.publish(key("nobody"), "lost"));
  await until("all is heard", () => heard.one.length === 26 && heard.two.length === 25 && heard.pattern.length === 25);
  log.record("heard", heard);
  log.record("by the second listener", second);
  log.record("ping", await subscriber.ping());
  log.record("known channels", unordered(await publisher.pubSubChannels(key("*"))));
  await subscriber.unsubscribe(one, listener);
  await subscriber.unsubscribe(two);
  await subscriber.pUnsubscribe();
  log.record("known channels", await publisher.pubSubChannels(key("*")));
  await subscriber.unsubscribe();
  log.record("an ordinary client again", [await subscriber.set(key("text"), "v"), await subscriber.get(key("text"))]);
  log.record("gone", await publisher.pubSubChannels(key("*")));
}

/** In RESP3 a subscriber goes on as an ordinary client; in RESP2 the library refuses. */
async function besideSubscription(clients, log, key) {
  const publisher = await clients.ready();
  const client = await clients.ready();
  const heard = [];
  await client.subscribe(key("channel"), (message) => heard.push(message));
  const commands = Array.from({ length: 50 }, async (_, at) => {
    await publisher.publish(key("channel"), `message ${at}`);
    if (client.options.RESP === 2) return "not in RESP2";
    const [set, number] = await client.multi().set(key("text"), `${at}`).incr(key("number")).exec();
    return [set, number, await client.echo(`${at}`)];
  });
  log.record("commands", await Promise.all(commands));
  if (client.options.RESP === 2) await outcome(log, "a command", client.get(key("text")));
  await until("all is heard", () => heard.length === 50);
  log.record("heard", heard);
}

async function binaryMessages(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = [];
  const channel = key("binary");
  await subscriber.subscribe(channel, (message) => heard.push(message), true);
  const messages = [BINARY, Buffer.alloc(0), Buffer.alloc(300_000, 7), Buffer.from("ünïcode")];
  for (const message of messages) await publisher.publish(channel, message);
  await until("all is heard", () => heard.length === messages.length);
  log.record("heard", digest(heard.map((message) => message.toString("hex"))));
}

async function shardedChannels(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = [];
  await subscriber.sSubscribe(key("{tag}"), (message, channel) => heard.push([channel, message]));
  for (let at = 0; at < 20; at += 1) await publisher.sPublish(key("{tag}"), `message ${at}`);
  await until("all is heard", () => heard.length === 20);
  log.record("heard", heard);
  log.record("known", await publisher.pubSubShardChannels(key("*")));
  await subscriber.sUnsubscribe(key("{tag}"));
  log.record("an ordinary client again", await subscriber.get(key("text")));
}

/** Each of several subscribers hears each of several publishers in order. */
async function chatRoom(clients, log, key) {
  const publishers = await clients.several(4);
  const subscribers = await clients.several(3);
  const heard = subscribers.map(() => []);
  await Promise.all(subscribers.map((client, at) => client.subscribe(key("room"), (message) => heard[at].push(message))));
  const talk = async (client, name) => {
    for (let at = 0; at < 100; at += 1) await client.publish(key("room"), `${name} ${at}`);
  };
  await Promise.all(publishers.map((client, name) => talk(client, name)));
  await until("everybody has heard everything", () => heard.every((messages) => messages.length === 400));
  heard.forEach((messages, at) => {
    const from = (name) => messages.filter((message) => message.startsWith(`${name} `));
    log.record(`what ${at} heard`, publishers.map((_, name) => digest(from(name))));
  });
}

/** What happens to keys is told on channels. */
async function keyspaceEvents(clients, log, key) {
  const client = await clients.ready();
  const subscriber = await clients.copy(client);
  await client.configSet("notify-keyspace-events", "KEA");
  const heard = [];
  await subscriber.pSubscribe(`__keyspace@0__:${key("*")}`, (event, channel) => heard.push(`${channel} ${event}`));
  await client.set(key("a"), 1);
  await client.multi().incr(key("a")).expire(key("a"), 100).exec();
  await client.set(key("brief"), "v", { expiration: { type: "PX", value: 20 } });
  await until("it has expired", () => heard.at(-1) === `__keyspace@0__:${key("brief")} expired`);
  await client.unlink(key("a"));
  await until("the last is told", () => heard.at(-1) === `__keyspace@0__:${key("a")} del`);
  await client.configSet("notify-keyspace-events", "");
  log.record("heard", heard);
}

async function blocking(clients, log, key) {
  const client = await clients.ready();
  const waiting = await clients.copy(client);
  const [list, other, scores] = [key("list"), key("other"), key("scores")];
  await blockedClients(client, 0);
  const served = async (label, waited, serve) => {
    await blockedClients(client, 1);
    await serve();
    await log.settle(label, waited);
  };
  await client.rPush(list, "ready");
  log.record("nothing to wait for", await waiting.blPop(list, 0));
  log.record("too late", await waiting.blPop(list, 0.02));
  await served("blPop", waiting.blPop([other, list], 0), () => client.rPush(list, ["a", "b"]));
  await client.del(list);
  await served("brPop", waiting.brPop(list, 5), () => client.rPush(list, ["a", "b"]));
  await client.del(list);
  await served("blMove", waiting.blMove(list, other, "LEFT", "RIGHT", 0), () => client.rPush(list, "moved"));
  await served("brPopLPush", waiting.brPopLPush(list, other, 0), () => client.rPush(list, "moved too"));
  log.record("moved", await client.lRange(other, 0, -1));
  await served("blmPop", waiting.blmPop(0, list, "LEFT", { COUNT: 2 }), () => client.rPush(list, ["x", "y", "z"]));
  await served("bzPopMin", waiting.bzPopMin(scores, 0), () => client.zAdd(scores, [{ score: 2, value: "b" }, { score: 1.5, value: "a" }]));
  await client.del(scores);
  await served("bzmPop", waiting.bzmPop(0, scores, "MAX"), () => client.zAdd(scores, [{ score: 3, value: "c" }]));
  await served("xRead", waiting.xRead({ key: key("stream"), id: "$" }, { BLOCK: 0 }), () => client.xAdd(key("stream"), "1-1", { f: "v" }));
  await log.settle("nothing more", waiting.xRead({ key: key("stream"), id: "$" }, { BLOCK: 10 }));
  await log.settle("with a wrong timeout", waiting.sendCommand(["BLPOP", list, "soon"]));
  // What comes behind a waiting command on its connection waits with it.
  const behind = [waiting.blPop(key("late"), 0), waiting.set(key("text"), "behind"), waiting.get(key("text"))];
  await blockedClients(client, 1);
  log.record("it waits", await client.exists(key("text")));
  await client.rPush(key("late"), "now");
  log.record("then all is done", await Promise.all(behind));
}

/** Several consumers of one list: each element goes to one of them. */
async function consumers(clients, log, key) {
  const producer = await clients.ready();
  const several = await clients.several(6);
  const consume = async (client) => {
    const got = [];
    for (;;) {
      const { element } = await client.brPop(key("jobs"), 0);
      if (element === "stop") return got;
      got.push(Number(element));
      await client.multi().incr(key("done")).sAdd(key("names"), element).exec();
    }
  };
  const working = several.map(consume);
  for (let at = 0; at < 200; at += 1) await producer.lPush(key("jobs"), `${at}`);
  await producer.lPush(key("jobs"), several.map(() => "stop"));
  const done = (await Promise.all(working)).flat();
  log.record("done, each once", done.toSorted((left, right) => left - right));
  log.record("counted", [await producer.get(key("done")), await producer.sCard(key("names"))]);
}

async function streams(clients, log, key) {
  const producer = await clients.ready();
  const stream = key("stream");
  await producer.xGroupCreate(stream, "group", "$", { MKSTREAM: true });
  const several = await clients.several(4);
  const consume = async (client, at) => {
    const got = [];
    for (;;) {
      const read = await client.xReadGroup("group", `consumer ${at}`, { key: stream, id: ">" }, { COUNT: 1, BLOCK: 0 });
      const messages = Array.isArray(read) ? read[0].messages : Object.values(read)[0];
      for (const { id, message } of messages) {
        await client.xAck(stream, "group", id);
        if (message.f === "stop") return got;
        got.push(Number(message.f));
      }
    }
  };
  const working = several.map(consume);
  for (let at = 0; at < 100; at += 1) await producer.xAdd(stream, `${at + 1}-1`, { f: `${at}` });
  for (let at = 0; at < several.length; at += 1) await producer.xAdd(stream, "*", { f: "stop" });
  const done = (await Promise.all(working)).flat();
  log.record("done, each once", done.toSorted((left, right) => left - right));
  log.record("pending", await producer.xPending(stream, "group"));
}

/** A consumer that goes while it waits takes nothing with it. */
async function goneWhileWaiting(clients, log, key) {
  const client = await clients.ready();
  for (let round = 0; round < 5; round += 1) {
    await blockedClients(client, 0);
    const waiting = await clients.ready();
    const waited = waiting.blPop(key(round), 0).catch((error) => error.message);
    await blockedClients(client, 1);
    waiting.destroy();
    await blockedClients(client, 0);
    await client.rPush(key(round), "kept");
    log.record("what it says", await waited);
    log.record("nothing is lost", await client.lRange(key(round), 0, -1));
  }
}

async function byId(clients, log, key) {
  const client = await clients.ready();
  const waiting = await clients.copy(client);
  const id = await waiting.clientId();
  log.record("not blocked", await client.clientUnblock(id));
  await blockedClients(client, 0);
  for (const reason of ["TIMEOUT", "ERROR"]) {
    const waited = waiting.blPop(key("list"), 0);
    await blockedClients(client, 1);
    log.record("unblocked", await client.clientUnblock(id, reason));
    await log.settle(`it got, by ${reason}`, waited);
  }
}

/** A subscriber whose connection is ended comes back, and its subscriptions with it. */
async function resubscription(clients, log, key) {
  const client = await clients.ready();
  const subscriber = await clients.copy(client, { socket: { ...client.options.socket, reconnectStrategy: () => 1 } });
  // When it learns of it is left to chance.
  subscriber.removeAllListeners("reconnecting").removeAllListeners("error").on("error", () => {});
  const heard = [];
  const id = await subscriber.clientId();
  await subscriber.subscribe([key("channel"), key("another")], (message) => heard.push(message));
  const ready = new Promise((resolve) => subscriber.once("ready", resolve));
  log.record("killed", await client.clientKill({ filter: "ID", id }));
  log.dials(1);
  await ready;
  await until("it is subscribed again", async () => (await client.pubSubChannels(key("*"))).length === 2);
  await client.publish(key("channel"), "welcome back");
  await until("it hears", () => heard.length === 1);
  log.record("heard", heard);
}

async function scripts(clients, log, key) {
  const move = defineScript({
    SCRIPT: "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v .. ARGV[1]) end return v",
    NUMBER_OF_KEYS: 2,
    parseCommand: (parser, from, to, suffix) => {
      parser.pushKeys([from, to]);
      parser.push(suffix);
    },
    transformReply: undefined,
  });
  const client = await clients.watched(createClient({ ...clients.first.options, scripts: { move } }), 1);
  const [from, to] = [key("from"), key("to")];
  await client.rPush(from, ["a", "b", "c", "d"]);
  log.record("script", [await client.move(from, to, "!"), await client.move(from, to, "?")]);
  log.record("in a transaction", await client.multi().move(from, to, ".").lRange(to, 0, -1).exec());
  log.record("flushed", await client.scriptFlush());
  log.record("after a flush", await client.move(from, to, "!"));
  const library = "#!lua name=work\nredis.register_function('push', function(k, a) return redis.call('RPUSH', k[1], a[1]) end)";
  log.record("loaded", await client.functionLoad(library, { REPLACE: true }));
  log.record("function", await client.fCall("push", { keys: [to], arguments: ["by a function"] }));
  log.record("functions in a transaction", await client.multi().fCall("push", { keys: [to], arguments: ["again"] }).lRange(to, -2, -1).exec());
}

async function monitor(clients, log, key) {
  const client = await clients.ready();
  const watcher = await clients.copy(client);
  const seen = [];
  await watcher.monitor((line) => {
    const words = line.slice(line.indexOf("] ") + 2);
    if (words.includes(key(""))) seen.push(words);
  });
  await client.set(key("text"), 'with "quotes"\r\n');
  await client.multi().incr(key("number")).get(key("text")).exec();
  await client.eval("return redis.call('GET', KEYS[1])", { keys: [key("text")] });
  await client.del(key("end"));
  await until("the last is seen", () => seen.at(-1)?.includes(key("end")));
  log.record("seen", seen);
  await watcher.reset();
  log.record("ordinary again", [await watcher.get(key("number")), await watcher.clientGetName()]);
}

/** Databases: inside a transaction, and while it waits. */
async function databases(clients, log, key) {
  const [zero, three] = [await clients.ready(), await clients.ready({ database: 3 })];
  log.record("in database 3", await three.multi().set(key("text"), "three").get(key("text")).exec());
  log.record("not in 0", await zero.get(key("text")));
  log.record("SELECT inside", await zero.multi().select(3).get(key("text")).select(0).get(key("text")).exec());
  log.record("still in 0", await zero.get(key("text")));
  await three.watch(key("text"));
  await zero.set(key("text"), "zero");
  log.record("another key in 0", await three.multi().get(key("text")).exec());
  await blockedClients(zero, 0);
  const waited = three.blPop(key("list"), 0);
  await blockedClients(zero, 1);
  await zero.rPush(key("list"), "of another database");
  await zero.multi().select(3).rPush(key("list"), "of its own").select(0).exec();
  log.record("it got", await waited);
}

/** A cache in the client, which the server tells what has changed. */
async function clientSideCache(clients, log, key) {
  const cache = new BasicClientSideCache({ maxEntries: 100 });
  const client = await clients.ready({ clientSideCache: cache });
  const other = await clients.ready();
  await other.set(key("text"), "first");
  log.record("first", await client.get(key("text")));
  log.record("from the cache", [await client.get(key("text")), await client.get(key("text")), cache.stats().hitCount]);
  await other.set(key("text"), "second");
  await until("it has heard of it", () => cache.size() === 0);
  log.record("second", await client.get(key("text")));
  await client.hSet(key("hash"), { a: "1", b: "2" });
  log.record("hash", [await client.hGetAll(key("hash")), await client.hGetAll(key("hash"))]);
  await client.hSet(key("hash"), "a", "changed by itself");
  await until("it has heard of itself", () => cache.size() === 1);
  log.record("hash again", await client.hGetAll(key("hash")));
  log.record("several", await client.mGet([key("text"), key("missing")]));
  await other.set(key("missing"), "no more");
  await until("it has heard of that too", () => cache.size() === 2);
  log.record("several again", await client.mGet([key("text"), key("missing")]));
  await other.del([key("text"), key("hash"), key("missing")]);
  await until("all is forgotten", () => cache.size() === 0);
  log.record("after all is gone", await client.get(key("text")));
}

main([
  ...scenario("transactions", transactions),
  ...scenario("large transactions", largeTransactions),
  ...scenario("many transactions", manyTransactions),
  ...scenario("watching", watching),
  ...scenario("an optimistic counter", optimisticCounter),
  ...scenario("an isolated pool", isolatedPool),
  ...scenario("channels", channels),
  ...scenario("beside a subscription", besideSubscription),
  ...scenario("binary messages", binaryMessages),
  ...scenario("sharded channels", shardedChannels),
  ...scenario("a chat room", chatRoom),
  ...scenario("keyspace events", keyspaceEvents),
  ...scenario("blocking", blocking),
  ...scenario("consumers", consumers),
  ...scenario("streams", streams),
  ...scenario("gone while waiting", goneWhileWaiting),
  ...scenario("by id", byId),
  ...scenario("resubscription", resubscription),
  ...scenario("scripts", scripts),
  ...scenario("monitor", monitor),
  ...scenario("databases", databases),
  ...scenario("a cache in the client", clientSideCache, [3]),
]);
