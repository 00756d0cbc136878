// Tokens, with the unchanged SDK for JavaScript. SWITCHBOARD_SECRET is the gateways' HMAC secret; they allow no leeway, and
// three seconds of grace behind an expiry.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, freshChannel, newClient, once, subscribe, within } from "./harness.js";
import { encode, sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };
// Seconds since 1970.
const inSeconds = (seconds) => Date.now() / 1000 + seconds;

const never = () => new Promise(() => {});

// Counts calls; `await calls.reach(n)` waits for so many.
function counted(make) {
  const waiting = [];
  const calls = async (context) => {
    calls.count += 1;
    for (const check of waiting) check();
    return make(calls.count, context);
  };
  calls.count = 0;
  calls.reach = (count) =>
    within(new Promise((resolve) => {
      const check = () => calls.count >= count && resolve();
      waiting.push(check);
      check();
    }), `${count} calls`);
  return calls;
}

test("who has no token, or a forged one, is turned away for good", options, async (t) => {
  for (const [settings, code] of [
    [{}, 3501],
    [{ token: "x.y.z" }, 3500],
    [{ token: sign({ sub: "alice" }, "another secret") }, 3500],
    [{ token: `${encode({ alg: "none" })}.${encode({ sub: "alice" })}.` }, 3500],
    [{ token: sign({ sub: "alice", channel: "room:1" }) }, 3500],
    [{ token: sign({ sub: "alice", expire_at: inSeconds(-10) }) }, 110],
  ]) {
    const client = newClient(t, endpoint(0), settings);
    const disconnected = once(client, "disconnected");
    client.connect();
    assert.equal((await disconnected).code, code, JSON.stringify(settings));
  }
});

test("publications say who published, on every gateway", options, async (t) => {
  const channel = freshChannel();
  const alice = await connect(t, endpoint(0), { token: sign({ sub: "alice", info: { name: "Alice" } }) });
  const bob = await connect(t, endpoint(1), { token: sign({ sub: "bob" }) });
  const [fromAlice, fromBob] = [await subscribe(alice, channel), await subscribe(bob, channel)];
  await within(fromAlice.subscription.publish(1), "publish acknowledged");
  await within(fromBob.subscription.publish(2), "publish acknowledged");
  for (const inbox of [fromAlice, fromBob]) {
    await inbox.until(2);
    const [first, second] = inbox.publications.map((publication) => publication.info);
    assert.deepEqual([first.user, first.connInfo], ["alice", { name: "Alice" }]);
    assert.deepEqual([second.user, second.connInfo], ["bob", undefined]);
  }
});

test("getToken brings a fresh token before the old one ends, and the connection stays", options, async (t) => {
  const getToken = counted(() => sign({ sub: "alice", exp: inSeconds(2) }));
  const client = newClient(t, endpoint(0), { getToken });
  const interruptions = [];
  client.on("connecting", ({ code }) => code !== 0 && interruptions.push(code));
  client.on("disconnected", ({ code }) => interruptions.push(code));
  client.connect();
  await within(client.ready(), "connected");
  const inbox = await subscribe(client, freshChannel());
  // Three refreshes bring the connection's life well beyond the first token's two seconds and the grace behind them.
  await getToken.reach(4);
  await within(inbox.subscription.publish("still here"), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(interruptions, []);
});

test("an expired token makes the SDK fetch another one", options, async (t) => {
  const getToken = counted(() => sign({ sub: "alice", exp: inSeconds(600) }));
  const client = newClient(t, endpoint(0), { token: sign({ sub: "alice", exp: inSeconds(-10) }), getToken });
  client.connect();
  await within(client.ready(), "connected");
  assert.equal(getToken.count, 1);
});

test("a connection that is not refreshed ends, and comes back with a fresh token", options, async (t) => {
  let hung = false;
  // The first refresh hangs.
  const getToken = async () => {
    if (client.state === "connected" && !hung) {
      hung = true;
      return never();
    }
    return sign({ sub: "alice", exp: inSeconds(hung ? 600 : 2) });
  };
  const client = newClient(t, endpoint(0), { getToken });
  client.connect();
  await within(client.ready(), "connected");
  const interrupted = once(client, "connecting");
  assert.equal((await interrupted).code, 3005);
  await within(client.ready(), "connected again");
});

test("subscription tokens let one user into one channel, with info and data", options, async (t) => {
  const channel = freshChannel();
  const client = await connect(t, endpoint(0), { token: sign({ sub: "alice" }) });
  const token = sign({ sub: "alice", channel, info: { role: "speaker" }, data: { topic: "tokens" } });
  const inbox = await subscribe(client, channel, { token });
  assert.deepEqual(inbox.context.data, { topic: "tokens" });
  await within(inbox.subscription.publish(1), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(inbox.publications[0].info.chanInfo, { role: "speaker" });

  const refused = client.newSubscription(freshChannel(), { token: "x.y.z" });
  const unsubscribed = once(refused, "unsubscribed");
  refused.subscribe();
  assert.equal((await unsubscribed).code, 103);
  assert.equal(client.state, "connected");

  const other = await connect(t, endpoint(1), { token: sign({ sub: "bob" }) });
  const disconnected = once(other, "disconnected");
  other.newSubscription(channel, { token }).subscribe();
  assert.equal((await disconnected).code, 3500, "alice's token in bob's hands");
});

test("getToken of a subscription keeps it, and is asked again when its token has expired", options, async (t) => {
  const channel = freshChannel();
  const claims = (seconds) => ({ sub: "alice", channel, exp: inSeconds(seconds) });
  const getToken = counted(() => sign(claims(2)));
  const client = await connect(t, endpoint(0), { token: sign({ sub: "alice" }) });
  const inbox = await subscribe(client, channel, { token: sign(claims(-10)), getToken });
  assert.equal(getToken.count, 1);
  const interruptions = [];
  inbox.subscription.on("subscribing", ({ code }) => interruptions.push(code));
  inbox.subscription.on("unsubscribed", ({ code }) => interruptions.push(code));
  await getToken.reach(4);
  await within(inbox.subscription.publish("still here"), "publish acknowledged");
  await inbox.until(1);
  assert.deepEqual(interruptions, []);
});

// What becomes of a subscription whose first refresh is `failing`.
async function refreshedWith(t, failing) {
  const channel = freshChannel();
  const claims = (seconds) => ({ sub: "alice", channel, exp: inSeconds(seconds) });
  let failed = false;
  const getToken = async () => {
    if (client.getSubscription(channel).state === "subscribed" && !failed) {
      failed = true;
      return failing(claims);
    }
    return sign(claims(failed ? 600 : 2));
  };
  const client = await connect(t, endpoint(0), { token: sign({ sub: "alice" }) });
  const inbox = await subscribe(client, channel, { getToken });
  const interrupted = once(inbox.subscription, "subscribing");
  assert.equal((await interrupted).code, 2501);
  await within(inbox.subscription.ready(), "subscribed again");
  await within(inbox.subscription.publish("back"), "publish acknowledged");
  await inbox.until(1);
  assert.equal(client.state, "connected");
}

test("a subscription that is not refreshed ends, and comes back with a fresh token", options, (t) => refreshedWith(t, never));

test("a refresh with an expired token ends the subscription alone, and it comes back", options, (t) =>
  refreshedWith(t, (claims) => sign(claims(-10))));

test("an override in a subscription's token says that it is not recoverable", options, async (t) => {
  const channel = freshChannel();
  const alice = await connect(t, endpoint(0), { token: sign({ sub: "alice" }) });
  for (const [override, recoverable, positioned] of [
    [undefined, true, true],
    [{ force_recovery: { value: false } }, false, true],
    [{ force_recovery: { value: false }, force_positioning: { value: false } }, false, false],
  ]) {
    const token = sign({ sub: "alice", channel, override });
    const subscription = alice.newSubscription(channel, { token });
    const subscribed = once(subscription, "subscribed");
    subscription.subscribe();
    const context = await subscribed;
    assert.deepEqual([context.recoverable, context.positioned], [recoverable, positioned]);
    alice.removeSubscription(subscription);
  }
});
