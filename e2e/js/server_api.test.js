// An application's backend with an unchanged library for the server API, and users with the unchanged SDK.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CentClient, CentException } from "cent.js";
import { apiKey, apis } from "./backend.js";
import { DEADLINE, connect, endpoint, freshChannel, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };

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

test("a history that was removed is not shown, not recovered, and goes on", options, async (t) => {
  const channel = freshChannel();
  const said = [];
  for (const data of [1, 2, 3]) said.push(await backend(0).publish({ channel, data }));
  const [, below, last] = said;
  const live = await subscribe(await user(t, freshUser(), 1), channel);
  await backend(1).removeHistory({ channel });
  const history = async (index, request) => {
    const { publications } = await backend(index).getHistory({ channel, limit: 10, ...request });
    return publications.map((publication) => publication.data);
  };
  for (const index of [0, 1]) {
    assert.deepEqual(await history(index), []);
    assert.deepEqual(await history(index, { reverse: true }), []);
  }
  const since = async (index, { offset, epoch }) =>
    subscribe(await user(t, freshUser(), index), channel, { since: { offset, epoch } });
  // Who knows the channel's head answers for it, and who has to ask its owner.
  for (const index of [0, 1]) {
    assert.equal((await since(index, below)).context.recovered, false);
    assert.equal((await since(index, last)).context.recovered, true);
  }

  const next = await backend(0).publish({ channel, data: 4 });
  assert.ok(next.offset > last.offset && next.epoch === last.epoch, JSON.stringify([last, next]));
  await live.until(1);
  assert.deepEqual(live.data, [4]);
  const recovering = await since(1, last);
  await recovering.until(1);
  assert.deepEqual([recovering.context.recovered, recovering.data], [true, [4]]);
  assert.equal((await since(0, below)).context.recovered, false);
  assert.deepEqual(await history(1), [4]);

  // Again, and for a channel where nothing was ever said.
  await backend(0).removeHistory({ channel });
  await backend(0).removeHistory({ channel });
  await backend(0).removeHistory({ channel: freshChannel() });
  assert.deepEqual(await history(1), []);
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
  // What the library makes of an error does not show it, so its answers are looked at too.
  await assert.rejects(backend(0).publish({ channel: "none:1", data: 1 }), CentException);
  await assert.rejects(new CentClient({ url: apis[0], apiKey: "wrong" }).getInfo());
  const answer = async (method, body, key = apiKey) => {
    const response = await fetch(`${apis[0]}/${method}`, { method: "POST", body, headers: { Authorization: `apikey ${key}` } });
    return [response.status, await response.text()];
  };
  const [status, body] = await answer("publish", '{"channel":"none:1","data":1}');
  assert.deepEqual([status, JSON.parse(body).error.code], [200, 102]);
  assert.equal((await answer("publish", "{"))[0], 400);
  assert.equal((await answer("nonsense", "{}"))[0], 404);
  assert.equal((await answer("info", "{}", "wrong"))[0], 401);
});
