// Blocked and muted users and revoked tokens, with the unchanged SDK: done at the first gateway, users are at the second.
//
// Namespace `room`: clients subscribe, publish, react and type there. How long each act took is printed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { backend } from "./backend.js";
import { DEADLINE, connect, endpoint, freshChannel, newClient, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };
const freshUser = () => `u${crypto.randomUUID()}`;
const now = () => Date.now() / 1000;
const user = (t, name, claims = {}) => connect(t, endpoint(1), { token: sign({ sub: name, ...claims }) });

// The promised second; what a busy machine takes besides is not what is tested.
const PROMPT = 3000;

// How long it is from the call until `heard`.
async function timed(t, method, params, heard) {
  const begun = Date.now();
  let called;
  const [context, result] = await Promise.all([
    heard,
    backend(method, { actor: "test", ...params }).then((result) => ((called = Date.now()), result)),
  ]);
  const took = Date.now() - begun;
  t.diagnostic(`${method}: carried out at the other gateway after ${took} ms, answered after ${called - begun} ms`);
  assert.ok(took < PROMPT, `${method} took ${took} ms`);
  assert.equal(result.everywhere, true, `${method} is not everywhere`);
  return { context, result };
}

async function refused(code, promise, what) {
  const error = await promise.then(
    (value) => assert.fail(`${what}: not refused but ${JSON.stringify(value)}`),
    (error) => error,
  );
  assert.equal(error.code, code, `${what}: ${error.code} ${error.message}`);
}

const log = async (after) => backend("moderation_log", { after, limit: 400 });
const about = async (name) => (await backend("moderation_state", { user: name })).restrictions;

test("a blocked user is sent away for good, everywhere, until unblocked", options, async (t) => {
  const name = freshUser();
  const [first, second] = [await user(t, name), await connect(t, endpoint(0), { token: sign({ sub: name }) })];
  const heard = Promise.all([once(first, "disconnected"), once(second, "disconnected")]);
  const { context, result } = await timed(t, "block_user", { user: name, reason: "spam" }, heard);
  assert.deepEqual(context.map(({ code, reason }) => [code, reason]), Array(2).fill([4510, "user blocked"]));
  assert.equal(first.state, "disconnected");
  assert.equal(result.changed, true);

  const again = newClient(t, endpoint(1), { token: sign({ sub: name }) });
  const shut = once(again, "disconnected");
  again.connect();
  assert.equal((await shut).code, 4510);
  await refused(103, backend("subscribe", { user: name, channel: freshChannel() }), "a subscription for a blocked user");
  assert.deepEqual(
    (await about(name)).map(({ act, reason, number }) => [act, reason, number]),
    [["block_user", "spam", result.number]],
  );

  const repeated = await backend("block_user", { user: name, reason: "spam" });
  assert.equal(repeated.changed, false);
  assert.equal((await about(name)).length, 1);
  assert.equal((await backend("unblock_user", { user: name })).changed, true);
  await user(t, name);
  assert.deepEqual(await about(name), []);
});

test("a block ends by itself", options, async (t) => {
  const name = freshUser();
  const client = await user(t, name);
  const until = Math.floor(now()) + 3;
  const { context } = await timed(t, "block_user", { user: name, expire_at: until }, once(client, "disconnected"));
  assert.equal(context.code, 4510);
  for (;;) {
    const back = newClient(t, endpoint(1), { token: sign({ sub: name }) });
    const outcome = Promise.race([once(back, "connected").then(() => true), once(back, "disconnected").then(() => false)]);
    outcome.catch(() => {});
    back.connect();
    if (await outcome) break;
    assert.ok(now() < until + PROMPT / 1000, "still blocked");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(now() >= until, "not blocked to the end");
});

test("a muted user reads on and says nothing in that channel", options, async (t) => {
  const [name, other] = [freshUser(), freshUser()];
  const [channel, elsewhere] = [freshChannel(), freshChannel()];
  const [client, friend] = [await user(t, name), await connect(t, endpoint(0), { token: sign({ sub: other }) })];
  const inbox = await subscribe(client, channel);
  await subscribe(client, elsewhere);
  await subscribe(friend, channel);
  await client.publish(channel, "before");
  await inbox.until(1);
  const { offset } = inbox.publications[0];
  const muted = await backend("mute_user", { user: name, channel });
  assert.equal(muted.everywhere, true);

  await refused(103, client.publish(channel, "x"), "publish");
  await refused(103, client.rpc("message.send", { channel, data: "x" }), "message.send");
  await refused(103, client.rpc("message.edit", { channel, offset, data: "x" }), "message.edit");
  await refused(103, client.rpc("message.react", { channel, offset, reaction: "x" }), "message.react");
  await refused(103, client.rpc("typing.start", { channel }), "typing.start");
  await client.publish(elsewhere, "here she may");
  await friend.publish(channel, "read on");
  await inbox.until(2);
  assert.deepEqual(inbox.data, ["before", "read on"]);
  // To take back what was said stays everybody's right.
  await client.rpc("message.delete", { channel, offset });

  assert.equal((await backend("unmute_user", { user: name, channel })).everywhere, true);
  await client.publish(channel, "after");
  assert.deepEqual(await about(name), []);
});

test("a connection ends with its token's id, and comes back with a fresh one", options, async (t) => {
  const [name, revoked] = [freshUser(), crypto.randomUUID()];
  let tokens = 0;
  const getToken = async () => (tokens++, sign({ sub: name, jti: tokens === 1 ? revoked : crypto.randomUUID() }));
  const [fresh, other] = [await connect(t, endpoint(1), { getToken }), await user(t, freshUser(), { jti: crypto.randomUUID() })];
  let others = 0;
  other.on("connecting", () => others++);
  const connecting = once(fresh, "connecting");
  const { context } = await timed(t, "revoke_token", { uid: revoked, expire_at: Math.floor(now()) + 600 }, connecting);
  assert.equal(context.code, 3014);
  await within(fresh.ready(), "connected with the fresh token");
  assert.equal(tokens, 2);
  assert.equal(others, 0);
  const stubborn = newClient(t, endpoint(1), { token: sign({ sub: name, jti: revoked }) });
  const shut = once(stubborn, "disconnected");
  stubborn.connect();
  assert.equal((await shut).code, 3500);
});

test("all tokens of a user that were issued before now are void, later ones are not", options, async (t) => {
  const name = freshUser();
  const [old, undated, other] = [
    await user(t, name, { iat: now() - 60 }),
    await user(t, name),
    await user(t, freshUser(), { iat: now() - 60 }),
  ];
  let others = 0;
  other.on("connecting", () => others++);
  // Their tokens are fixed, so they come back with the same, and are told that it is no good.
  const heard = Promise.all([once(old, "disconnected"), once(undated, "disconnected")]);
  const { context } = await timed(t, "invalidate_user_tokens", { user: name }, heard);
  assert.deepEqual(context.map(({ code }) => code), [3500, 3500]);
  assert.equal(others, 0);
  await user(t, name, { iat: now() + 1 });
});

test("a subscription ends with its own token, and is made anew with a fresh one", options, async (t) => {
  const [name, channel, revoked] = [freshUser(), `$${freshChannel()}`, crypto.randomUUID()];
  const client = await user(t, name);
  let tokens = 0;
  const getToken = async () => (tokens++, sign({ sub: name, channel, jti: tokens === 1 ? revoked : crypto.randomUUID() }));
  const { subscription } = await subscribe(client, channel, { getToken });
  const { context } = await timed(t, "revoke_token", { uid: revoked }, once(subscription, "subscribing"));
  assert.equal(context.code, 2502);
  await within(subscription.ready(), "subscribed with the fresh token");
  assert.equal(tokens, 2);
  const stubborn = client.newSubscription(`${channel}x`, { token: sign({ sub: name, channel: `${channel}x`, jti: revoked }) });
  const shut = once(stubborn, "unsubscribed");
  stubborn.subscribe();
  assert.equal((await shut).code, 103);
});

test("the audit log has every act once and in order, also those of one moment", options, async (t) => {
  const { last: before } = await log(0);
  const users = Array.from({ length: 8 }, freshUser);
  const acts = users.map((name, turn) => backend("block_user", { user: name, reason: "r", actor: "carol", idempotency_key: name }, turn));
  const results = await Promise.all(acts);
  const repeated = await backend("block_user", { user: users[0], reason: "r", actor: "carol", idempotency_key: users[0] }, 1);
  assert.equal(repeated.number, results[0].number);
  const { entries, last } = await log(before);
  const [first] = entries;
  assert.deepEqual(entries.map(({ number }) => number), entries.map((_, index) => first.number + index));
  assert.equal(entries.at(-1).number, last);
  assert.equal(first.number, before + 1);
  const ours = entries.filter(({ user }) => users.includes(user));
  assert.equal(ours.length, users.length);
  for (const { act, user: name, reason, actor, api_key, changed, number, time } of ours) {
    assert.deepEqual([act, reason, actor, changed], ["block_user", "r", "carol", true]);
    assert.equal(number, results[users.indexOf(name)].number);
    assert.ok(api_key !== "" && Math.abs(time - Date.now()) < 60_000);
  }
});

test("what makes no sense is refused", options, async () => {
  for (const [method, params] of [
    ["block_user", {}],
    ["block_user", { user: "eve", expire_at: 1 }],
    ["block_user", { user: "eve", expire_at: -1 }],
    ["block_user", { user: "x".repeat(300) }],
    ["block_user", { user: "eve", reason: "x".repeat(600) }],
    ["mute_user", { user: "eve" }],
    ["mute_user", { channel: "room:1" }],
    ["revoke_token", {}],
    ["invalidate_user_tokens", {}],
    ["invalidate_user_tokens", { user: "eve", everybody: true }],
    ["moderation_log", { limit: 401 }],
    ["moderation_state", { act: "shout" }],
    ["moderation_state", { cursor: "?" }],
  ]) {
    await refused(107, backend(method, params), `${method} ${JSON.stringify(params).slice(0, 80)}`);
  }
  await refused(102, backend("mute_user", { user: "eve", channel: "nowhere:1" }), "a namespace that is not there");
});
