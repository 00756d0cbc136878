// An application's backend with an unchanged library for the server API, and users with the unchanged SDK.
//
// SWITCHBOARD_API_ENDPOINTS names the server APIs, one for each of SWITCHBOARD_ENDPOINTS; SWITCHBOARD_API_KEY opens them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CentClient } from "cent.js";
import { DEADLINE, connect, endpoint, freshChannel, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };

const apis = (process.env.SWITCHBOARD_API_ENDPOINTS ?? "").split(",").filter((url) => url !== "");
if (apis.length === 0) throw new Error("SWITCHBOARD_API_ENDPOINTS names no server API");
const apiKey = process.env.SWITCHBOARD_API_KEY;

const backend = (index) => new CentClient({ url: apis[index % apis.length], apiKey });
const freshUser = () => `user-${crypto.randomUUID()}`;
const user = (t, name, index) => connect(t, endpoint(index), { token: sign({ sub: name }) });

test("what a backend publishes reaches subscribers, once for each key", options, async (t) => {
  const channel = freshChannel();
  const inbox = await subscribe(await user(t, freshUser(), 1), channel);
  const request = { channel, data: { text: "hello" }, idempotency_key: "first", tags: { lang: "en" } };
  const first = await backend(0).publish(request);
  assert.ok(first.offset > 0 && first.epoch && first.id, JSON.stringify(first));
  const again = await backend(1).publish(request);
  assert.deepEqual([again.offset, again.id, again.duplicate], [first.offset, first.id, true]);
  await backend(1).publish({ channel, data: 2, priority: "high" });
  await within(inbox.until(2), "publications");
  assert.deepEqual(inbox.publications.map((publication) => publication.data), [{ text: "hello" }, 2]);
  assert.equal(inbox.publications[0].offset, first.offset);
  assert.equal(inbox.publications[0].tags.lang, "en");
  assert.equal(inbox.publications[0].tags["sb-id"], first.id);
  assert.equal(inbox.publications[0].info, undefined, "no user said it");
  const history = await backend(1).getHistory({ channel, limit: -1 });
  assert.deepEqual(history.publications.map((publication) => publication.data), [{ text: "hello" }, 2]);
  assert.equal(history.epoch, first.epoch);
});

test("what is not to be stored is only delivered", options, async (t) => {
  const channel = freshChannel();
  const inbox = await subscribe(await user(t, freshUser(), 1), channel);
  await backend(0).publish({ channel, data: "gone", skip_history: true });
  await within(inbox.until(1), "publication");
  assert.equal(inbox.publications[0].data, "gone");
  assert.deepEqual((await backend(0).getHistory({ channel, limit: 10 })).publications, []);
});

test("a broadcast answers for each channel", options, async (t) => {
  const channels = [freshChannel(), "none:1", freshChannel()];
  const { responses } = await backend(0).broadcast({ channels, data: "to all" });
  assert.deepEqual(responses.map((response) => response.error?.code), [undefined, 102, undefined]);
  for (const channel of [channels[0], channels[2]]) {
    const { publications } = await backend(1).getHistory({ channel, limit: 10 });
    assert.deepEqual(publications.map((publication) => publication.data), ["to all"]);
  }
});

test("a user on another gateway is subscribed, told, and unsubscribed", options, async (t) => {
  const [name, channel] = [freshUser(), freshChannel()];
  const client = await user(t, name, 1);
  const missed = await backend(0).publish({ channel, data: "before" });
  const before = await backend(0).publish({ channel, data: "missed" });
  const data = [];
  client.on("publication", (context) => context.channel === channel && data.push(context.data));
  const subscribed = once(client, "subscribed");
  await backend(0).subscribe({ user: name, channel, recover_since: { offset: missed.offset, epoch: missed.epoch } });
  assert.equal((await subscribed).channel, channel);
  await backend(0).publish({ channel, data: "live" });
  const told = async () => {
    while (data.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await within(told(), "publications");
  assert.deepEqual(data, ["missed", "live"]);
  assert.ok(before.offset > missed.offset);
  const { channels } = await backend(0).getChannels({ pattern: channel });
  assert.deepEqual(channels, { [channel]: { num_clients: 1 } });
  const unsubscribed = once(client, "unsubscribed");
  await backend(0).unsubscribe({ user: name, channel });
  assert.equal((await unsubscribed).channel, channel);
  assert.deepEqual((await backend(1).getChannels({ pattern: channel })).channels, {});
});

test("a subscription of the SDK's is ended for good", options, async (t) => {
  const [name, channel] = [freshUser(), freshChannel()];
  const inbox = await subscribe(await user(t, name, 1), channel);
  const unsubscribed = once(inbox.subscription, "unsubscribed");
  await backend(0).unsubscribe({ user: name, channel });
  assert.equal((await unsubscribed).code, 2000);
});

test("a user on another gateway is disconnected, for good or to come back", options, async (t) => {
  const name = freshUser();
  const client = await user(t, name, 1);
  const connecting = once(client, "connecting");
  await backend(0).disconnect({ user: name, disconnect: { code: 4001, reason: "come back" } });
  assert.deepEqual(await connecting, { code: 4001, reason: "come back" });
  await within(client.ready(), "connected again");
  const disconnected = once(client, "disconnected");
  await backend(0).disconnect({ user: name });
  assert.equal((await disconnected).code, 3503);
});

test("a connection's time is changed from another gateway", options, async (t) => {
  const name = freshUser();
  const client = await user(t, name, 1);
  const ended = once(client, "connecting");
  // Behind it come the three seconds of grace.
  await backend(0).refresh({ user: name, expire_at: Math.floor(Date.now() / 1000) + 1 });
  assert.equal((await ended).code, 3005);
});

test("several calls in one request, as older libraries send them", options, async () => {
  const channel = freshChannel();
  const [published, info, none] = await backend(0).pipeline([
    { method: "publish", params: { channel, data: 1 } },
    { method: "info", params: {} },
    { method: "nonsense", params: {} },
  ]);
  assert.ok(published.offset > 0);
  assert.equal(info.nodes.length, apis.length);
  assert.equal(none, undefined);
});

test("errors come with their code", options, async () => {
  await assert.rejects(backend(0).publish({ channel: "none:1", data: 1 }), (error) => /102|unknown channel/.test(JSON.stringify(error) + error));
  await assert.rejects(backend(0).getPresence({ channel: freshChannel() }));
  await assert.rejects(new CentClient({ url: apis[0], apiKey: "wrong" }).getInfo());
});
