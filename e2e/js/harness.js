// What the tests share: clients of the unchanged SDK that are closed with their test, and waiting with a deadline.

import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

export const DEADLINE = 15_000;

// The gateways under test, from the one who started them.
export const endpoints = (process.env.SWITCHBOARD_ENDPOINTS ?? "").split(",").filter((url) => url !== "");
if (endpoints.length === 0) {
  throw new Error("SWITCHBOARD_ENDPOINTS names no gateway: give it WebSocket URLs, separated by commas");
}

export const endpoint = (index) => endpoints[index % endpoints.length];

// A name nobody else uses: tests run against one system and must not meet.
export const freshChannel = () => `room:${crypto.randomUUID()}`;

export async function within(promise, what, milliseconds = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`still waiting after ${milliseconds} ms for ${what}`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export const once = (emitter, event, what = event) =>
  within(new Promise((resolve) => emitter.once(event, resolve)), what);

export function newClient(t, url, options = {}) {
  const client = new Centrifuge(url, { websocket: WebSocket, ...options });
  // Without a listener an "error" event would end the process; what matters shows in the assertions.
  client.on("error", (context) => t.diagnostic(`client error: ${JSON.stringify(context)}`));
  t.after(() => client.disconnect());
  return client;
}

export async function connect(t, url, options) {
  const client = newClient(t, url, options);
  client.connect();
  await within(client.ready(), "connected");
  return client;
}

// A subscription that keeps what it is given. `await inbox.until(n)` waits for n publications.
export class Inbox {
  publications = [];
  #waiting = [];

  constructor(client, channel, options) {
    this.subscription = client.newSubscription(channel, options);
    this.subscription.on("publication", (publication) => {
      this.publications.push(publication);
      for (const check of this.#waiting) check();
    });
  }

  async subscribe() {
    const subscribed = once(this.subscription, "subscribed");
    this.subscription.subscribe();
    return subscribed;
  }

  get data() {
    return this.publications.map((publication) => publication.data);
  }

  when(condition, what) {
    const met = new Promise((resolve) => {
      const check = () => {
        if (!condition(this.publications)) return;
        this.#waiting = this.#waiting.filter((other) => other !== check);
        resolve();
      };
      this.#waiting.push(check);
      check();
    });
    return within(met, what).catch((error) => {
      throw new Error(`${error.message}; ${this.publications.length} publications came`);
    });
  }

  until(count) {
    return this.when((publications) => publications.length >= count, `${count} publications`);
  }
}

export async function subscribe(client, channel, options) {
  const inbox = new Inbox(client, channel, options);
  inbox.context = await inbox.subscribe();
  return inbox;
}
