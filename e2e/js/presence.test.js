// Who is in channels, who joins and leaves, and watching users, with the unchanged SDK. Users are spread over the gateways.
//
// Namespaces: `room` has presence and tells joins and leaves; `quiet` has presence and tells nothing; `none` has neither; `dm` are
// conversations. `presence.grace` is 1 s, `presence.away_after` 2 s, `gateway.presence.activity_interval` 200 ms.

import assert from "node:assert/strict";
import { test } from "node:test";
import { backend } from "./backend.js";
import { DEADLINE, Inbox, connect, endpoint, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };
const fresh = (namespace) => `${namespace}:${crypto.randomUUID()}`;
const freshUser = () => `u${crypto.randomUUID()}`;
const user = (t, name, index, more = {}) =>
  connect(t, endpoint(index), { token: sign({ sub: name, info: { name }, ...more }) });
const rpc = async (client, method, data) => (await client.rpc(method, data)).data;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function refused(code, promise, what) {
  const error = await promise.then(
    (value) => assert.fail(`${what}: not refused but ${JSON.stringify(value)}`),
    (error) => error,
  );
  assert.equal(error.code, code, `${what}: ${error.code} ${error.message}`);
}

// Asks until the answer is as wanted; it is told what was there otherwise.
async function eventually(ask, condition, what) {
  const end = Date.now() + DEADLINE;
  for (;;) {
    const found = await ask();
    if (condition(found)) return found;
    assert.ok(Date.now() < end, `${what}: still ${JSON.stringify(found)}`);
    await pause(20);
  }
}

const usersOf = ({ clients }) => Object.values(clients).map(({ user }) => user).toSorted();

// What a client hears of users that it watches.
class Heard {
  all = [];
  #waiting = [];

  constructor(client) {
    client.on("message", ({ data }) => {
      if (!data.presence) return;
      this.all.push(data.presence);
      for (const check of this.#waiting) check();
    });
  }

  of(name) {
    return this.all.filter(({ user }) => user === name).map(({ status }) => status);
  }

  until(condition, what) {
    const met = new Promise((resolve) => {
      const check = () => condition(this.all) && resolve();
      this.#waiting.push(check);
      check();
    });
    return within(met, what).catch((error) => {
      throw new Error(`${error.message}; heard ${JSON.stringify(this.all)}`);
    });
  }
}

test("who is in a channel is told, with what its token says, by SDK and server API", options, async (t) => {
  const channel = fresh("room");
  const names = [freshUser(), freshUser()].toSorted();
  const [alice, bob] = await Promise.all(names.map((name, index) => user(t, name, index)));
  const hers = await subscribe(alice, channel);
  const his = await subscribe(bob, channel);
  const both = await eventually(
    () => hers.subscription.presence(),
    (found) => usersOf(found).length === 2,
    "both",
  );
  assert.deepEqual(usersOf(both), names);
  const [info] = Object.values(both.clients).filter(({ user }) => user === names[0]);
  assert.deepEqual([info.client, info.connInfo], [Object.keys(both.clients).find((id) => id === info.client), { name: names[0] }]);
  assert.deepEqual(await his.subscription.presenceStats(), { numClients: 2, numUsers: 2 });
  const { presence } = await backend("presence", { channel });
  assert.deepEqual(Object.values(presence).map(({ user }) => user).toSorted(), names);
  assert.deepEqual(await backend("presence_stats", { channel }), { num_clients: 2, num_users: 2 });
  bob.disconnect();
  await eventually(
    () => hers.subscription.presenceStats(),
    ({ numClients }) => numClients === 1,
    "he left",
  );
  hers.subscription.unsubscribe();
  await eventually(
    () => backend("presence_stats", { channel }),
    ({ num_clients: clients }) => clients === 0 || clients === undefined,
    "all left",
  );
});

test("joins and leaves are told, each once, to who asks for it and may know", options, async (t) => {
  const channel = fresh("room");
  const [aliceName, bobName, carolName] = [freshUser(), freshUser(), freshUser()];
  const alice = await user(t, aliceName, 0);
  const told = [];
  const inbox = new Inbox(alice, channel, { joinLeave: true });
  inbox.subscription.on("join", ({ info }) => told.push(["join", info.user]));
  inbox.subscription.on("leave", ({ info }) => told.push(["leave", info.user]));
  await inbox.subscribe();
  const heard = (count) => eventually(async () => told, (all) => all.length >= count, `${count} told`);
  await heard(1);
  const bob = await user(t, bobName, 1);
  // Bob does not ask for it.
  const his = new Inbox(bob, channel);
  let heardByBob = 0;
  his.subscription.on("join", () => heardByBob++);
  await his.subscribe();
  await heard(2);
  const carol = await user(t, carolName, 0);
  const hers = await subscribe(carol, channel);
  await heard(3);
  hers.subscription.unsubscribe();
  await heard(4);
  bob.disconnect();
  await heard(5);
  assert.deepEqual(told, [
    ["join", aliceName],
    ["join", bobName],
    ["join", carolName],
    ["leave", carolName],
    ["leave", bobName],
  ]);
  assert.equal(heardByBob, 0);
});

test("where presence is off, or is nobody's to ask, it is refused", options, async (t) => {
  const alice = await user(t, freshUser(), 0);
  const none = await subscribe(alice, fresh("none"));
  await refused(108, none.subscription.presence(), "presence of a channel that has none");
  await refused(108, none.subscription.presenceStats(), "its counts");
  const stranger = await user(t, freshUser(), 1);
  await refused(103, stranger.presence(fresh("room")), "presence of a channel one is not in");
  await refused(102, stranger.presence("nowhere:1"), "presence of a namespace that is none");
});

test("in a large channel only counts are told", options, async (t) => {
  const channel = fresh("quiet");
  // `presence.channel_members` is 5.
  const all = await Promise.all(Array.from({ length: 6 }, (_, index) => user(t, freshUser(), index)));
  const inboxes = await Promise.all(all.map((client) => subscribe(client, channel)));
  await eventually(
    () => inboxes[0].subscription.presenceStats(),
    ({ numClients }) => numClients === 6,
    "six",
  );
  await refused(106, inboxes[0].subscription.presence(), "members of a large channel");
  await refused(106, backend("presence", { channel }), "the same by the server API");
});

test("a watched user is seen to come, to be busy, to be away and to go, each once", options, async (t) => {
  const [watcherName, name] = [freshUser(), freshUser()];
  const watcher = await user(t, watcherName, 0);
  const heard = new Heard(watcher);
  const { users } = await rpc(watcher, "presence.watch", { users: [name] });
  assert.deepEqual(users, [{ user: name, status: "offline" }]);
  const her = await user(t, name, 1);
  await heard.until((all) => all.length >= 1, "online");
  const second = await user(t, name, 0);
  await rpc(her, "presence.set", { status: "busy", text: "writing" });
  await heard.until((all) => all.at(-1).status === "busy" && all.at(-1).text === "writing", "busy");
  await rpc(second, "presence.set", { status: "online", text: "" });
  await heard.until((all) => all.at(-1).status === "online", "online again");
  await heard.until((all) => all.at(-1).status === "away", "away by herself");
  await rpc(her, "presence.me", {});
  await heard.until((all) => all.at(-1).status === "online", "active again");
  her.disconnect();
  second.disconnect();
  await heard.until((all) => all.at(-1).status === "offline", "offline");
  // She may be away in between, where the machine is slow.
  const seen = heard.of(name).filter((status) => status !== "away");
  const changes = seen.filter((status, index) => status !== seen[index - 1]);
  assert.deepEqual(changes, ["online", "busy", "online", "offline"]);
  const { users: now } = await rpc(watcher, "presence.get", { users: [name] });
  assert.equal(now[0].status, "offline");
  assert.ok(Math.abs(now[0].last_seen - Date.now()) < 60_000, `last seen ${now[0].last_seen}`);
});

test("who reloads a page is not seen to leave", options, async (t) => {
  const [watcher, name] = [await user(t, freshUser(), 0), freshUser()];
  const first = await user(t, name, 1);
  await eventually(
    () => rpc(watcher, "presence.get", { users: [name] }),
    ({ users }) => users[0].status === "online",
    "online",
  );
  const heard = new Heard(watcher);
  await rpc(watcher, "presence.watch", { users: [name] });
  for (let reload = 0; reload < 3; reload++) {
    first.disconnect();
    const again = once(first, "connected");
    first.connect();
    await again;
    await rpc(first, "presence.me", {});
  }
  first.disconnect();
  await heard.until((all) => all.at(-1)?.status === "offline", "offline in the end");
  // She may be away, where the machine is slow.
  const seen = heard.of(name).filter((status) => status !== "away" && status !== "online");
  assert.deepEqual(seen, ["offline"]);
});

test("who is invisible, or shows herself to nobody, looks offline", options, async (t) => {
  const [aliceName, name] = [freshUser(), freshUser()];
  const [alice, her] = [await user(t, aliceName, 0), await user(t, name, 1)];
  const heard = new Heard(alice);
  await eventually(
    () => rpc(alice, "presence.watch", { users: [name] }),
    ({ users }) => users[0].status !== "offline",
    "online",
  );
  await rpc(her, "presence.set", { status: "invisible" });
  await heard.until((all) => all.at(-1)?.status === "offline", "invisible");
  assert.equal((await rpc(her, "presence.me", {})).chosen, "invisible");
  await rpc(her, "presence.set", { status: "online" });
  await heard.until((all) => all.at(-1).status === "online", "visible");
  await rpc(her, "presence.set", { visibility: "nobody" });
  await heard.until((all) => all.at(-1).status === "offline", "hidden");
  const before = heard.all.length;
  await rpc(her, "presence.set", { status: "busy" });
  const { users } = await rpc(alice, "presence.get", { users: [name] });
  assert.deepEqual(users, [{ user: name, status: "offline" }], "not even when she was seen last");
  await rpc(her, "presence.set", { visibility: "everybody" });
  await heard.until((all) => all.at(-1).status === "busy", "seen again");
  assert.equal(heard.all.length, before + 1, "nothing was told meanwhile");
});

test("who shows herself in shared channels only is seen by who shares one", options, async (t) => {
  const [friendName, strangerName, name] = [freshUser(), freshUser(), freshUser()];
  const [friend, stranger, her] = await Promise.all([friendName, strangerName, name].map((each, index) => user(t, each, index)));
  const dm = `dm:#${[friendName, name].toSorted().join(",")}`;
  await subscribe(friend, dm);
  await friend.publish(dm, { text: "hello" });
  await rpc(her, "presence.set", { visibility: "shared" });
  const seen = async (client) => (await rpc(client, "presence.get", { users: [name] })).users[0].status;
  await eventually(() => seen(friend), (status) => status !== "offline", "seen by a friend");
  assert.equal(await seen(stranger), "offline");
  assert.notEqual(await seen(her), "offline", "she sees herself");
});

test("who unwatches hears no more", options, async (t) => {
  const [alice, name] = [await user(t, freshUser(), 0), freshUser()];
  const [heard, other] = [new Heard(alice), freshUser()];
  await rpc(alice, "presence.watch", { users: [name, other] });
  await rpc(alice, "presence.unwatch", { users: [name] });
  await user(t, name, 1);
  await user(t, other, 1);
  await heard.until((all) => all.length >= 1, "the other");
  assert.deepEqual(heard.of(name), []);
});

test("connections and devices are known", options, async (t) => {
  const name = freshUser();
  const phone = await user(t, name, 0);
  await rpc(phone, "presence.device", { type: "mobile", name: "Phone", platform: "android", app_version: "3.1" });
  const desktop = await user(t, name, 1);
  const me = await eventually(
    () => rpc(desktop, "presence.me", {}),
    ({ connections, devices }) => connections.length === 2 && devices.some(({ device }) => device.name === "Phone"),
    "both",
  );
  const types = me.connections.map(({ device }) => device.type).toSorted();
  assert.deepEqual(types, ["", "mobile"]);
});

test("what makes no sense is refused with a reason", options, async (t) => {
  const alice = await user(t, freshUser(), 0);
  const bad = (method, data, what) => refused(107, rpc(alice, method, data), what);
  await bad("presence.watch", { users: [] }, "nobody");
  await bad("presence.watch", { users: Array.from({ length: 501 }, (_, n) => `u${n}`) }, "too many at once");
  await bad("presence.watch", { users: [""] }, "an empty name");
  await bad("presence.watch", { users: "alice" }, "no list");
  await bad("presence.set", { status: "asleep" }, "an unknown status");
  await bad("presence.set", { status: "offline" }, "offline is not chosen");
  await bad("presence.set", { text: "x".repeat(141) }, "a long text");
  await bad("presence.set", { visibility: "friends" }, "an unknown visibility");
  await bad("presence.set", { user: "bob", status: "busy" }, "somebody else");
  await bad("presence.device", { type: "x".repeat(65) }, "a long device");
  await bad("presence.device", { name: "a\nb" }, "a device with a line break");
  // `gateway.presence.watched_per_connection` is 500.
  const many = (from) => ({ users: Array.from({ length: 300 }, (_, n) => `many${from + n}`) });
  await rpc(alice, "presence.watch", many(0));
  await rpc(alice, "presence.watch", many(0));
  await refused(106, rpc(alice, "presence.watch", many(300)), "more than one connection watches");
});
