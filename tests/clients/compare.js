/**
 * Runs the same scenarios on two servers and compares what the library handed out.
 *
 * A scenario group is a function `group(url, log)`. It runs once on the direct URL and once on the URL
 * that leads through the proxy, each with a fresh server behind it, and writes what it saw to `log`.
 * The two logs must be equal, type for type, and no group may dial more often than it says it does, or than
 * it did on the other side.
 *
 * What cannot be equal on two servers is put into a comparable shape where it is recorded, never later:
 *
 * `unordered`  order of sets, hashes and scans: it follows the hash seed, which each server process draws anew.
 * `pairs`      the same for maps that a library hands out as a flat list of names and values.
 * `lifetime`   a TTL: some of it passes between the two commands.
 * `kind`       only the type: the clock, and ids and counters that a server chooses.
 * `lines`      the named lines of CLIENT INFO and INFO that describe neither an address, nor a time, nor load.
 * `without`    the named fields of a map are left out, at any depth: ids, idle times.
 */
"use strict";

const buffer = require("node:buffer");
const { channel } = require("node:diagnostics_channel");
const { createHash } = require("node:crypto");
const { inspect } = require("node:util");

// Otherwise only the first 50 bytes of a Buffer are shown, and compared.
buffer.INSPECT_MAX_BYTES = Infinity;

/** The longest that a group may take, and the longest that it may wait for one thing; both are far more than usual. */
const GROUP_LIMIT = 60_000;
const PATIENCE = 30_000;

// Counts below the libraries, so that it sees a silent reconnect as well as a reported one.
let dials = 0;
channel("net.client.socket").subscribe(() => {
  dials += 1;
});

/** The members of a collection in the order of their text. */
function unordered(value) {
  if (Array.isArray(value)) return value.toSorted(byText);
  if (value instanceof Map) return new Map([...value].toSorted(byText));
  if (value !== null && typeof value === "object" && !Buffer.isBuffer(value)) {
    return Object.fromEntries(Object.entries(value).toSorted(byText));
  }
  return value;
}

/** A flat list of names and values as a list of pairs in the order of their text. */
function pairs(value) {
  if (!Array.isArray(value)) return unordered(value);
  const listed = value.flatMap((name, at) => (at % 2 === 0 ? [[name, value[at + 1]]] : []));
  return listed.toSorted(byText);
}

/** A shape for a TTL that started as `whole`, in whichever unit: up to a fiftieth may have passed. */
function lifetime(whole) {
  return (value) => (value <= whole && value >= whole * 0.98 ? `about ${whole}` : value);
}

/** The type of the value, with the kinds of its members if it has any. */
function kind(value) {
  return Array.isArray(value) ? value.map(kind) : typeof value;
}

/** A shape that keeps the `name=value` words or `name:value` lines of these names. */
function lines(...names) {
  return (text) =>
    String(text)
      .split(/[\s]+/)
      .filter((line) => names.includes(line.split(/[=:]/)[0]));
}

/** A shape that leaves the named fields out of maps, also of those that are flat lists, at any depth. */
function without(...names) {
  return function shape(value) {
    if (Array.isArray(value)) {
      return value.filter((_, at) => !names.includes(value[at - 1]) && !names.includes(value[at])).map(shape);
    }
    if (value === null || typeof value !== "object" || Buffer.isBuffer(value)) return value;
    const kept = Object.entries(value).filter(([name]) => !names.includes(name));
    return Object.fromEntries(kept.map(([name, field]) => [name, shape(field)]));
  };
}

/** Waits until `condition` gives something true, and returns that; says what it waited for when it gives up. */
async function until(what, condition) {
  const start = Date.now();
  for (;;) {
    const met = await condition();
    if (met) return met;
    if (Date.now() - start > PATIENCE) throw new Error(`gave up waiting until ${what}`);
    await new Promise((resume) => setTimeout(resume, 5));
  }
}

/** Waits until the server says that so many clients are blocked; any library's client will do to ask it. */
async function blockedClients(client, count) {
  const said = new RegExp(`blocked_clients:${count}\\r`);
  await until(`${count} are blocked`, async () => said.test(await client.info("clients")));
}

/** A name for large values, short enough to print. */
function digest(values) {
  const summary = createHash("sha256");
  for (const value of values) summary.update(`${typeof value} ${value}\n`);
  return `${values.length} values, ${summary.digest("hex")}`;
}

function byText(left, right) {
  const [a, b] = [text(left), text(right)];
  return a < b ? -1 : Number(a > b);
}

/** Errors within lists without their traces, which tell of the library only. */
function untraced(value) {
  if (value instanceof Error) return told(value);
  return Array.isArray(value) ? value.map(untraced) : value;
}

function told(error) {
  return `${error.name}: ${error.message}`;
}

function text(value) {
  return inspect(value, { depth: null, maxArrayLength: null, maxStringLength: null, breakLength: Infinity });
}

/** What one run of a group saw, one line of text per reply. */
class Log {
  lines = [];
  connections = 0;

  /** Announces that the group means to make so many more connections. */
  dials(connections) {
    this.connections += connections;
  }

  /** Leaves it to the library how often it dials: that must only be equally often on both sides. */
  dialsAsOften() {
    this.connections = undefined;
  }

  /** Notes a reply, or the error that came instead of one. */
  record(label, value, shape = (same) => same) {
    const shown = value instanceof Error ? told(value) : text(untraced(shape(value)));
    this.lines.push(`${label} -> ${shown}`);
  }

  /** Notes what a promise comes to. */
  async settle(label, promise, shape) {
    try {
      this.record(label, await promise, shape);
    } catch (error) {
      this.record(label, error);
    }
  }
}

/** Runs every group on both sides and prints a line for each; returns how many differed. */
async function run(groups, direct, through) {
  let failures = 0;
  for (const [name, group] of groups) {
    const { problems, replies } = await compare(group, direct, through);
    console.log(`${problems.length > 0 ? "FAILED" : "ok"} ${name} (${replies} replies)`);
    for (const problem of problems) console.log(`  ${problem}`);
    failures += problems.length > 0 ? 1 : 0;
  }
  return failures;
}

async function compare(group, direct, through) {
  const problems = [];
  const logs = [];
  for (const [side, url] of Object.entries({ direct, through })) {
    const log = new Log();
    const before = dials;
    try {
      await withinLimit(group(url, log));
      if (log.connections === undefined) {
        log.record("dials", dials - before);
      } else if (dials - before !== log.connections) {
        problems.push(`${side}: ${dials - before} dials for ${log.connections} connections: it reconnected`);
      }
    } catch (error) {
      problems.push(`${side}: the group ended with ${error.stack}`);
    }
    logs.push(log.lines);
  }
  problems.push(...difference(...logs));
  return { problems, replies: logs[0].length };
}

/** The promise, or an error when it takes too long. */
function withinLimit(promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it did not end within ${GROUP_LIMIT} ms`)), GROUP_LIMIT);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

function difference(direct, through) {
  const shown = [];
  for (let at = 0; at < Math.max(direct.length, through.length); at += 1) {
    if (direct[at] === through[at]) continue;
    for (const [sign, line] of [["-", direct[at]], ["+", through[at]]]) {
      const cut = line?.length > 400 ? `${line.slice(0, 400)}… (${line.length} characters)` : line;
      shown.push(`${sign} ${cut ?? "(nothing)"}`);
    }
  }
  return shown;
}

/** Takes the two URLs, and the names of groups if not all are meant, from the command line; exits with 1 if anything differed. */
async function main(groups) {
  const [direct, through, ...names] = process.argv.slice(2);
  const chosen = groups.filter(([name]) => names.length === 0 || names.includes(name));
  if (!through || chosen.length < names.length) {
    console.error(`usage: ${process.argv[1]} DIRECT_URL THROUGH_URL [GROUP…]`);
    process.exit(2);
  }
  process.exit((await run(chosen, direct, through)) > 0 ? 1 : 0);
}

module.exports = { blockedClients, digest, kind, lifetime, lines, main, pairs, unordered, until, without };
