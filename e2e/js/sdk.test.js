// The unchanged SDK for JavaScript over WebSocket. One run against any system, one gateway or several, in the encoding that
// SWITCHBOARD_ENCODING names.

import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { DEADLINE, connect, endpoint, endpoints, freshChannel, isPing, newClient, once, subscribe, within } from "./harness.js";

const options = { timeout: 4 * DEADLINE };

// The promise's rejection, which has to come and to carry this code.
async function rejectsWith(code, promise) {
  const error = await within(promise.then(() => assert.fail(`expected error ${code}, got a result`), (error) => error), `error ${code}`);
  assert.equal(error.code, code, `code of ${JSON.stringify(error)}`);
  assert.equal(typeof error.message, "string");
  return error;
}

// How the server refuses a subscription: the SDK gives up with the code.
async function refusedWith(code, client, channel) {
  const subscription = client.newSubscription(channel);
  const refused = once(subscription, "unsubscribed", `${channel.slice(0, 40)} refused`);
  subscription.subscribe();
  assert.equal((await refused).code, code);
}

test("connects, and the reply names the connection", options, async (t) => {
  const client = newClient(t, endpoint(0));
  const connected = once(client, "connected");
  client.connect();
  const context = await connected;
  assert.match(context.client, /^[0-9a-f-]{36}$/);
  assert.equal(context.transport, "websocket");
  assert.equal(client.state, "connected");
});

test("connects again after a disconnect, as another connection", options, async (t) => {
  const client = newClient(t, endpoint(0));
  const ids = [];
  client.on("connected", (context) => ids.push(context.client));
  for (let round = 0; round < 3; round += 1) {
    client.connect();
    await within(client.ready(), "connected");
    client.disconnect();
    assert.equal(client.state, "disconnected");
  }
  assert.equal(new Set(ids).size, 3);
});

test("own publications come back with info and a growing offset", options, async (t) => {
  const client = newClient(t, endpoint(0));
  const connected = once(client, "connected");
  client.connect();
  const id = (await connected).client;
  const inbox = await subscribe(client, freshChannel());
  for (let number = 1; number <= 5; number += 1) {
    assert.deepEqual(await within(inbox.subscription.publish({ number }), "publish acknowledged"), {});
  }
  await inbox.until(5);
  assert.deepEqual(inbox.data, [1, 2, 3, 4, 5].map((number) => ({ number })));
  let last = 0;
  for (const publication of inbox.publications) {
    assert.equal(publication.info.client, id);
    assert.equal(typeof publication.info.user, "string");
    assert.ok(Number.isSafeInteger(publication.offset), `offset ${publication.offset}`);
    assert.ok(publication.offset > last, `offset ${publication.offset} after ${last}`);
    last = publication.offset;
  }
});

test("everything that JSON can say arrives as it was", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const inbox = await subscribe(client, freshChannel());
  const payloads = [
    { text: "" },
    "a plain string",
    0,
    -1.5e-7,
    false,
    [],
    {},
    [1, [2, [3, [{}]]]],
    "line\nbreak\ttab \\ \" / \u0000 \u2028 \u2029",
    "žluťoučký kůň 👩‍👩‍👧‍👦 漢字 עברית",
    "<script>alert(1)</script>",
    { nested: { nothing: null, push: { pub: { data: {} } }, id: 7 } },
    "x".repeat(60_000),
  ];
  for (const payload of payloads) await within(inbox.subscription.publish(payload), "publish acknowledged");
  await inbox.until(payloads.length);
  assert.deepEqual(inbox.data, payloads);
});

test("another client, on the other gateway, receives it too", options, async (t) => {
  const channel = freshChannel();
  const here = await subscribe(await connect(t, endpoint(0)), channel);
  const there = await subscribe(await connect(t, endpoint(1)), channel);
  await within(here.subscription.publish({ from: "here" }), "publish acknowledged");
  await within(there.subscription.publish({ from: "there" }), "publish acknowledged");
  for (const inbox of [here, there]) {
    await inbox.until(2);
    assert.deepEqual(inbox.data, [{ from: "here" }, { from: "there" }]);
  }
  assert.deepEqual(here.publications.map((p) => p.offset), there.publications.map((p) => p.offset));
  assert.deepEqual(here.publications.map((p) => p.info), there.publications.map((p) => p.info));
});

test("one may publish to a channel without being subscribed to it", options, async (t) => {
  const channel = freshChannel();
  const inbox = await subscribe(await connect(t, endpoint(0)), channel);
  const outsider = await connect(t, endpoint(1));
  await within(outsider.publish(channel, { text: "from outside" }), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(inbox.data, [{ text: "from outside" }]);
});

test("many publishers: every subscriber gets everything once, in one order", options, async (t) => {
  const PUBLISHERS = 4;
  const EACH = 50;
  const channel = freshChannel();
  const inboxes = [];
  for (let index = 0; index < 2 * endpoints.length; index += 1) {
    inboxes.push(await subscribe(await connect(t, endpoint(index)), channel));
  }
  const publishers = [];
  for (let index = 0; index < PUBLISHERS; index += 1) publishers.push(await connect(t, endpoint(index)));

  // All publishers at once, none waits for its answers: the order of one publisher must hold all the same.
  const answers = publishers.flatMap((client, publisher) =>
    Array.from({ length: EACH }, (_, number) => client.publish(channel, { publisher, number })));
  await within(Promise.all(answers), "all publishes acknowledged", 2 * DEADLINE);
  // Whatever was to come comes before this one.
  await within(publishers[0].publish(channel, "last"), "last publish acknowledged");
  for (const inbox of inboxes) {
    await inbox.when((publications) => publications.at(-1)?.data === "last", "the last message");
  }

  const reference = inboxes[0].publications.map(({ offset, data }) => ({ offset, data }));
  assert.equal(reference.length, PUBLISHERS * EACH + 1);
  for (const inbox of inboxes) {
    assert.deepEqual(inbox.publications.map(({ offset, data }) => ({ offset, data })), reference);
  }
  for (let publisher = 0; publisher < PUBLISHERS; publisher += 1) {
    const numbers = reference.filter(({ data }) => data.publisher === publisher).map(({ data }) => data.number);
    assert.deepEqual(numbers, Array.from({ length: EACH }, (_, number) => number), `order of publisher ${publisher}`);
  }
  for (let index = 1; index < reference.length; index += 1) {
    assert.ok(reference[index].offset > reference[index - 1].offset, "offsets grow");
  }
});

test("several channels on one connection do not mix", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const other = await connect(t, endpoint(1));
  const inboxes = [];
  for (let index = 0; index < 20; index += 1) inboxes.push(await subscribe(client, freshChannel()));
  await within(Promise.all(inboxes.flatMap(({ subscription: { channel } }) =>
    [1, 2, 3].map((number) => other.publish(channel, { channel, number })))), "all publishes acknowledged");
  for (const inbox of inboxes) {
    await inbox.until(3);
    const { channel } = inbox.subscription;
    assert.deepEqual(inbox.data, [1, 2, 3].map((number) => ({ channel, number })));
  }
});

test("after unsubscribe nothing comes, after subscribing again what was said meanwhile does", options, async (t) => {
  const channel = freshChannel();
  const client = await connect(t, endpoint(0));
  const witness = await subscribe(await connect(t, endpoint(1)), channel);
  const inbox = await subscribe(client, channel);
  await within(witness.subscription.publish(1), "publish acknowledged");
  await inbox.until(1);

  inbox.subscription.unsubscribe();
  assert.equal(inbox.subscription.state, "unsubscribed");
  await within(witness.subscription.publish(2), "publish acknowledged");
  await witness.until(2);
  // A round trip on the same connection and of another channel: what was under way before has come by now.
  await subscribe(client, freshChannel());
  assert.deepEqual(inbox.data, [1]);

  // The SDK keeps its place.
  assert.equal((await inbox.subscribe()).recovered, true);
  await within(witness.subscription.publish(3), "publish acknowledged");
  await inbox.until(3);
  assert.deepEqual(inbox.data, [1, 2, 3]);
});

test("subscribe, unsubscribe, subscribe in one breath ends subscribed", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const inbox = await subscribe(client, freshChannel());
  for (let round = 0; round < 5; round += 1) {
    inbox.subscription.unsubscribe();
    inbox.subscription.subscribe();
  }
  await within(inbox.subscription.ready(), "subscribed");
  await within(inbox.subscription.publish("still here"), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(inbox.data, ["still here"]);
  assert.equal(client.state, "connected");
});

test("what was called before connecting is done once connected", options, async (t) => {
  const channel = freshChannel();
  const client = newClient(t, endpoint(0));
  const inbox = subscribe(client, channel);
  client.connect();
  // The SDK sends connect and subscribe in its first frame.
  const { subscription } = await inbox;
  await within(subscription.publish("early"), "publish acknowledged");
  await (await inbox).until(1);
});

test("a batch of commands in one frame is answered command by command", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const inbox = await subscribe(client, freshChannel());
  client.startBatching();
  const answers = Array.from({ length: 30 }, (_, number) => inbox.subscription.publish(number));
  client.stopBatching();
  await within(Promise.all(answers), "all publishes acknowledged");
  await inbox.until(30);
  assert.deepEqual(inbox.data, Array.from({ length: 30 }, (_, number) => number));
});

test("pings are answered: a quiet connection outlives many of them", options, async (t) => {
  const FIVE = 5;
  let pings = 0;
  let enough;
  const five = new Promise((resolve) => { enough = resolve; });
  class WebSocketThatCounts extends WebSocket {
    constructor(...address) {
      super(...address);
      this.addEventListener("message", ({ data }) => {
        if (isPing(data)) pings += 1;
        if (pings >= FIVE) enough();
      });
    }
  }
  // The server pings every second. One that is half a second late, and the SDK takes the connection for dead.
  const client = await connect(t, endpoint(0), { websocket: WebSocketThatCounts, maxServerPingDelay: 500 });
  const interruptions = [];
  client.on("connecting", (context) => interruptions.push(context));
  const inbox = await subscribe(client, freshChannel());
  await within(five, `${FIVE} pings`);
  await within(inbox.subscription.publish("still here"), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(interruptions, []);
  assert.equal(client.state, "connected");
});

// A gateway that the test cuts the client off from, and lets it come back to.
function cuttable() {
  const sockets = [];
  let isCut = false;
  class CuttableWebSocket extends WebSocket {
    constructor(url, ...rest) {
      // Nothing listens there.
      super(isCut ? "ws://127.0.0.1:9/" : url, ...rest);
      this.on("error", () => {});
      sockets.push(this);
    }
  }
  return {
    websocket: CuttableWebSocket,
    cut() {
      isCut = true;
      for (const socket of sockets) socket.terminate();
    },
    mend() {
      isCut = false;
    },
  };
}

test("what was said while the connection was cut comes once, in order, as recovered", options, async (t) => {
  const ROUNDS = 3;
  const EACH = 30;
  const line = cuttable();
  const client = await connect(t, endpoint(0), { websocket: line.websocket, minReconnectDelay: 20, maxReconnectDelay: 100 });
  const busy = await subscribe(client, freshChannel());
  const quiet = await subscribe(client, freshChannel());
  assert.equal(busy.context.wasRecovering, false);
  assert.equal(busy.context.recoverable, true);
  const other = await connect(t, endpoint(1));
  const { channel } = busy.subscription;
  let number = 0;
  const publish = async (count) => {
    for (let each = 0; each < count; each += 1) {
      await within(other.publish(channel, { number }), "publish acknowledged");
      number += 1;
    }
  };

  for (let round = 0; round < ROUNDS; round += 1) {
    await publish(2);
    await busy.until(number);
    const cut = once(client, "connecting");
    line.cut();
    await cut;
    await publish(EACH);
    assert.ok(busy.publications.length < number, "nothing came while the connection was cut");
    const again = [busy, quiet].map(({ subscription }) => once(subscription, "subscribed", "subscribed again"));
    line.mend();
    // Others go on while it comes back.
    await publish(EACH);
    for (const context of await Promise.all(again)) {
      assert.equal(context.wasRecovering, true);
      assert.equal(context.recovered, true);
    }
    await busy.until(number);
  }
  // Whatever else was to come comes before this one.
  await publish(1);
  await busy.until(number);
  assert.deepEqual(busy.data, Array.from({ length: number }, (_, each) => ({ number: each })));
  for (let index = 1; index < busy.publications.length; index += 1) {
    assert.ok(busy.publications[index].offset > busy.publications[index - 1].offset, "offsets grow");
  }
  assert.deepEqual(quiet.data, []);
});

test("a position of another life of the log is not recovered, and the SDK goes on live", options, async (t) => {
  const channel = freshChannel();
  const first = await subscribe(await connect(t, endpoint(0)), channel);
  await within(first.subscription.publish(1), "publish acknowledged");
  const { epoch, offset } = first.context.streamPosition;
  const client = await connect(t, endpoint(1));
  const lost = await subscribe(client, channel, { since: { epoch: `${epoch}0`, offset } });
  assert.equal(lost.context.wasRecovering, true);
  assert.equal(lost.context.recovered, false);
  const found = await subscribe(await connect(t, endpoint(1)), channel, { since: { epoch, offset } });
  assert.equal(found.context.recovered, true);
  await found.until(1);
  await within(first.subscription.publish(2), "publish acknowledged");
  await lost.until(1);
  assert.deepEqual(lost.data, [2]);
  await found.until(2);
  assert.deepEqual(found.data, [1, 2]);
});

test("refusals carry the protocol's codes and leave the connection alone", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const closed = [];
  client.on("connecting", (context) => closed.push(context));
  client.on("disconnected", (context) => closed.push(context));

  const tooLong = `room:${"x".repeat(251)}`;
  for (const [what, channel] of Object.entries({
    "too long": tooLong, "not ASCII": "room:žluť", "with a space": "room:a b", "without a namespace": ":a", "users out of order": "dm:#bob,alice",
  })) {
    await t.test(`subscribing, name ${what}: 107`, () => refusedWith(107, client, channel));
    await t.test(`publishing, name ${what}: 107`, () => rejectsWith(107, client.publish(channel, {})));
  }
  // Not there yet, and said so.
  const { subscription } = await subscribe(client, freshChannel());
  await t.test("presence: 108", () => rejectsWith(108, subscription.presence()));
  await t.test("presence stats: 108", () => rejectsWith(108, subscription.presenceStats()));
  await t.test("rpc: 108", () => rejectsWith(108, client.rpc("nothing", {})));

  // Behind all these the connection works as before.
  const inbox = await subscribe(client, freshChannel());
  await within(inbox.subscription.publish("after the refusals"), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(closed, []);
});

test("a message over the size limit closes the connection, and the SDK says why", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const disconnected = once(client, "disconnected");
  client.publish(freshChannel(), "x".repeat(140_000)).catch(() => {});
  const context = await disconnected;
  assert.equal(context.code, 3, `the SDK's own code for a message over the limit, got ${JSON.stringify(context)}`);
});
