// Edits, deletions, reactions and threads with the unchanged SDK. What is deleted is not to be found anywhere afterwards: the caller looks
// into the database for "unsayable".

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, subscribe, within } from "./harness.js";
import { sign } from "./sign.js";

const options = { timeout: 6 * DEADLINE };
const as = (user, t) => connect(t, endpoint(0), { token: sign({ sub: user }) });

async function call(client, method, data) {
  const { data: answer } = await within(client.rpc(method, data), method);
  return answer;
}

async function refused(client, method, data, code) {
  const error = await within(client.rpc(method, data).then(() => assert.fail(`${method} done`), (error) => error), "an answer");
  assert.equal(error.code, code, `${method} ${JSON.stringify(data)}: ${error.message}`);
}

const unsayable = (value) => JSON.stringify(value).includes("unsayable");
const shown = ({ data, tags }) => ({ data, change: tags?.["sb-change"], target: tags?.["sb-target"] });

async function until(what, look) {
  const deadline = Date.now() + DEADLINE;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, `still waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("changes come in order, and history and recovery show what became of it", options, async (t) => {
  const channel = `talk:${crypto.randomUUID()}`;
  const [alice, bob] = [await as("alice", t), await as("bob", t)];
  const inbox = await subscribe(bob, channel);
  await subscribe(alice, channel);
  const send = (client, data, more = {}) => call(client, "message.send", { channel, data, ...more });
  const first = await send(alice, { text: "first" });
  const second = await send(alice, { text: "unsayable" });
  const at = (message, more = {}) => ({ channel, offset: message.offset, ...more });
  const edit = await call(alice, "message.edit", at(first, { data: { text: "first, better" } }));
  assert.ok(edit.id && edit.offset > second.offset && edit.epoch === first.epoch);
  await call(alice, "message.edit", at(second, { data: { text: "unsayable, edited" }, epoch: second.epoch }));
  await call(bob, "message.react", at(first, { reaction: "👍" }));
  const reply = await send(bob, { text: "reply" }, { thread: first.offset });
  const removal = await call(alice, "message.delete", at(second, { key: "once" }));
  const again = await call(alice, "message.delete", at(second, { key: "once" }));
  assert.deepEqual([again.duplicate, again.id, again.offset], [true, removal.id, removal.offset]);
  await call(alice, "message.react", at(reply, { reaction: "🎉" }));
  await call(bob, "message.react", at(first, { reaction: "👍", remove: true }));
  await inbox.until(9);
  const target = (message) => String(message.offset);
  assert.deepEqual(inbox.publications.map(shown), [
    { data: { text: "first" }, change: undefined, target: undefined },
    { data: { text: "unsayable" }, change: undefined, target: undefined },
    { data: { text: "first, better" }, change: "edit", target: target(first) },
    { data: { text: "unsayable, edited" }, change: "edit", target: target(second) },
    { data: { reaction: "👍", user: "bob", remove: false }, change: "react", target: target(first) },
    { data: { text: "reply" }, change: undefined, target: undefined },
    { data: null, change: "delete", target: target(second) },
    { data: { reaction: "🎉", user: "alice", remove: false }, change: "react", target: target(reply) },
    { data: { reaction: "👍", user: "bob", remove: true }, change: "react", target: target(first) },
  ]);
  assert.equal(inbox.publications[5].tags["sb-thread"], target(first));

  const history = await within(bob.history(channel, { limit: 100 }), "history");
  assert.ok(!unsayable(history), JSON.stringify(history));
  assert.equal(history.publications.length, 9, "places stay");
  assert.deepEqual(history.publications[0].data, { text: "first, better" });
  assert.equal(history.publications[0].tags["sb-edited"], target(edit));
  assert.equal(history.publications[1].data, null);
  assert.equal(history.publications[1].tags["sb-deleted"], "true");

  const late = await as("carol", t);
  const recovered = await subscribe(late, channel, { since: { offset: first.offset, epoch: first.epoch } });
  await recovered.until(8);
  assert.ok(!unsayable(recovered.publications), JSON.stringify(recovered.publications));

  const thread = await until("the thread", async () => {
    const page = await call(bob, "thread.list", at(first));
    return page.messages[0]?.reactions && page;
  });
  assert.equal(thread.cursor, undefined);
  assert.deepEqual(thread.messages.map(({ data, info, offset, reactions }) => ({ data, user: info.user, offset, reactions })), [
    { data: { text: "reply" }, user: "bob", offset: reply.offset, reactions: [{ reaction: "🎉", count: 1, users: ["alice"] }] },
  ]);
});

test("who may change what", options, async (t) => {
  const channel = `talk:${crypto.randomUUID()}`;
  const [alice, bob] = [await as("alice", t), await as("bob", t)];
  await subscribe(alice, channel);
  await subscribe(bob, channel);
  const { offset, epoch } = await call(alice, "message.send", { channel, data: "hers" });
  const other = `talk:${crypto.randomUUID()}`;
  await subscribe(alice, other);
  await refused(bob, "message.edit", { channel, offset, data: "his" }, 103);
  await refused(bob, "message.delete", { channel, offset }, 103);
  await refused(alice, "message.edit", { channel: other, offset, data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset: offset + 1, data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset: offset + 4096 * 1000, data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset: 0, data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset, epoch: "nonsense", data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset, epoch: "77-00000001", data: 1 }, 107);
  await refused(alice, "message.edit", { channel, offset }, 107);
  await refused(bob, "message.react", { channel, offset, reaction: "x".repeat(65) }, 107);
  await refused(bob, "message.react", { channel, offset, reaction: "" }, 107);
  await refused(bob, "thread.list", { channel, offset, cursor: "1.1-00000001.1.1-00000001" }, 107);
  const react = await call(bob, "message.react", { channel, offset, epoch, reaction: "👍" });
  await refused(bob, "message.delete", { channel, offset: react.offset }, 107);
  await call(alice, "message.delete", { channel, offset });
  await refused(alice, "message.edit", { channel, offset, data: 1 }, 107);
  await refused(bob, "message.react", { channel, offset, reaction: "👍" }, 107);
  // Where the namespace has none of it, or the user's time is over.
  const room = `room:${crypto.randomUUID()}`;
  await subscribe(alice, room);
  const there = await call(alice, "message.send", { channel: room, data: 1 });
  await refused(alice, "message.edit", { channel: room, offset: there.offset, data: 2 }, 108);
  const brief = `brief:${crypto.randomUUID()}`;
  await subscribe(alice, brief);
  const soon = await call(alice, "message.send", { channel: brief, data: 1 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  await refused(alice, "message.edit", { channel: brief, offset: soon.offset, data: 2 }, 103);
  await call(alice, "message.delete", { channel: brief, offset: soon.offset });
});

test("inbox entries go with their message", options, async (t) => {
  const channel = "pair:#alice,bob";
  const [alice, bob] = [await as("alice", t), await as("bob", t)];
  await subscribe(alice, channel);
  await subscribe(bob, channel);
  const mail = [];
  bob.on("publication", (publication) => mail.push(publication));
  const message = await call(alice, "message.send", { channel, data: "unsayable" });
  await until("the entry", () => mail.length === 1);
  await call(alice, "message.edit", { channel, offset: message.offset, data: "unsayable, edited" });
  await call(alice, "message.delete", { channel, offset: message.offset });
  await until("its changes", () => mail.length === 3);
  assert.deepEqual(mail.map(({ tags }) => tags["sb-change"]), [undefined, "edit", "delete"]);
  const history = await within(bob.history("#bob", { limit: 100 }), "history");
  assert.equal(history.publications.length, 3);
  assert.ok(!unsayable(history), JSON.stringify(history));
});
