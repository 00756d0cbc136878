// What the page shows. Everything that came from outside goes in as text, never as markup.

const MAX_ENTRIES = 500;

const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class View {
  settings = byId("settings");
  name = byId("name");
  room = byId("room");
  composer = byId("composer");
  text = byId("text");
  cut = byId("cut");
  #status = byId("status");
  #title = byId("room-title");
  #messages = byId("messages");

  // `state` is the SDK's: connecting, connected, disconnected.
  status(state, text) {
    this.#status.dataset.state = state;
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }

  fact(id, value) {
    byId(id).textContent = String(value);
  }

  enter(room) {
    this.#title.textContent = `Room ${room}`;
    document.title = `${room} · Switchboard demo`;
    this.#messages.replaceChildren();
  }

  // kind: "good", "bad" or nothing.
  notice(text, kind = "") {
    this.#append(element("li", `notice ${kind}`, text));
  }

  // fault: what is wrong with this delivery, if anything is.
  message({ author, text, place, own, fault }) {
    const entry = element("li", `message${own ? " own" : ""}${fault ? " faulty" : ""}`);
    const about = element("div", "about");
    about.append(element("span", "author", own ? `${author} (you)` : author), element("span", "place", place));
    entry.append(about, element("p", "said", text));
    if (fault) entry.append(element("p", "notice bad", fault));
    this.#append(entry);
  }

  #append(entry) {
    const list = this.#messages;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(entry);
    while (list.childElementCount > MAX_ENTRIES) list.firstElementChild.remove();
    // A reader who scrolled back stays where she is.
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}
