// What the namespaces of the system under test (`NAMESPACES` in tests/it/system.rs) let users do.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };
const as = (user, t, gateway = 0) => connect(t, endpoint(gateway), { token: sign({ sub: user }) });
const unique = () => crypto.randomUUID();

async function refused(client, channel, code, settings) {
  const subscription = client.newSubscription(channel, settings);
  const unsubscribed = once(subscription, "unsubscribed", `${channel} refused`);
  subscription.subscribe();
  assert.equal((await unsubscribed).code, code, channel);
}

async function publishRefused(client, channel, code) {
  const error = await within(client.publish(channel, 1).then(() => assert.fail(`published to ${channel}`), (error) => error), "an answer");
  assert.equal(error.code, code, channel);
}

test("what no setting allows is refused, and the connection stays", options, async (t) => {
  const client = await as("alice", t);
  await refused(client, "nowhere:1", 102);
  await refused(client, "no-namespace", 103);
  await refused(client, `$room:${unique()}`, 103);
  await publishRefused(client, "nowhere:1", 102);
  await publishRefused(client, `room:${unique()}`, 103);
  await publishRefused(client, "$broadcast", 103);
  const news = await subscribe(client, `news:${unique()}`);
  await publishRefused(client, news.subscription.channel, 103);
  assert.equal(client.state, "connected");
});

test("what may not be read is not searched", options, async (t) => {
  const client = await as("alice", t);
  const channel = `room:${unique()}`;
  for (const channels of [[channel], ["#bob"], [channel, "nowhere:1"]]) {
    const asked = client.rpc("history.search", { query: "x", channels });
    const error = await within(asked.then(() => assert.fail("searched"), (error) => error), "an answer");
    assert.ok([102, 103].includes(error.code), `${channels}: ${error.code}`);
  }
});

test("who is subscribed may publish where the namespace says so", options, async (t) => {
  const [alice, bob] = [await as("alice", t), await as("bob", t, 1)];
  const channel = `room:${unique()}`;
  const inbox = await subscribe(alice, channel);
  await publishRefused(bob, channel, 103);
  await subscribe(bob, channel);
  await within(bob.publish(channel, "hello"), "publish acknowledged");
  await inbox.until(1);
  bob.getSubscription(channel).unsubscribe();
  await publishRefused(bob, channel, 103);
  assert.deepEqual(inbox.data, ["hello"]);
});

test("a channel that names its users is theirs alone", options, async (t) => {
  const channel = "dm:#alice,bob";
  const [alice, bob, eve] = [await as("alice", t), await as("bob", t, 1), await as("eve", t)];
  const inbox = await subscribe(alice, channel);
  await subscribe(bob, channel);
  await refused(eve, channel, 103);
  await publishRefused(eve, channel, 103);
  const text = unique();
  await within(bob.publish(channel, text), "publish acknowledged");
  await inbox.when(() => inbox.data.includes(text), "bob's message");
});

test("a private channel opens to its token, and anonymous users see what is for them", options, async (t) => {
  const channel = `$room:${unique()}`;
  const alice = await as("alice", t);
  const inbox = await subscribe(alice, channel, { token: sign({ sub: "alice", channel }) });
  await within(inbox.subscription.publish(1), "publish acknowledged");
  await inbox.until(1);
  const anonymous = await connect(t, endpoint(1), { token: sign({}) });
  await subscribe(anonymous, `news:${unique()}`);
  await refused(anonymous, `room:${unique()}`, 103);
});
