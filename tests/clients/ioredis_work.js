/**
 * ioredis at work that needs more than a shared connection: transactions, WATCH, publish and subscribe, blocking
 * commands, in RESP3 (the default) and RESP2.
 *
 * MONITOR is not among them: ioredis takes what it monitors for replies as long as its caller has not heard of the OK, so
 * that it fails, directly too, when somebody else is busy.
 */
"use strict";

const { Redis } = require("ioredis");
const { blockedClients, digest, main, unordered, until } = require("./compare.js");

const BINARY = Buffer.from([...Array(256).keys(), ...Buffer.from("\r\n$-1\r\n")]);
const MANY = 1_500;

/** The clients of one scenario, which are closed with it. */
class Clients {
  constructor(url, log, options) {
    Object.assign(this, { url, log, options, all: [] });
  }

  /** One that is ready; an error or a reconnection that nobody asked for is noted. */
  async ready(options = {}) {
    return this.watched(new Redis(this.url, { ...this.options, ...options }));
  }

  /** A copy, as an application makes it for whatever keeps a connection busy. */
  async copy(client, options) {
    return this.watched(client.duplicate(options));
  }

  async several(count, options) {
    return Promise.all(Array.from({ length: count }, () => this.ready(options)));
  }

  async watched(client) {
    this.log.dials(1);
    this.all.push(client);
    client.on("error", (error) => this.log.record("error event", error));
    client.on("reconnecting", () => this.log.record("event", "reconnecting"));
    await new Promise((ready) => client.once("ready", ready));
    return client;
  }

  close() {
    for (const client of this.all) client.disconnect();
  }
}

/** The scenario in both protocols; its keys begin with its name. */
function scenario(name, body) {
  return [3, 2].map((protocol) => {
    const group = async (url, log) => {
      const clients = new Clients(url, log, { protocol });
      const key = (suffix) => `${protocol}:${name}:${suffix}`;
      try {
        await body(clients, log, key);
      } finally {
        clients.close();
      }
    };
    return [`${name}, RESP${protocol}`, group];
  });
}

async function transactions(clients, log, key) {
  const client = await clients.ready();
  const [text, list, number] = [key("text"), key("list"), key("number")];
  const all = client.multi().set(text, "v").rpush(list, "a", "b", BINARY).lrange(list, 0, 1).incr(number).get(text);
  log.record("exec", await all.exec());
  log.record("nothing", await client.multi().exec());
  log.record("an error inside", await client.multi().set(text, "w").incr(text).get(text).exec());
  await log.settle("a wrong one", client.multi().set(text, "lost").call("GET").set(text, "lost too").exec());
  await log.settle("an unknown one", client.multi().call("NONSENSE", "a").exec());
  log.record("nothing of it was done", await client.get(text));
  log.record("a hash and scores", await client.multi().hset(key("h"), { a: 1 }).hgetall(key("h")).zadd(key("z"), 1.5, "m").zscore(key("z"), "m").exec());
  log.record("buffers", await client.multi().getBuffer(text).lrangeBuffer(list, 2, 2).exec());
  await client.multi({ pipeline: false });
  log.record("queued", [await client.set(text, "step by step"), await client.get(text)]);
  log.record("steps", await client.exec());
  await client.multi({ pipeline: false });
  log.record("queued", await client.set(text, "taken back"));
  log.record("discarded", await client.discard());
  log.record("unchanged", await client.get(text));
  await log.settle("EXEC alone", client.exec());
  await log.settle("DISCARD alone", client.discard());
  await client.multi({ pipeline: false });
  await log.settle("MULTI in MULTI", client.call("MULTI"));
  await log.settle("WATCH in MULTI", client.watch(text));
  await log.settle("the end of it", client.exec());
  const pipeline = client.pipeline().get(text).multi().set(text, "in a pipeline").get(text).exec();
  log.record("within a pipeline", await pipeline.get(text).exec());
}

/** Blocks of many commands, and of large values. */
async function largeTransactions(clients, log, key) {
  const client = await clients.ready();
  const block = client.multi();
  for (let at = 0; at < MANY; at += 1) block.rpush(key("list"), at);
  log.record("many commands", digest((await block.exec()).map(([, length]) => length)));
  const big = "0123456789".repeat(40_000);
  const heavy = client.multi();
  for (let at = 0; at < 5; at += 1) heavy.set(key(at), `${at}${big}`).strlen(key(at)).get(key(at));
  log.record("large values", digest((await heavy.exec()).map(([, value]) => value)));
}

/** Money is moved by many clients at once, and whoever looks in one transaction sees all of it. */
async function consistency(clients, log, key) {
  const [rich, poor] = [key("rich"), key("poor")];
  const [observer, ...movers] = await clients.several(9);
  await observer.mset(rich, 10_000, poor, 0);
  const sums = new Set();
  const work = movers.map(async (client, at) => {
    for (let round = 0; round < 40; round += 1) await client.multi().decrby(rich, at).incrby(poor, at).exec();
  });
  const looking = (async () => {
    for (let round = 0; round < 40; round += 1) {
      const [[, left], [, right]] = await observer.multi().get(rich).get(poor).exec();
      sums.add(Number(left) + Number(right));
    }
  })();
  await Promise.all([...work, looking]);
  log.record("sums seen", [...sums]);
  log.record("in the end", await observer.mget(rich, poor));
}

async function watching(clients, log, key) {
  const client = await clients.ready();
  const other = await clients.copy(client);
  const [watched, second] = [key("watched"), key("second")];
  log.record("watch", await client.watch(watched, second));
  log.record("undisturbed", await client.multi().set(watched, 1).exec());
  await client.watch(watched);
  await other.set(watched, "changed");
  log.record("disturbed", await client.multi().set(watched, 2).exec());
  log.record("once only", await client.multi().get(watched).exec());
  await client.watch(watched);
  await client.set(watched, "by itself");
  log.record("disturbed by itself", await client.multi().set(watched, 2).exec());
  await client.watch(watched);
  log.record("unwatch", await client.unwatch());
  await other.set(watched, "again");
  log.record("after unwatch", await client.multi().get(watched).exec());
  await client.watch(watched, second);
  await other.del(second, watched);
  await client.multi({ pipeline: false });
  log.record("discard", await client.discard());
  await other.set(watched, "yet again");
  log.record("after discard", await client.multi().get(watched).exec());
  await client.watch(key("missing"));
  await other.rpush(key("missing"), "appeared");
  log.record("it appeared", await client.multi().llen(key("missing")).exec());
}

/** A counter that several clients raise by reading it, watching it, and writing it. */
async function optimisticCounter(clients, log, key) {
  const counter = key("counter");
  const raise = async (client) => {
    for (let round = 0; round < 10; round += 1) {
      let done = null;
      while (done === null) {
        await client.watch(counter);
        const value = Number(await client.get(counter));
        done = await client.multi().set(counter, value + 1).exec();
      }
    }
  };
  const several = await clients.several(6);
  await Promise.all(several.map(raise));
  log.record("counted", await several[0].get(counter));
}

async function channels(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = [];
  subscriber.on("message", (channel, message) => heard.push([channel, message]));
  subscriber.on("pmessage", (pattern, channel, message) => heard.push([pattern, channel, message]));
  const [one, two] = [key("one"), key("two")];
  log.record("subscribed", await subscriber.subscribe(one, two));
  log.record("to a pattern", await subscriber.psubscribe(key("t*")));
  log.record("twice", await subscriber.subscribe(one));
  log.record("ping", await subscriber.ping());
  for (let at = 0; at < 50; at += 1) await publisher.publish(at % 2 ? one : two, `message ${at}`);
  log.record("someone heard it", (await publisher.publish(one, "last")) > 0);
  log.record("nobody heard it", await publisher.publish(key("nobody"), "lost"));
  await until("all is heard", () => heard.length === 50 + 25 + 1);
  // A message that two subscriptions match comes twice, and which comes first is the server's choice.
  log.record("on one", heard.filter(([channel]) => channel === one));
  log.record("on two", heard.filter(([channel]) => channel === two));
  log.record("on the pattern", heard.filter(([pattern]) => pattern === key("t*")));
  log.record("known channels", unordered(await publisher.pubsub("CHANNELS", key("*"))));
  log.record("unsubscribed", await subscriber.unsubscribe(one));
  log.record("not subscribed", await subscriber.unsubscribe(key("never")));
  log.record("from the last", await subscriber.unsubscribe(two));
  log.record("from all patterns", await subscriber.punsubscribe());
  log.record("an ordinary client again", [await subscriber.set(key("text"), "v"), await subscriber.get(key("text"))]);
  log.record("gone", await publisher.pubsub("CHANNELS", key("*")));
}

/** What the library lets a subscriber do. */
async function restricted(clients, log, key) {
  const client = await clients.ready();
  await client.subscribe(key("channel"));
  await log.settle("GET", client.get(key("text")));
  await log.settle("MULTI", client.multi().get(key("text")).exec());
  await log.settle("PING", client.ping());
  await client.unsubscribe(key("channel"));
  await log.settle("GET afterwards", client.get(key("text")));
  await log.settle("QUIT", client.quit());
}

async function binaryMessages(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = [];
  subscriber.on("messageBuffer", (channel, message) => heard.push(message));
  const channel = Buffer.concat([Buffer.from(key("")), BINARY]);
  log.record("subscribed", await subscriber.subscribe(channel));
  const messages = [BINARY, Buffer.alloc(0), Buffer.alloc(300_000, 7), Buffer.from("ünïcode")];
  for (const message of messages) await publisher.publish(channel, message);
  await until("all is heard", () => heard.length === messages.length);
  log.record("heard", digest(heard.map((message) => message.toString("hex"))));
}

async function shardedChannels(clients, log, key) {
  const publisher = await clients.ready();
  const subscriber = await clients.copy(publisher);
  const heard = [];
  subscriber.on("smessage", (channel, message) => heard.push([channel, message]));
  log.record("subscribed", await subscriber.ssubscribe(key("{tag}")));
  for (let at = 0; at < 20; at += 1) await publisher.spublish(key("{tag}"), `message ${at}`);
  await until("all is heard", () => heard.length === 20);
  log.record("heard", heard);
  log.record("known", await publisher.pubsub("SHARDCHANNELS", key("*")));
  log.record("unsubscribed", await subscriber.sunsubscribe(key("{tag}")));
  log.record("an ordinary client again", await subscriber.get(key("text")));
}

/** Each of several subscribers hears each of several publishers in order. */
async function chatRoom(clients, log, key) {
  const publishers = await clients.several(4);
  const subscribers = await clients.several(3);
  const heard = subscribers.map(() => []);
  subscribers.forEach((client, at) => client.on("message", (_, message) => heard[at].push(message)));
  await Promise.all(subscribers.map((client) => client.subscribe(key("room"))));
  const talk = async (client, name) => {
    for (let at = 0; at < 100; at += 1) await client.publish(key("room"), `${name} ${at}`);
  };
  await Promise.all(publishers.map(talk));
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
  await client.config("SET", "notify-keyspace-events", "KEA");
  const heard = [];
  subscriber.on("pmessage", (_, channel, event) => heard.push(`${channel} ${event}`));
  await subscriber.psubscribe(`__keyspace@0__:${key("*")}`);
  await client.set(key("a"), 1);
  await client.multi().incr(key("a")).expire(key("a"), 100).exec();
  await client.rpush(key("list"), 1, 2);
  await client.lpop(key("list"), 2);
  await client.set(key("brief"), "v", "PX", 20);
  await until("it has expired", () => heard.at(-1) === `__keyspace@0__:${key("brief")} expired`);
  await client.unlink(key("a"));
  await until("the last is told", () => heard.at(-1) === `__keyspace@0__:${key("a")} del`);
  await client.config("SET", "notify-keyspace-events", "");
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
  await client.rpush(list, "ready");
  log.record("nothing to wait for", await waiting.blpop(list, 0));
  log.record("too late", await waiting.blpop(list, 0.02));
  await served("blpop", waiting.blpop(other, list, 0), () => client.rpush(list, "a", "b"));
  log.record("the rest", await client.lrange(list, 0, -1));
  await client.del(list);
  await served("brpop", waiting.brpop(list, 5), () => client.rpush(list, "a", "b"));
  await client.del(list);
  await served("blmove", waiting.blmove(list, other, "LEFT", "RIGHT", 0), () => client.rpush(list, "moved"));
  await served("brpoplpush", waiting.brpoplpush(list, other, 0), () => client.rpush(list, "moved too"));
  log.record("moved", await client.lrange(other, 0, -1));
  await served("blmpop", waiting.blmpop(0, 1, list, "LEFT", "COUNT", 2), () => client.rpush(list, "x", "y", "z"));
  await served("bzpopmin", waiting.bzpopmin(scores, 0), () => client.zadd(scores, 2, "b", 1.5, "a"));
  await client.del(scores);
  await served("bzpopmax", waiting.bzpopmax(scores, 0), () => client.zadd(scores, 2, "b", 1.5, "a"));
  await client.del(scores);
  await served("bzmpop", waiting.bzmpop(0, 1, scores, "MAX"), () => client.zadd(scores, 3, "c", 4, "d"));
  await log.settle("of a wrong kind", waiting.blpop(scores, 0));
  await log.settle("with a wrong timeout", waiting.blpop(list, "soon"));
  log.record("does not wait in a transaction", await client.multi().blpop(key("empty"), 0).brpop(key("empty"), 0).exec());
  await waiting.set(key("after"), "as ever");
  log.record("ordinary again", await waiting.get(key("after")));
}

/** Several consumers of one list: each element goes to one of them. */
async function consumers(clients, log, key) {
  const producer = await clients.ready();
  const several = await clients.several(6);
  const consume = async (client) => {
    const got = [];
    for (;;) {
      const [, job] = await client.brpop(key("jobs"), 0);
      if (job === "stop") return got;
      got.push(Number(job));
      await client.multi().incr(key("done")).sadd(key("names"), job).exec();
    }
  };
  const working = several.map(consume);
  for (let at = 0; at < 200; at += 1) await producer.lpush(key("jobs"), at);
  await producer.lpush(key("jobs"), ...several.map(() => "stop"));
  const done = (await Promise.all(working)).flat();
  log.record("done, each once", done.toSorted((left, right) => left - right));
  log.record("counted", [await producer.get(key("done")), await producer.scard(key("names"))]);
}

/** A consumer that goes while it waits takes nothing with it. */
async function goneWhileWaiting(clients, log, key) {
  const client = await clients.ready();
  for (let round = 0; round < 5; round += 1) {
    await blockedClients(client, 0);
    const waiting = await clients.ready();
    const waited = waiting.blpop(key(round), 0).catch((error) => error.message);
    await blockedClients(client, 1);
    waiting.disconnect();
    await blockedClients(client, 0);
    await client.rpush(key(round), "kept");
    log.record("what it says", await waited);
    log.record("nothing is lost", await client.lrange(key(round), 0, -1));
  }
}

/** One client ends another's waiting, or its connection, by its id. */
async function byId(clients, log, key) {
  const client = await clients.ready();
  const waiting = await clients.copy(client);
  const id = await waiting.client("ID");
  log.record("not blocked", await client.client("UNBLOCK", id));
  await blockedClients(client, 0);
  for (const reason of ["TIMEOUT", "ERROR"]) {
    const waited = waiting.blpop(key("list"), 0);
    await blockedClients(client, 1);
    log.record("unblocked", await client.client("UNBLOCK", id, reason));
    await log.settle(`it got, by ${reason}`, waited);
  }
  const mortal = await clients.ready({ retryStrategy: () => null });
  const ended = new Promise((resolve) => mortal.once("end", resolve));
  log.record("killed", await client.client("KILL", "ID", await mortal.client("ID")));
  await ended;
  log.record("its state", mortal.status);
  await log.settle("a command of the dead", mortal.get(key("text")));
}

/** A subscriber whose connection is ended comes back, and its subscriptions with it. */
async function resubscription(clients, log, key) {
  const client = await clients.ready();
  const subscriber = await clients.copy(client, { retryStrategy: () => 1 });
  // When it learns of it is left to chance.
  subscriber.removeAllListeners("reconnecting");
  const heard = [];
  subscriber.on("message", (_, message) => heard.push(message));
  const id = await subscriber.client("ID");
  await subscriber.subscribe(key("channel"), key("another"));
  const ready = new Promise((resolve) => subscriber.once("ready", resolve));
  log.record("killed", await client.client("KILL", "ID", id));
  log.dials(1);
  await ready;
  await until("it is subscribed again", async () => (await client.pubsub("CHANNELS", key("*"))).length === 2);
  await client.publish(key("channel"), "welcome back");
  await until("it hears", () => heard.length === 1);
  log.record("heard", heard);
}

async function streams(clients, log, key) {
  const producer = await clients.ready();
  const stream = key("stream");
  await producer.xgroup("CREATE", stream, "group", "$", "MKSTREAM");
  const several = await clients.several(4);
  const consume = async (client, at) => {
    const got = [];
    for (;;) {
      const read = await client.xreadgroup("GROUP", "group", `consumer ${at}`, "COUNT", 5, "BLOCK", 0, "STREAMS", stream, ">");
      const entries = read[0][1];
      for (const [id, [, value]] of entries) {
        await client.xack(stream, "group", id);
        if (value === "stop") return got;
        got.push(Number(value));
      }
    }
  };
  const working = several.map(consume);
  for (let at = 0; at < 100; at += 1) await producer.xadd(stream, `${at + 1}-1`, "f", at);
  // One at a time: a consumer that got two of them would leave another waiting.
  let left = several.length;
  working.forEach((work) => work.then(() => (left -= 1)));
  for (let due = several.length; due > 0; due -= 1) {
    await producer.xadd(stream, "*", "f", "stop");
    await until("one more has stopped", () => left < due);
  }
  const done = (await Promise.all(working)).flat();
  log.record("done, each once", done.toSorted((a, b) => a - b));
  log.record("pending", await producer.xpending(stream, "group"));
  await blockedClients(producer, 0);
  const tail = (await clients.copy(producer)).xread("BLOCK", 0, "STREAMS", stream, "$");
  await blockedClients(producer, 1);
  await producer.xadd(stream, "9999999999999-1", "f", "the end");
  log.record("the tail", await tail);
  log.record("nothing more", await producer.xread("BLOCK", 10, "STREAMS", stream, "$"));
}

async function scripts(clients, log, key) {
  const client = await clients.ready();
  client.defineCommand("move", {
    numberOfKeys: 2,
    lua: "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v .. ARGV[1]) end return v",
  });
  const [from, to] = [key("from"), key("to")];
  await client.rpush(from, "a", "b", "c");
  log.record("script", [await client.move(from, to, "!"), await client.move(from, to, "?")]);
  log.record("in a transaction", await client.multi().move(from, to, ".").lrange(to, 0, -1).exec());
  log.record("flushed", await client.script("FLUSH"));
  log.record("after a flush", await client.move(from, to, "!"));
  await client.script("FLUSH");
  log.record("in a transaction after a flush", await client.multi().rpush(from, "d").move(from, to, "!").exec());
  const subscriber = await clients.copy(client);
  const heard = [];
  subscriber.on("message", (_, message) => heard.push(message));
  await subscriber.subscribe(key("channel"));
  await client.eval("for i = 1, 3 do redis.call('PUBLISH', KEYS[1], 'message ' .. i) end", 1, key("channel"));
  await until("all is heard", () => heard.length === 3);
  log.record("published by a script", heard);
}

/** Pipelines that the library makes by itself, beside transactions and a consumer that waits. */
async function automaticPipelines(clients, log, key) {
  const client = await clients.ready({ enableAutoPipelining: true });
  const waiting = await clients.copy(client, { enableAutoPipelining: false });
  const waited = waiting.blpop(key("list"), 0);
  const replies = await Promise.all(
    Array.from({ length: 300 }, async (_, at) => {
      await client.set(key(at), at);
      const [[, sum], [, text]] = await client.multi().incrby(key(at), 1_000).get(key(at)).exec();
      return [sum, text, await client.get(key(at))];
    }),
  );
  log.record("replies", digest(replies));
  log.record("exactly", replies.slice(0, 3));
  await client.rpush(key("list"), "at last");
  log.record("waited for", await waited);
}

/** Databases: inside a transaction, and while it waits. */
async function databases(clients, log, key) {
  const [zero, three] = [await clients.ready(), await clients.ready({ db: 3 })];
  log.record("in database 3", await three.multi().set(key("text"), "three").get(key("text")).exec());
  log.record("not in 0", await zero.get(key("text")));
  log.record("SELECT inside", await zero.multi().select(3).get(key("text")).select(0).get(key("text")).exec());
  log.record("still in 0", await zero.get(key("text")));
  await three.watch(key("text"));
  await zero.set(key("text"), "zero");
  log.record("another key in 0", await three.multi().get(key("text")).exec());
  await blockedClients(zero, 0);
  const waited = three.blpop(key("list"), 0);
  await blockedClients(zero, 1);
  await zero.rpush(key("list"), "of another database");
  await zero.multi().select(3).rpush(key("list"), "of its own").select(0).exec();
  log.record("it got", await waited);
}

/** WAIT, and what a client may say about its own connection. */
async function connectionState(clients, log, key) {
  const client = await clients.ready({ connectionName: "a-name" });
  await client.set(key("text"), "v");
  log.record("wait", await client.wait(0, 10));
  log.record("name", await client.client("GETNAME"));
  log.record("no eviction", await client.client("NO-EVICT", "ON"));
  log.record("tracking", await client.client("TRACKINGINFO").then((info) => info.slice(0, 2)));
  await log.settle("tracking in this protocol", client.client("TRACKING", "ON", "BCAST", "PREFIX", key("")));
  await log.settle("off", client.client("TRACKING", "OFF"));
  log.record("reset", await client.call("RESET"));
  log.record("a name no more", await client.client("GETNAME"));
}

main([
  ...scenario("transactions", transactions),
  ...scenario("large transactions", largeTransactions),
  ...scenario("consistency", consistency),
  ...scenario("watching", watching),
  ...scenario("an optimistic counter", optimisticCounter),
  ...scenario("channels", channels),
  ...scenario("what a subscriber may", restricted),
  ...scenario("binary messages", binaryMessages),
  ...scenario("sharded channels", shardedChannels),
  ...scenario("a chat room", chatRoom),
  ...scenario("keyspace events", keyspaceEvents),
  ...scenario("blocking", blocking),
  ...scenario("consumers", consumers),
  ...scenario("gone while waiting", goneWhileWaiting),
  ...scenario("by id", byId),
  ...scenario("resubscription", resubscription),
  ...scenario("streams", streams),
  ...scenario("scripts", scripts),
  ...scenario("automatic pipelines", automaticPipelines),
  ...scenario("databases", databases),
  ...scenario("the state of a connection", connectionState),
]);
