// Who comes back after so long that the log has forgotten what it missed, with the unchanged SDK.
//
// SWITCHBOARD_PLACE: where it left off, as {"channel", "epoch", "offset", "missed": [number, …]}; SWITCHBOARD_RECOVERED: whether it is to be
// given all of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, subscribe } from "./harness.js";

const { channel, epoch, offset, missed } = JSON.parse(process.env.SWITCHBOARD_PLACE);
const isRecovered = process.env.SWITCHBOARD_RECOVERED === "true";

test("what was missed is given, or it is said that it is not", { timeout: 4 * DEADLINE }, async (t) => {
  const client = await connect(t, endpoint(0));
  const inbox = await subscribe(client, channel, { since: { epoch, offset } });
  assert.equal(inbox.context.wasRecovering, true);
  assert.equal(inbox.context.recovered, isRecovered);
  const expected = isRecovered ? missed : [];
  await inbox.until(expected.length);
  assert.deepEqual(
    inbox.data.map((data) => data.number),
    expected,
  );
});
