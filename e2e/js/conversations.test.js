// Members, receipts and the list of conversations, with the unchanged SDK. Users are spread over the gateways.
//
// Namespaces:
// `team` has members, and users take channels there; `club` has members that the server alone changes; `dm`; `open` has none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { backend } from "./backend.js";
import { DEADLINE, connect, endpoint, newClient, once, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 4 * DEADLINE };
const fresh = (namespace) => `${namespace}:${crypto.randomUUID()}`;
const freshUser = () => `u${crypto.randomUUID()}`;
const user = (t, name, index) => connect(t, endpoint(index), { token: sign({ sub: name }) });

const rpc = async (client, method, data) => (await client.rpc(method, data)).data;

async function refused(code, promise, what) {
  const error = await promise.then(
    (value) => assert.fail(`${what}: not refused but ${JSON.stringify(value)}`),
    (error) => error,
  );
  assert.equal(error.code, code, `${what}: ${error.code} ${error.message}`);
}

async function isNotLetIn(client, channel) {
  const subscription = client.newSubscription(channel);
  const ended = once(subscription, "unsubscribed");
  subscription.subscribe();
  assert.equal((await ended).code, 103);
  client.removeSubscription(subscription);
}

// What alice sees of a conversation, once `condition` holds; it is told what was there otherwise.
async function listed(client, channel, condition) {
  const end = Date.now() + DEADLINE;
  for (;;) {
    const { conversations } = await rpc(client, "inbox.list", {});
    const conversation = conversations.find((each) => each.channel === channel);
    if (condition(conversation)) return conversation;
    assert.ok(Date.now() < end, `still ${JSON.stringify(conversation)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("members are let in, and who was removed is out at every gateway", options, async (t) => {
  const channel = fresh("team");
  const names = [freshUser(), freshUser(), freshUser()];
  const [alice, bob, carol] = await Promise.all(names.map((name, index) => user(t, name, index)));
  const [aliceName, bobName, carolName] = names;
  await isNotLetIn(alice, channel);
  await refused(103, bob.history(channel, { limit: 1 }), "history of who is no member");

  const made = await rpc(alice, "channel.members.add", { channel, users: [bobName] });
  assert.deepEqual([made.users.toSorted(), made.count], [[aliceName, bobName].toSorted(), 2]);
  const hers = await subscribe(alice, channel);
  const his = await subscribe(bob, channel);
  await isNotLetIn(carol, channel);
  await refused(103, rpc(carol, "channel.members.add", { channel, users: [carolName] }), "adding oneself");
  await refused(103, rpc(carol, "channel.members.list", { channel }), "listing by who is no member");
  await refused(103, rpc(bob, "channel.members.add", { channel, users: [carolName] }), "adding by no owner");

  await rpc(alice, "channel.members.add", { channel, users: [carolName] });
  const hersToo = await subscribe(carol, channel);
  await bob.publish(channel, { text: "hello" });
  await hersToo.until(1);
  const told = hers.publications[0];
  assert.equal(told.tags["sb-change"], "members");
  assert.deepEqual(told.data, { members: [carolName], owners: [], removed: [] });
  assert.equal(told.info.user, aliceName);
  const list = await rpc(bob, "channel.members.list", { channel });
  const roles = Object.fromEntries(list.members.map(({ user, role }) => [user, role]));
  assert.deepEqual(roles, { [aliceName]: "owner", [bobName]: "member", [carolName]: "member" });
  const first = await rpc(bob, "channel.members.list", { channel, limit: 1 });
  assert.deepEqual([first.members.length, first.more, first.count], [1, true, 3]);

  const out = once(his.subscription, "unsubscribed");
  const gone = await rpc(alice, "channel.members.remove", { channel, users: [bobName] });
  assert.deepEqual([gone.users, gone.count], [[bobName], 2]);
  assert.equal((await out).code, 2000);
  bob.removeSubscription(his.subscription);
  for (const index of [0, 1, 2]) {
    const again = await user(t, bobName, index);
    await isNotLetIn(again, channel);
    await refused(103, again.history(channel, { limit: 1 }), "history of who was removed");
    await refused(103, again.publish(channel, {}), "publish of who was removed");
    await refused(103, rpc(again, "receipt.read", { channel, offset: made.offset }), "receipt of who was removed");
  }
  const again = await rpc(alice, "channel.members.remove", { channel, users: [bobName] });
  assert.deepEqual([again.users, again.offset], [[], undefined], "nothing to change is no event");
  await refused(103, rpc(alice, "channel.members.remove", { channel, users: [aliceName] }), "the last owner's leaving");
  await rpc(carol, "channel.members.remove", { channel, users: [carolName] });
  const outside = await rpc(carol, "channel.members.remove", { channel, users: [carolName] });
  assert.deepEqual(outside, { users: [] }, "how many they are is not for who is none of them");
  await hers.when((all) => all.at(-1)?.data?.removed?.[0] === carolName, "the event of carol's leaving");
});

test("a backend changes members everywhere", options, async (t) => {
  const channel = fresh("club");
  const [aliceName, bobName] = [freshUser(), freshUser()];
  const [alice, bob] = await Promise.all([user(t, aliceName, 0), user(t, bobName, 1)]);
  await refused(103, rpc(alice, "channel.members.add", { channel, users: [aliceName] }), "a change by a user");
  await isNotLetIn(bob, channel);
  const added = await backend("channel_members_add", { channel, users: [aliceName, bobName] });
  assert.deepEqual([added.users.toSorted(), added.count], [[aliceName, bobName].toSorted(), 2]);
  await backend("channel_members_add", { channel, users: [aliceName], role: "owner" });
  const inbox = await subscribe(bob, channel);
  const listed = await backend("channel_members_list", { channel });
  assert.deepEqual(
    Object.fromEntries(listed.members.map(({ user, role }) => [user, role])),
    { [aliceName]: "owner", [bobName]: "member" },
  );
  const out = once(inbox.subscription, "unsubscribed");
  await backend("channel_members_remove", { channel, users: [bobName] });
  assert.equal((await out).code, 2000);
  await refused(103, backend("subscribe", { channel, user: bobName }), "subscribing who is no member");
  const outside = await rpc(await user(t, freshUser(), 0), "channel.members.remove", { channel, users: [bobName] }).catch(({ code }) => code);
  assert.equal(outside, 103, "the server alone changes them");
  await refused(108, backend("channel_members_add", { channel: fresh("open"), users: ["x"] }), "no members there");
});

test("a backend edits and deletes what anybody said", options, async (t) => {
  const [aliceName, bobName] = [freshUser(), freshUser()].toSorted();
  const channel = `dm:#${aliceName},${bobName}`;
  const [alice, bob] = await Promise.all([user(t, aliceName, 0), user(t, bobName, 1)]);
  const inbox = await subscribe(bob, channel);
  await subscribe(alice, channel);
  const first = await rpc(alice, "message.send", { channel, data: { text: "rude" } });
  const second = await backend("publish", { channel, data: "wrong" }, 1);
  const edit = { channel, offset: first.offset, data: { text: "kind" }, idempotency_key: "once" };
  const edited = await backend("message_edit", edit, 1);
  assert.ok(edited.id && edited.offset > second.offset && edited.epoch === second.epoch, JSON.stringify(edited));
  const again = await backend("message_edit", edit, 0);
  assert.deepEqual([again.id, again.offset, again.duplicate], [edited.id, edited.offset, true]);
  await backend("message_delete", { channel, offset: second.offset, epoch: second.epoch }, 0);
  await within(inbox.until(4), "the changes");
  assert.deepEqual(inbox.publications.map(({ tags }) => tags["sb-change"]), [undefined, undefined, "edit", "delete"]);
  const history = await backend("history", { channel, limit: 2 });
  assert.deepEqual(history.publications.map(({ data }) => data), [{ text: "kind" }, null]);
  for (const wrong of [{ offset: first.offset + 1, data: 1 }, { offset: first.offset }, { offset: second.offset, data: 1 }, { offset: 0, data: 1 }]) {
    const code = await backend("message_edit", { channel, ...wrong }).then(() => 0, (error) => error.code);
    assert.equal(code, 107, JSON.stringify(wrong));
  }
});

test("receipts are seen by the other, and nothing is unread right after reading", options, async (t) => {
  const [aliceName, bobName] = [freshUser(), freshUser()].toSorted();
  const channel = `dm:#${aliceName},${bobName}`;
  const [alice, bob] = await Promise.all([user(t, aliceName, 0), user(t, bobName, 1)]);
  const inbox = await subscribe(alice, channel);
  const his = await subscribe(bob, channel);
  const sent = [];
  for (const text of ["one", "two", "three"]) {
    sent.push(await rpc(alice, "message.send", { channel, data: { text } }));
  }
  await his.until(3);
  const unread = await listed(bob, channel, (conversation) => conversation?.unread === 3);
  assert.deepEqual(unread.last.data, { text: "three" });
  assert.deepEqual([unread.members, unread.last.user, unread.head.offset], [2, aliceName, sent[2].offset]);
  assert.equal((await listed(alice, channel, (own) => own?.last?.data?.text === "three")).unread, 0, "own messages");

  await rpc(bob, "receipt.delivered", { channel, offset: sent[2].offset });
  await rpc(bob, "receipt.read", { channel, offset: sent[1].offset, epoch: sent[1].epoch });
  const { conversations } = await rpc(bob, "inbox.list", {});
  assert.equal(conversations[0].unread, 1, "right after reading");
  assert.deepEqual(conversations[0].read, { offset: sent[1].offset, epoch: sent[1].epoch });
  await inbox.when(
    (all) => all.some(({ tags, data }) => tags?.["sb-change"] === "receipt" && data.read?.offset === sent[1].offset),
    "the receipt",
  );
  const receipt = inbox.publications.findLast(({ tags }) => tags?.["sb-change"] === "receipt").data;
  assert.deepEqual([receipt.user, receipt.delivered.offset], [bobName, sent[2].offset]);

  const status = async (index) => rpc(alice, "message.status", { channel, offset: sent[index].offset });
  const second = await status(1);
  assert.equal(second.sent.user, aliceName);
  assert.deepEqual([second.delivered, second.read], [{ count: 1, users: [bobName] }, { count: 1, users: [bobName] }]);
  const third = await status(2);
  assert.deepEqual([third.delivered.count, third.read], [1, { count: 0, users: [] }]);

  // A mark does not go back, and many at once are as one.
  await rpc(bob, "receipt.read", { channel, offset: sent[0].offset });
  assert.equal((await status(1)).read.count, 1);
  const all = sent.flatMap(({ offset }) => Array.from({ length: 5 }, () => rpc(bob, "receipt.read", { channel, offset })));
  await Promise.all(all);
  assert.equal((await rpc(bob, "inbox.list", {})).conversations[0].unread, 0);
  await refused(107, rpc(bob, "receipt.read", { channel, offset: sent[2].offset + 4096 * 1000 }), "a receipt beyond the head");
  await refused(107, rpc(bob, "receipt.read", { channel, offset: 1, epoch: "99-00000000" }), "a receipt of another epoch");
  await refused(107, rpc(alice, "message.status", { channel, offset: 1 }), "status of what is no message");
});

test("conversations are listed newest first, page by page", options, async (t) => {
  const names = [freshUser(), freshUser()].toSorted();
  const [alice, bob] = await Promise.all(names.map((name, index) => user(t, name, index)));
  const [aliceName, bobName] = names;
  const team = fresh("team");
  const dm = `dm:#${names.join(",")}`;
  await rpc(bob, "channel.members.add", { channel: team, users: [aliceName] });
  const inTeam = await subscribe(bob, team);
  await bob.publish(team, { text: "team" });
  await listed(alice, team, (conversation) => conversation?.unread === 1);
  await subscribe(bob, dm);
  await bob.publish(dm, { text: "dm" });
  await listed(alice, dm, (conversation) => conversation?.unread === 1);
  const seen = [];
  let cursor;
  do {
    const page = await rpc(alice, "inbox.list", { limit: 1, cursor });
    assert.equal(page.conversations.length, 1);
    seen.push(page.conversations[0]);
    cursor = page.cursor;
  } while (cursor);
  assert.deepEqual(seen.map(({ channel, role, unread, last }) => [channel, role, unread, last.data.text]), [
    [dm, undefined, 1, "dm"],
    [team, "member", 1, "team"],
  ]);
  await rpc(bob, "channel.members.remove", { channel: team, users: [aliceName] });
  const left = await rpc(alice, "inbox.list", {});
  assert.deepEqual(left.conversations.map(({ channel }) => channel), [dm], "who was removed has it no longer");
  assert.equal(inTeam.publications.length, 2);
  await refused(107, rpc(alice, "inbox.list", { cursor: "elsewhere" }), "a cursor from elsewhere");
  await refused(107, rpc(alice, "inbox.list", { limit: 100_000 }), "an absurd limit");
});

test("what makes no sense is refused", options, async (t) => {
  const alice = await user(t, freshUser(), 0);
  const anonymous = newClient(t, endpoint(1), { token: sign({ sub: "" }) });
  anonymous.connect();
  await within(anonymous.ready(), "connected");
  const team = fresh("team");
  for (const [code, client, method, data] of [
    [102, alice, "channel.members.add", { channel: fresh("nothing"), users: ["x"] }],
    [107, alice, "channel.members.add", { channel: team, users: [] }],
    [107, alice, "channel.members.add", { channel: team, users: ["x", "x"] }],
    [107, alice, "channel.members.add", { channel: team, users: ["x"], role: "king" }],
    [107, alice, "channel.members.add", { channel: "a b", users: ["x"] }],
    [107, alice, "channel.members.remove", {}],
    [108, alice, "channel.members.add", { channel: fresh("open"), users: ["x"] }],
    [103, anonymous, "channel.members.add", { channel: team, users: ["x"] }],
    [103, anonymous, "inbox.list", {}],
    [103, alice, "message.status", { channel: team, offset: 1 }],
    [103, alice, "receipt.read", { channel: fresh("dm:#a,b"), offset: 1 }],
    [107, alice, "receipt.read", { channel: team }],
  ]) {
    await refused(code, rpc(client, method, data), `${method} ${JSON.stringify(data)}`);
  }
});

test("who is typing is told to those who are subscribed, and to nobody later", options, async (t) => {
  const [aliceName, bobName] = [freshUser(), freshUser()].toSorted();
  const channel = `dm:#${aliceName},${bobName}`;
  const [alice, bob, carol] = await Promise.all([aliceName, bobName, freshUser()].map((name, index) => user(t, name, index)));
  const his = await subscribe(bob, channel);
  await refused(103, rpc(alice, "typing.start", { channel }), "typing of who is not subscribed");
  await subscribe(alice, channel);
  const typing = () => his.publications.filter(({ tags }) => tags?.["sb-change"] === "typing").map(({ data }) => data);
  const told = (count) => his.when(() => typing().length >= count, `${count} events`);
  const started = (event) => {
    assert.ok(event.expires_in > 0 && event.expires_in <= 1_500, JSON.stringify(event));
    assert.deepEqual(event, { user: aliceName, typing: true, expires_in: event.expires_in });
  };
  const stopped = (event) => assert.deepEqual(event, { user: aliceName, typing: false });

  await rpc(alice, "typing.start", { channel });
  await told(1);
  await rpc(alice, "typing.start", { channel });
  // The second is told once typing_interval is over, and then it ends by itself.
  await told(3);
  started(typing()[0]);
  started(typing()[1]);
  stopped(typing()[2]);

  await rpc(alice, "typing.start", { channel });
  await told(4);
  started(typing()[3]);
  await rpc(alice, "typing.stop", { channel });
  await told(5);
  stopped(typing()[4]);

  await rpc(alice, "typing.start", { channel });
  await told(6);
  alice.disconnect();
  await told(7);
  stopped(typing()[6]);

  await bob.publish(channel, { text: "where are you?" });
  const { publications } = await bob.history(channel, { limit: 100 });
  assert.deepEqual(publications.map(({ data }) => data), [{ text: "where are you?" }], "none is stored");
  await refused(103, rpc(carol, "typing.start", { channel }), "typing of who is not in the channel");
  await refused(103, rpc(carol, "typing.stop", { channel }), "no more typing of who is not in the channel");
  await isNotLetIn(carol, channel);
});
