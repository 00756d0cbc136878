// A network that can be cut, for this page alone. The SDK is given its two ways to learn about the network, both of them
// ordinary options of it: the WebSocket class it dials with, and the event target on which it hears of going on- and offline.

export class Network {
  #cut = false;
  #events = new EventTarget();

  constructor() {
    for (const type of ["online", "offline"]) {
      window.addEventListener(type, () => {
        if (!this.#cut) this.#events.dispatchEvent(new Event(type));
      });
    }
  }

  get isCut() {
    return this.#cut;
  }

  // Options for `new Centrifuge(url, options)`.
  sdkOptions() {
    const network = this;
    class CuttableWebSocket extends WebSocket {
      constructor(...address) {
        // Dialling over a cut network fails; the SDK backs off and tries again, as it would over a real one.
        if (network.#cut) throw new Error("the network is cut");
        super(...address);
      }
    }
    return { websocket: CuttableWebSocket, networkEventTarget: this.#events };
  }

  // Drops the connection and refuses new ones for so many seconds. `eachSecond` is told how many are left, 0 at the end.
  async cut(seconds, eachSecond) {
    if (this.#cut) return;
    this.#cut = true;
    this.#events.dispatchEvent(new Event("offline"));
    for (let left = seconds; left > 0; left -= 1) {
      eachSecond(left);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    this.#cut = false;
    eachSecond(0);
    this.#events.dispatchEvent(new Event("online"));
  }
}
