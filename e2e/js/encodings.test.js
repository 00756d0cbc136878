// The SDK's Protobuf build with payloads of all kinds, and clients of both encodings in one channel.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Centrifuge } from "centrifuge";
import { Centrifuge as CentrifugeProtobuf } from "centrifuge/build/protobuf";
import { DEADLINE, Inbox, connect, endpoint, freshChannel, once, within } from "./harness.js";

const options = { timeout: 4 * DEADLINE };

const bytes = (text) => new TextEncoder().encode(text);

// Keeps payloads as they come.
class RawInbox extends Inbox {
  read(data) {
    return data;
  }
}

async function subscribe(client, channel) {
  const inbox = new RawInbox(client, channel);
  await inbox.subscribe();
  return inbox;
}

const protobuf = (t, gateway) => connect(t, endpoint(gateway), {}, CentrifugeProtobuf);
const json = (t, gateway) => connect(t, endpoint(gateway), {}, Centrifuge);
const published = (promise) => within(promise, "publish acknowledged");

test("bytes that are not JSON arrive as they were", options, async (t) => {
  const channel = freshChannel();
  const publisher = await protobuf(t, 0);
  const here = await subscribe(publisher, channel);
  const there = await subscribe(await protobuf(t, 1), channel);
  const payloads = [
    Uint8Array.from({ length: 256 }, (_, byte) => byte),
    bytes("boom"),
    bytes("\n"),
    Uint8Array.of(0),
    crypto.getRandomValues(new Uint8Array(60_000)),
    bytes(`${"[".repeat(200)}${"]".repeat(200)}`),
  ];
  for (const payload of payloads) await published(publisher.publish(channel, payload));
  for (const inbox of [here, there]) {
    await inbox.until(payloads.length);
    assert.deepEqual(inbox.data.map((data) => Buffer.from(data)), payloads.map((data) => Buffer.from(data)));
  }
});

test("clients of both encodings share a channel", options, async (t) => {
  const channel = freshChannel();
  const text = await subscribe(await json(t, 0), channel);
  const binary = await subscribe(await protobuf(t, 1), channel);
  await published(text.subscription.publish({ from: ["JSON", "žluť"] }));
  await published(binary.subscription.publish(bytes('{ "from":\t"Protobuf" }')));
  // Line breaks separate messages for the one, and are bytes like others for the other.
  await published(binary.subscription.publish(bytes('{\r\n  "pretty": [\n1,\n2\n], "text": "a\\nb"\n}\n')));
  await published(text.subscription.publish("last"));
  for (const inbox of [text, binary]) await inbox.until(4);
  assert.deepEqual(text.data, [
    { from: ["JSON", "žluť"] }, { from: "Protobuf" }, { pretty: [1, 2], text: "a\nb" }, "last",
  ]);
  assert.deepEqual(binary.data.map((data) => new TextDecoder().decode(data)), [
    '{"from":["JSON","žluť"]}', '{ "from":\t"Protobuf" }', '{\r\n  "pretty": [\n1,\n2\n], "text": "a\\nb"\n}\n', '"last"',
  ]);
  const positions = (inbox) => inbox.publications.map(({ offset, info }) => ({ offset, client: info.client }));
  assert.deepEqual(positions(binary), positions(text));
});

test("a payload that is not JSON closes a JSON subscriber, and nobody else", options, async (t) => {
  const channel = freshChannel();
  const reader = await json(t, 0);
  await subscribe(reader, channel);
  const bystander = await subscribe(await json(t, 0), freshChannel());
  const binary = await subscribe(await protobuf(t, 0), channel);
  const disconnected = once(reader, "disconnected");
  await published(binary.subscription.publish(bytes("boom")));
  const { code, reason } = await disconnected;
  assert.deepEqual({ code, reason }, { code: 3506, reason: "inappropriate protocol" });
  await binary.until(1);
  assert.equal(new TextDecoder().decode(binary.data[0]), "boom");
  await published(bystander.subscription.publish("still here"));
  await bystander.until(1);
  assert.deepEqual(bystander.data, ["still here"]);
});

test("a JSON client that comes back is closed where it missed such a payload", options, async (t) => {
  const channel = freshChannel();
  const reader = await json(t, 0);
  const inbox = await subscribe(reader, channel);
  const binary = await subscribe(await protobuf(t, 0), channel);
  await published(binary.subscription.publish(bytes("1")));
  await inbox.until(1);
  reader.disconnect();
  await published(binary.subscription.publish(bytes("boom")));
  const disconnected = once(reader, "disconnected");
  reader.connect();
  assert.equal((await disconnected).code, 3506);
});
