// The demo page in a real Chromium: two tabs talk, and the page says what really happened.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { DEADLINE, connect, endpoint, within } from "./harness.js";

const page = process.env.SWITCHBOARD_PAGE ?? "";
const screenshots = process.env.SWITCHBOARD_SCREENSHOTS ?? "";
if (page === "" || screenshots === "") {
  throw new Error("set SWITCHBOARD_PAGE (address of the demo page) and SWITCHBOARD_SCREENSHOTS (a folder)");
}
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
if (!executablePath) throw new Error("no Chromium found: install Debian's package chromium, as ./test does");

const options = { timeout: 6 * DEADLINE };
let browser;
let profile;

before(async () => {
  mkdirSync(screenshots, { recursive: true });
  profile = mkdtempSync(path.join(tmpdir(), "switchboard-chromium-"));
  browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
});

after(async () => {
  await browser?.close();
  rmSync(profile, { recursive: true, force: true });
});

const freshRoom = () => `test-${crypto.randomUUID().slice(0, 8)}`;

// A tab in a room. Errors of the page, blocked scripts and requests to other hosts fail the test that opened it.
async function open(t, room, { name, size = { width: 1280, height: 800 }, dark = false } = {}) {
  const tab = await browser.newPage();
  const faults = [];
  tab.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  tab.on("console", (message) => {
    if (message.type() === "error") faults.push(`console: ${message.text()}`);
  });
  tab.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(page).host) faults.push(`request to ${request.url()}`);
  });
  t.after(async () => {
    await tab.close();
    assert.deepEqual(faults, []);
  });
  tab.setDefaultTimeout(DEADLINE);
  await tab.setViewportSize(size);
  await tab.emulateMedia({ colorScheme: dark ? "dark" : "light" });
  await tab.goto(`${page}#${encodeURIComponent(room)}`);
  if (name) await tab.getByLabel("Name").fill(name);
  await tab.getByText(`You are in room:${room}`).waitFor();
  assert.equal(await tab.getByRole("status").textContent(), "Connected");
  return tab;
}

async function say(tab, text) {
  await tab.getByLabel("Message").fill(text);
  await tab.getByRole("button", { name: "Send" }).click();
}

const messages = (tab) => tab.locator("#messages .message");
const shown = (tab, text) => messages(tab).filter({ has: tab.locator(".said", { hasText: text }) }).first().waitFor();

test("two tabs talk, and both show the same offsets", options, async (t) => {
  const room = freshRoom();
  const ada = await open(t, room, { name: "Ada" });
  const grace = await open(t, room, { name: "Grace" });
  await say(ada, "Hello, is anybody here?");
  await shown(grace, "Hello, is anybody here?");
  await say(grace, "Yes, in the other tab.");
  await shown(ada, "Yes, in the other tab.");

  assert.deepEqual(await messages(ada).locator(".author").allTextContents(), ["Ada (you)", "Grace"]);
  assert.deepEqual(await messages(grace).locator(".author").allTextContents(), ["Ada", "Grace (you)"]);
  const offset = (text) => Number(/^offset (\d+),/.exec(text)[1]);
  const offsets = async (tab) => (await messages(tab).locator(".place").allTextContents()).map(offset);
  const [first, second] = await offsets(ada);
  assert.ok(0 < first && first < second, `${first}, ${second}`);
  assert.deepEqual(await offsets(grace), [first, second]);
  assert.equal(await ada.locator("#offset").textContent(), String(second));
  assert.equal(await ada.locator(".faulty").count(), 0);
});

test("the keyboard is enough: name, room, message", options, async (t) => {
  const room = freshRoom();
  const listener = await open(t, room);
  const tab = await open(t, freshRoom());
  await tab.getByLabel("Name").focus();
  await tab.keyboard.press("ControlOrMeta+a");
  await tab.keyboard.type("Keys");
  await tab.keyboard.press("Tab");
  await tab.keyboard.press("ControlOrMeta+a");
  await tab.keyboard.type(room);
  await tab.keyboard.press("Enter");
  await tab.getByText(`You are in room:${room}`).waitFor();
  await tab.getByLabel("Message").focus();
  for (const text of ["typed", "typed again"]) {
    // The field keeps the focus after Enter.
    await tab.keyboard.type(text);
    await tab.keyboard.press("Enter");
    await shown(listener, text);
  }
  assert.deepEqual(await messages(listener).locator(".author").allTextContents(), ["Keys", "Keys"]);
  for (const control of ["Join", "Cut the network for 5 seconds"]) {
    await tab.keyboard.press("Tab");
    for (let presses = 0; presses < 5; presses += 1) {
      if (await tab.getByRole("button", { name: control }).evaluate((button) => button === document.activeElement)) break;
      await tab.keyboard.press("Tab");
    }
    assert.ok(await tab.getByRole("button", { name: control }).evaluate((button) => button === document.activeElement), control);
  }
});

test("a hostile message is text, and so is a hostile name", options, async (t) => {
  const room = freshRoom();
  const tab = await open(t, room);
  const client = await connect(t, endpoint(0));
  const hostile = `<img src=x onerror="window.harmed=1"><script>window.harmed=1</script><a href="javascript:window.harmed=1">`;
  const payloads = [{ name: hostile, text: hostile }, hostile, null, 17, { text: { toString: "x" }, name: [] }, [hostile], {}];
  for (const payload of payloads) await within(client.publish(`room:${room}`, payload), "publish acknowledged");
  await messages(tab).nth(payloads.length - 1).waitFor();

  assert.deepEqual(await messages(tab).locator(".said").allTextContents(),
    [hostile, ...payloads.slice(1).map((payload) => JSON.stringify(payload))]);
  assert.equal(await messages(tab).locator(".author").first().textContent(), hostile);
  assert.equal(await tab.locator("#messages :is(img, script, a)").count(), 0);
  assert.equal(await tab.evaluate(() => window.harmed), undefined);
});

test("the policy stops a script even if markup got in", options, async (t) => {
  const tab = await browser.newPage();
  t.after(() => tab.close());
  await tab.goto(page);
  const outcome = await tab.evaluate(async () => {
    let assigned = "assigned";
    try {
      document.body.innerHTML = "<p>markup</p>";
    } catch (error) {
      assigned = error.name;
    }
    const script = document.createElement("script");
    try {
      script.textContent = "window.harmed = 1";
    } catch {
      script.append("window.harmed = 1");
    }
    document.body.append(script);
    return { assigned, harmed: window.harmed };
  });
  assert.deepEqual(outcome, { assigned: "TypeError", harmed: undefined });
});

test("after a cut of the network the page is back, and what it says about lost messages is true", options, async (t) => {
  const room = freshRoom();
  const ada = await open(t, room, { name: "Ada" });
  const grace = await open(t, room, { name: "Grace" });
  await say(grace, "before the cut");
  await shown(ada, "before the cut");

  await ada.getByRole("button", { name: "Cut the network" }).click();
  await ada.getByRole("status").filter({ hasText: /^Network cut, back in \d s$/ }).waitFor();
  await say(grace, "during the cut");
  await shown(grace, "during the cut");
  assert.equal(await messages(ada).count(), 1);
  await ada.screenshot({ path: path.join(screenshots, "cut.png") });

  await ada.getByRole("status").filter({ hasText: /^Connected$/ }).waitFor();
  const notice = ada.locator(".notice").filter({ hasText: /^(Recovered|Reconnected)/ });
  await notice.waitFor();
  await say(grace, "after the cut");
  await shown(ada, "after the cut");

  const said = await messages(ada).locator(".said").allTextContents();
  const verdict = await notice.textContent();
  t.diagnostic(`the page said: ${verdict}`);
  const recovered = ["before the cut", "during the cut", "after the cut"];
  if (verdict === "Recovered 1 message") assert.deepEqual(said, recovered);
  else {
    assert.match(verdict, /messages( sent meanwhile, if any,)? are missing above$/);
    assert.deepEqual(said, recovered.toSpliced(1, 1));
  }
  assert.equal(await ada.locator(".faulty").count(), 0);
  await ada.screenshot({ path: path.join(screenshots, "after-cut.png") });
});

test("what is sent over a cut network is reported, and the text is not lost", options, async (t) => {
  const tab = await open(t, freshRoom());
  await tab.getByRole("button", { name: "Cut the network" }).click();
  await tab.getByRole("status").filter({ hasText: /^Network cut/ }).waitFor();
  await say(tab, "written offline");
  // It is either sent once the network is back, or refused and given back: never both, never neither.
  const given = tab.getByText("Your text is back in the field");
  const sent = messages(tab).first();
  await given.or(sent).first().waitFor();
  await tab.getByRole("status").filter({ hasText: /^Connected$/ }).waitFor();
  await say(tab, "written online");
  await shown(tab, "written online");
  const said = await messages(tab).locator(".said").allTextContents();
  assert.deepEqual(said, (await given.count()) > 0 ? ["written online"] : ["written offline", "written online"]);
});

test("rooms do not mix, and a refused room says why", options, async (t) => {
  const [one, other] = [freshRoom(), freshRoom()];
  const tab = await open(t, one);
  const stayed = await open(t, one);
  await tab.getByLabel("Room", { exact: true }).fill(other);
  await tab.getByRole("button", { name: "Join" }).click();
  await tab.getByText(`You are in room:${other}`).waitFor();
  await say(tab, "only in the other room");
  await shown(tab, "only in the other room");
  await say(tab, "and one more");
  await shown(tab, "and one more");
  assert.equal(await messages(stayed).count(), 0);

  await tab.getByLabel("Room", { exact: true }).fill("žluť");
  await tab.getByRole("button", { name: "Join" }).click();
  await tab.getByText(/^Not in room:žluť: .+ \(107\)$/).waitFor();
  await tab.getByLabel("Room", { exact: true }).fill(one);
  await tab.getByRole("button", { name: "Join" }).click();
  await tab.getByText(`You are in room:${one}`).waitFor();
  await say(tab, "back again");
  await shown(stayed, "back again");
});

for (const [form, size] of Object.entries({ wide: { width: 1280, height: 800 }, narrow: { width: 360, height: 740 } })) {
  for (const dark of [false, true]) {
    const shade = dark ? "dark" : "light";
    test(`fits a ${form} window, ${shade}`, options, async (t) => {
      const room = freshRoom();
      const tab = await open(t, room, { name: "Ada", size, dark });
      const client = await connect(t, endpoint(0));
      await say(tab, "Hello, is anybody here?");
      await shown(tab, "anybody");
      for (const text of ["Yes, on another connection.", `A word without an end: ${"switchboard".repeat(20)}`, "Two\nlines"]) {
        await within(client.publish(`room:${room}`, { name: "Grace", text }), "publish acknowledged");
      }
      await shown(tab, "lines");
      await tab.screenshot({ path: path.join(screenshots, `${form}-${shade}.png`), fullPage: true });
      const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(overflow <= 0, `${overflow} pixels too wide`);
      const background = await tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const [red] = background.match(/\d+/g).map(Number);
      assert.equal(red < 128, dark, `background ${background}`);
    });
  }
}
