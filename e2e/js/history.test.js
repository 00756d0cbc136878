// What was said in a channel, asked for by the unchanged SDK.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, freshChannel, subscribe, within } from "./harness.js";

const options = { timeout: 4 * DEADLINE };

const value = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
const said = (history) => history.publications.map((publication) => value(publication.data));

// A channel in which `count` numbers were said through one gateway, and a client of the other that asks about it.
async function told(t, count) {
  const channel = freshChannel();
  const publisher = await connect(t, endpoint(0));
  for (let number = 0; number < count; number++) {
    await within(publisher.publish(channel, number), "publish acknowledged");
  }
  return { channel, publisher, reader: await connect(t, endpoint(1)) };
}

const ask = (client, channel, request) => within(client.history(channel, request), "history");

test("everything, a part, and nothing but the top", options, async (t) => {
  const { channel, reader } = await told(t, 10);
  const all = await ask(reader, channel, { limit: -1 });
  assert.deepEqual(said(all), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const offsets = all.publications.map((publication) => publication.offset);
  assert.deepEqual(offsets, [...new Set(offsets)].sort((a, b) => a - b));
  assert.equal(all.offset, offsets.at(-1));
  assert.ok(all.epoch);
  assert.ok(all.publications[0].info.client, "who said it");

  assert.deepEqual(said(await ask(reader, channel, { limit: 3 })), [0, 1, 2]);
  assert.deepEqual(said(await ask(reader, channel, { limit: 3, reverse: true })), [9, 8, 7]);
  const top = await ask(reader, channel, {});
  assert.deepEqual([top.publications.length, top.offset, top.epoch], [0, all.offset, all.epoch]);

  const since = { offset: offsets[4], epoch: all.epoch };
  assert.deepEqual(said(await ask(reader, channel, { limit: -1, since })), [5, 6, 7, 8, 9]);
  assert.deepEqual(said(await ask(reader, channel, { limit: 2, since, reverse: true })), [3, 2]);
  assert.deepEqual(said(await ask(reader, channel, { limit: 5, since: { offset: offsets[9], epoch: all.epoch } })), []);
});

test("page by page, forward and backward, everything comes once", options, async (t) => {
  const { channel, reader } = await told(t, 25);
  for (const reverse of [false, true]) {
    const numbers = [];
    let since;
    for (;;) {
      const page = await ask(reader, channel, { limit: 7, reverse, since });
      if (page.publications.length === 0) break;
      numbers.push(...said(page));
      since = { offset: page.publications.at(-1).offset, epoch: page.epoch };
    }
    const all = Array.from({ length: 25 }, (_, number) => number);
    assert.deepEqual(numbers, reverse ? all.reverse() : all);
  }
});

test("what was just acknowledged is in it, and of other channels nothing", options, async (t) => {
  const { channel, publisher } = await told(t, 1);
  for (let number = 1; number <= 20; number++) {
    await within(publisher.publish(freshChannel(), "elsewhere"), "publish acknowledged");
    await within(publisher.publish(channel, number), "publish acknowledged");
    const last = await ask(publisher, channel, { limit: 1, reverse: true });
    assert.deepEqual(said(last), [number]);
  }
});

test("a subscription asks about its channel; a channel where nothing was said has no history", options, async (t) => {
  const { channel, reader } = await told(t, 2);
  const { subscription } = await subscribe(reader, channel);
  assert.deepEqual(said(await within(subscription.history({ limit: 10 }), "history")), [0, 1]);
  const quiet = await ask(reader, freshChannel(), { limit: 10 });
  assert.deepEqual(quiet.publications, []);
});

test("a position of another life of the log is refused with 112, a backward one before all with 107", options, async (t) => {
  const { channel, reader } = await told(t, 1);
  const refused = async (code, request) =>
    assert.rejects(ask(reader, channel, request), (error) => error.code === code || assert.fail(JSON.stringify(error)));
  await refused(112, { limit: 1, since: { offset: 1, epoch: "another" } });
  await refused(107, { limit: 1, reverse: true, since: { offset: 0, epoch: "" } });
});
