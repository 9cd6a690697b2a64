/**
 * Lets a client library read through an outage: what its callers see, and how often it dials.
 *
 * Takes the proxy's URL. Readers go on until they are told to end. Commands come on stdin, one a line, and each is
 * answered by a line of JSON with the counts so far:
 *
 * `count`  nothing else
 * `new`    one more client connects now, and reads from now on like the others
 * `end`    everybody has stopped
 *
 * A library is an object of three: `connect(url, counts)` gives a client with the library's defaults, once it is ready;
 * `reads` lists calls, each with what it gives while Redis serves, what it gives when Redis is empty, and what else it may
 * give when an outage begins or ends in its midst; `close(client)`.
 */
"use strict";

const { channel } = require("node:diagnostics_channel");
const { createInterface } = require("node:readline");
const { setTimeout: pause } = require("node:timers/promises");

const LOOPS = 4;
// Milliseconds between two reads of one loop.
const PACE = 2;

const counts = { truths: 0, empties: 0, wrong: 0, errors: 0, reconnects: 0, connections: 0, new: 0, new_empties: 0 };
let over = false;

// Counts below the libraries, so that it sees a silent reconnect as well as a reported one.
let dials = 0;
channel("net.client.socket").subscribe(() => {
  dials += 1;
});

/** One read, counted; returns what it was. */
async function readOnce(client, [call, truth, empty, ...between]) {
  let kind = "errors";
  // Whatever is thrown is what the app would see: it is counted, and the next read goes on.
  try {
    const reply = JSON.stringify(await call(client));
    const isOneOf = (values) => values.some((value) => JSON.stringify(value) === reply);
    kind = isOneOf([truth]) ? "truths" : isOneOf([empty, ...between]) ? "empties" : "wrong";
    if (kind === "wrong") console.log(`wrong: ${reply} for ${JSON.stringify(truth)}`);
  } catch (error) {
    console.log(`error: ${error.name}: ${error.message}`);
  }
  counts[kind] += 1;
  return kind;
}

async function readOn(client, reads) {
  for (let number = 0; !over; number += 1) {
    await readOnce(client, reads[number % reads.length]);
    await pause(PACE);
  }
}

async function connect(library, url, clients) {
  const client = await library.connect(url, counts);
  clients.push(client);
  counts.connections += 1;
  return client;
}

/** Runs until stdin says that it is over. */
async function main(library) {
  const url = process.argv[2];
  const clients = [];
  const loops = [];
  const first = await connect(library, url, clients);
  for (let loop = 0; loop < LOOPS; loop += 1) loops.push(readOn(first, library.reads));
  for await (const command of createInterface({ input: process.stdin })) {
    if (command === "new") {
      const client = await connect(library, url, clients);
      counts.new += 1;
      if ((await readOnce(client, library.reads[0])) === "empties") counts.new_empties += 1;
      loops.push(readOn(client, library.reads));
    }
    if (command === "end") {
      over = true;
      await Promise.all(loops);
      // What the library said of itself, or more where it kept silent.
      counts.reconnects = Math.max(counts.reconnects, dials - clients.length);
      await Promise.all(clients.map((client) => library.close(client)));
    }
    console.log(JSON.stringify(counts));
    if (command === "end") break;
  }
  process.exit(0);
}

module.exports = { main };
