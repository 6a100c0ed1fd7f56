// Browsers start no worker from the disk. There, what a worker would run runs in a hidden frame of the page.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #inside;

    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.#inside = new Promise((resolve) => frame.addEventListener("load", () => resolve(frame.contentWindow)));
      frame.srcdoc = "<script>importScripts = (...addresses) => addresses.reduce((before, address) =>"
        + " before.then(() => new Promise((done) => { const script = document.createElement('script');"
        + " script.src = address; script.onload = done; document.head.append(script); })), Promise.resolve());"
        + " postMessage = (data) => frameElement.dispatchEvent(new parent.MessageEvent('answer', { data }));"
        + `<\/script><script src="${address}"><\/script>`;
      frame.addEventListener("answer", ({ data }) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.#inside.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
