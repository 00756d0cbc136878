// What the unchanged SDK makes of a gateway that stops: both of its builds are told before they are disconnected. Once they are
// connected the file SWITCHBOARD_READY is written; whoever started this sends SIGTERM then.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { Centrifuge } from "centrifuge";
import { Centrifuge as CentrifugeProtobuf } from "centrifuge/build/protobuf";
import { DEADLINE, connect, endpoint, once } from "./harness.js";

const ready = process.env.SWITCHBOARD_READY ?? "";
if (ready === "") throw new Error("set SWITCHBOARD_READY to the file to write once the clients are connected");

const BUILDS = [
  { name: "JSON", Sdk: Centrifuge, read: (data) => data },
  { name: "Protobuf", Sdk: CentrifugeProtobuf, read: (data) => JSON.parse(new TextDecoder().decode(data)) },
];

test("clients are told of maintenance before they are asked to come back", { timeout: 4 * DEADLINE }, async (t) => {
  const begun = Date.now();
  const watched = [];
  for (const { name, Sdk, read } of BUILDS) {
    const client = await connect(t, endpoint(0), {}, Sdk);
    const order = [];
    client.on("message", () => order.push("message"));
    client.on("connecting", () => order.push("connecting"));
    watched.push({ name, read, order, message: once(client, "message"), connecting: once(client, "connecting") });
  }
  await writeFile(ready, "");
  for (const { name, read, order, message, connecting } of watched) {
    const { system } = read((await message).data);
    assert.deepEqual(Object.keys(system).sort(), ["at", "text", "type"], name);
    assert.equal(system.type, "maintenance", name);
    assert.ok(system.at >= begun && system.at <= Date.now() + DEADLINE, `${name}: at ${system.at}`);
    assert.equal((await connecting).code, 3001, name);
    assert.deepEqual(order, ["message", "connecting"], name);
  }
});
