// The demo: one connection, one room at a time. It says what really happened, also when that is no good news.

import { Network } from "./network.js";
import { View } from "./view.js";

const CUT_SECONDS = 5;

const view = new View();
const network = new Network();

const endpoint = new URL("connection/websocket", document.baseURI);
endpoint.protocol = endpoint.protocol === "https:" ? "wss:" : "ws:";
endpoint.search = "";
endpoint.hash = "";
const client = new Centrifuge(endpoint.href, network.sdkOptions());

// Ids of this tab's connections, earlier ones too: what it sent before a reconnect is still its own.
const ownConnections = new Set();
let subscription = null;
let received = 0;

// ---- connection

client.on("connected", (context) => {
  ownConnections.add(context.client);
  view.fact("connection", context.client);
  view.status("connected", "Connected");
});

client.on("connecting", (context) => {
  view.fact("connection", "none");
  if (!network.isCut) view.status("connecting", context.code === 0 ? "Connecting" : `Reconnecting (${context.reason})`);
});

client.on("disconnected", (context) => {
  view.fact("connection", "none");
  view.status("disconnected", `Disconnected: ${context.reason} (${context.code})`);
});

client.on("error", (context) => {
  if (!network.isCut && client.state === "connecting") {
    view.status("connecting", `Reconnecting (${context.error.message})`);
  }
});

// ---- room

function enter(room) {
  if (subscription) {
    subscription.unsubscribe();
    client.removeSubscription(subscription);
  }
  const channel = `room:${room}`;
  let lastOffset = 0;
  let wasSubscribed = false;
  // While the SDK hands over recovered messages, which it does in one go: the notice that counts them.
  let recovered = null;
  received = 0;
  view.enter(room);
  view.fact("channel", channel);
  view.fact("offset", "none");
  view.fact("received", 0);

  // Asks for both; what the server grants is in the answer.
  subscription = client.newSubscription(channel, { positioned: true, recoverable: true });

  subscription.on("subscribed", (context) => {
    lastOffset = context.streamPosition?.offset ?? 0;
    if (context.streamPosition) view.fact("offset", lastOffset);
    if (context.wasRecovering && context.recovered) {
      recovered = 0;
      queueMicrotask(() => {
        const messages = recovered === 1 ? "1 message" : `${recovered} messages`;
        view.notice(recovered === 0 ? "Reconnected. Nothing was missed" : `Recovered ${messages}`, "good");
        recovered = null;
      });
    } else if (context.wasRecovering) {
      view.notice("Reconnected. The server no longer has all that was missed: messages are missing above", "bad");
    } else if (wasSubscribed) {
      view.notice("Reconnected. The server did not offer recovery: messages sent meanwhile, if any, are missing above", "bad");
    } else {
      view.notice(`You are in ${channel}`);
    }
    wasSubscribed = true;
  });

  subscription.on("publication", (publication) => {
    received += 1;
    if (recovered !== null) recovered += 1;
    const { offset } = publication;
    const fault = offset && offset <= lastOffset ? `Out of order or twice: it came after offset ${lastOffset}` : "";
    if (offset) lastOffset = Math.max(lastOffset, offset);
    view.fact("received", received);
    if (offset) view.fact("offset", lastOffset);
    const when = new Date().toLocaleTimeString();
    view.message({
      ...said(publication),
      own: ownConnections.has(publication.info?.client),
      place: offset ? `offset ${offset}, ${when}` : when,
      fault,
    });
  });

  subscription.on("unsubscribed", (context) => {
    // 0 is our own unsubscribe, on the way to another room.
    if (context.code !== 0) view.notice(`Not in ${context.channel}: ${context.reason} (${context.code})`, "bad");
  });

  subscription.on("error", (context) => view.notice(`${context.error.message} (${context.error.code})`, "bad"));

  subscription.subscribe();
}

// Anybody may publish anything: what is not a message of this page is shown as the JSON it is.
function said({ data, info }) {
  const ours = data !== null && typeof data === "object" && typeof data.text === "string" && typeof data.name === "string";
  const author = ours && data.name !== "" ? data.name : "somebody";
  return {
    author: info?.user ? `${author} [${info.user}]` : author,
    text: ours ? data.text : JSON.stringify(data),
  };
}

// ---- what the person does

view.composer.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = view.text.value;
  view.text.value = "";
  try {
    await subscription.publish({ name: view.name.value, text });
  } catch (error) {
    view.notice(`Not confirmed: ${error.message} (${error.code}). Your text is back in the field`, "bad");
    if (view.text.value === "") view.text.value = text;
  }
});

view.settings.addEventListener("submit", (event) => {
  event.preventDefault();
  remember();
  // Also enters it, through hashchange.
  if (location.hash !== `#${encodeURIComponent(view.room.value)}`) location.hash = encodeURIComponent(view.room.value);
});

view.name.addEventListener("change", remember);

window.addEventListener("hashchange", () => enterFromAddress());

view.cut.addEventListener("click", () => {
  if (network.isCut) return;
  // Not `disabled`: that would take the keyboard focus away.
  view.cut.setAttribute("aria-disabled", "true");
  network.cut(CUT_SECONDS, (left) => {
    if (left === 0) view.cut.removeAttribute("aria-disabled");
    view.status("connecting", left > 0 ? `Network cut, back in ${left} s` : "Reconnecting");
  });
});

// A name per tab, so that two tabs are two people.
function remember() {
  sessionStorage.setItem("name", view.name.value);
}

function enterFromAddress() {
  let room = "lobby";
  try {
    room = decodeURIComponent(location.hash.slice(1)) || room;
  } catch {
    // Not an encoded name: the default will do.
  }
  view.room.value = room;
  enter(room);
}

view.name.value = sessionStorage.getItem("name") ?? `guest-${Math.floor(1000 + Math.random() * 9000)}`;
remember();
enterFromAddress();
client.connect();
