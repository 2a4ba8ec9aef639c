// From the disk a browser starts no Worker, and the theme searches in one: a hidden frame runs its script instead.
// The theme's own shim for this would be fetched from another host.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.body.appendChild(document.createElement("iframe"));
      frame.hidden = true;
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const page = this.scope.document;
      // Firefox would replace the frame's first page, and what was put there, a moment later
      page.open();
      page.write("<body></body>");
      page.close();
      const script = page.createElement("script");
      this.ready = new Promise((done) => script.addEventListener("load", done));
      script.src = url;
      page.body.append(script);
    }

    postMessage(data) {
      this.ready.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
