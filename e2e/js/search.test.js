// What was said is found by its words, by the unchanged SDK.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE, connect, endpoint, freshChannel, subscribe, within } from "./harness.js";

const options = { timeout: 4 * DEADLINE };

const search = async (client, data) => {
  const { data: found } = await within(client.rpc("history.search", data), "search");
  return found instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(found)) : found;
};

const refused = async (client, data) => {
  const error = await search(client, data).then(() => assert.fail("searched"), (error) => error);
  return error;
};

// Messages are found a moment after they are stored.
async function until(client, data, count) {
  const end = Date.now() + DEADLINE;
  for (;;) {
    const found = await search(client, data);
    if (found.matches.length >= count) return found;
    assert.ok(Date.now() < end, `${found.matches.length} of ${count} were found`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

test("what is published is found, in the channels that were asked for", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const [one, two] = [freshChannel(), freshChannel()];
  await within(client.publish(one, { text: "The quick brown <b>foxes</b>" }), "publish");
  await within(client.publish(one, { text: "nothing here" }), "publish");
  await within(client.publish(two, { text: "a brown fox" }), "publish");

  const found = await until(client, { query: "fox", channels: [one, two] }, 2);
  assert.deepEqual(found.matches.map((match) => match.channel).sort(), [one, two].sort());
  const [match] = (await search(client, { query: '"brown foxes" OR "brown b foxes"', channels: [one] })).matches;
  assert.equal(match.snippet, "The quick <mark>brown</mark> &lt;<mark>b</mark>&gt;<mark>foxes</mark>&lt;/b&gt;");
  assert.deepEqual(match.data, { text: "The quick brown <b>foxes</b>" });
  assert.ok(match.offset > 0 && match.epoch && match.time > 0);
  assert.deepEqual((await search(client, { query: "fox -quick", channels: [one] })).matches, []);
});

test("without channels the search is in what is subscribed", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const [mine, other] = [freshChannel(), freshChannel()];
  const word = `w${crypto.randomUUID().replaceAll("-", "")}`;
  await subscribe(client, mine);
  await within(client.publish(other, { text: `${word} there` }), "publish");
  await within(client.publish(mine, { text: `${word} here` }), "publish");
  await until(client, { query: word, channels: [mine, other] }, 2);
  const { matches } = await search(client, { query: word });
  assert.deepEqual(matches.map((match) => match.channel), [mine]);
});

test("pages follow each other; what is wrong is said", options, async (t) => {
  const client = await connect(t, endpoint(0));
  const channel = freshChannel();
  for (let number = 0; number < 12; number++) {
    await within(client.publish(channel, { text: `number ${number} of them` }), "publish");
  }
  await until(client, { query: "number", channels: [channel] }, 12);
  const offsets = new Set();
  let cursor;
  do {
    const page = await search(client, { query: "number", channels: [channel], limit: 5, cursor });
    page.matches.forEach((match) => offsets.add(match.offset));
    cursor = page.cursor;
  } while (cursor);
  assert.equal(offsets.size, 12);

  for (const [wrong, words] of [
    [{ query: '"open', channels: [channel] }, /quotation mark/],
    [{ query: "-only", channels: [channel] }, /must not be there/],
    [{ query: "number", channels: [channel], cursor: "elsewhere" }, /cursor/],
    [{ query: "number", channels: [channel], language: "klingon" }, /klingon/],
    [{ query: "number", channels: [""] }, /channel/],
    [{ queries: 1 }, /history.search wants/],
  ]) {
    const error = await refused(client, wrong);
    assert.equal(error.code, 107);
    assert.match(error.message, words);
  }
});
