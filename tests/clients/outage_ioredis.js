/** ioredis with its defaults reads through an outage; `outage.js` says what is asked and counted. */
"use strict";

const { Redis } = require("ioredis");
const { main } = require("./outage.js");

async function connect(url, counts) {
  const client = new Redis(url);
  client.on("error", (error) => {
    console.log(`error event: ${error.message}`);
    counts.errors += 1;
  });
  client.on("reconnecting", () => {
    counts.reconnects += 1;
  });
  await new Promise((ready) => client.once("ready", ready));
  return client;
}

main({
  connect,
  reads: [
    [(client) => client.get("s"), "value", null],
    [(client) => client.mget("s", "none"), ["value", null], [null, null]],
    [(client) => client.hgetall("h"), { f: "v" }, {}],
    [(client) => client.lrange("l", 0, -1), ["a", "b"], []],
    [(client) => client.exists("s", "none"), 1, 0],
    [(client) => client.smembers("t"), ["7"], []],
    [
      (client) => client.pipeline().get("s").hget("h", "f").exec(),
      [[null, "value"], [null, "v"]],
      [[null, null], [null, null]],
      [[null, "value"], [null, null]],
      [[null, null], [null, "v"]],
    ],
  ],
  close: (client) => client.quit(),
});
