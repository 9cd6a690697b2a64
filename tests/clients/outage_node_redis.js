/** node-redis with its defaults reads through an outage; `outage.js` says what is asked and counted. */
"use strict";

const { createClient } = require("redis");
const { main } = require("./outage.js");

function connect(url, counts) {
  const client = createClient({ url });
  client.on("error", (error) => {
    console.log(`error event: ${error.message}`);
    counts.errors += 1;
  });
  client.on("reconnecting", () => {
    counts.reconnects += 1;
  });
  return client.connect();
}

main({
  connect,
  reads: [
    [(client) => client.get("s"), "value", null],
    [(client) => client.mGet(["s", "none"]), ["value", null], [null, null]],
    [(client) => client.hGetAll("h"), { f: "v" }, {}],
    [(client) => client.lRange("l", 0, -1), ["a", "b"], []],
    [(client) => client.exists(["s", "none"]), 1, 0],
    [(client) => client.sMembers("t"), ["7"], []],
    [
      (client) => client.multi().get("s").hGet("h", "f").execAsPipeline(),
      ["value", "v"],
      [null, null],
      ["value", null],
      [null, "v"],
    ],
  ],
  close: (client) => client.close(),
});
