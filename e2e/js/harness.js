// What the tests share: clients of the unchanged SDK that are closed with their test, and waiting with a deadline.

import { Centrifuge } from "centrifuge";
import { Centrifuge as CentrifugeProtobuf } from "centrifuge/build/protobuf";
import WebSocket from "ws";

export const DEADLINE = 15_000;

// The gateways under test, from the one who started them.
export const endpoints = (process.env.SWITCHBOARD_ENDPOINTS ?? "").split(",").filter((url) => url !== "");
if (endpoints.length === 0) {
  throw new Error("SWITCHBOARD_ENDPOINTS names no gateway: give it WebSocket URLs, separated by commas");
}

// The encoding that clients speak where a test does not say another: "json" or "protobuf".
const encoding = process.env.SWITCHBOARD_ENCODING ?? "json";

const bytes = (value) => new TextEncoder().encode(JSON.stringify(value));
const value = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);

// With Protobuf the SDK leaves the form of payloads to the application. Here they are JSON all the same, so that one set of tests
// serves both encodings.
class CentrifugeProtobufWithJson extends CentrifugeProtobuf {
  publish(channel, data) {
    return super.publish(channel, bytes(data));
  }

  rpc(method, data) {
    return super.rpc(method, bytes(data));
  }
}

const SDKS = { json: Centrifuge, protobuf: CentrifugeProtobufWithJson };

// Whether a WebSocket message is a ping of the server's.
export const isPing = (data) => (typeof data === "string" ? data === "{}" : data.byteLength === 1 && new Uint8Array(data)[0] === 0);

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

export function newClient(t, url, options = {}, Sdk = SDKS[encoding]) {
  const client = new Sdk(url, { websocket: WebSocket, ...options });
  // Without a listener an "error" event would end the process; what matters shows in the assertions.
  client.on("error", (context) => t.diagnostic(`client error: ${JSON.stringify(context)}`));
  t.after(() => client.disconnect());
  return client;
}

export async function connect(t, url, options, Sdk) {
  const client = newClient(t, url, options, Sdk);
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
      this.publications.push({ ...publication, data: this.read(publication.data) });
      for (const check of this.#waiting) check();
    });
  }

  // What the application makes of a payload.
  read(data) {
    return value(data);
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
