// What the unchanged SDK makes of a configuration file that changes while it is connected. Once the clients are there the file
// SWITCHBOARD_READY is written; whoever started this then takes subscribing away from `room`, and publishing from `hall`.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { DEADLINE, Inbox, connect, endpoint, once, within } from "./harness.js";

const ready = process.env.SWITCHBOARD_READY ?? "";
if (ready === "") throw new Error("set SWITCHBOARD_READY to the file to write once the clients are connected");

test("what is taken away is lost with the reason, and the rest stays", { timeout: 4 * DEADLINE }, async (t) => {
  const client = await connect(t, endpoint(0));
  const inbox = (channel) => {
    const inbox = new Inbox(client, channel);
    inbox.subscription.subscribe();
    return inbox;
  };
  const [room, hall] = [inbox("room:1"), inbox("hall:1")];
  for (const { subscription } of [room, hall]) await within(subscription.ready(), "subscribed");
  await client.publish("hall:1", 1);
  await hall.until(1);
  const states = [];
  hall.subscription.on("state", ({ newState }) => states.push(newState));
  const told = once(client, "message");
  const lost = once(room.subscription, "unsubscribed");
  await writeFile(ready, "");
  assert.equal((await told).data.system.type, "policy_changed");
  assert.equal((await lost).code, 103);
  await assert.rejects(client.publish("hall:1", 2), { code: 103 });
  // The connection is the same one, and so is the other subscription.
  assert.equal(client.state, "connected");
  assert.deepEqual(states, []);
  assert.equal(hall.publications.length, 1);
});
