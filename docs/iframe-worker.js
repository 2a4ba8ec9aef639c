// Browsers start no Worker for a page that is opened from the disk, and the theme's search needs one. A hidden frame runs
// the worker's script instead. (The theme's own polyfill for this would be loaded from another host.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.body.appendChild(document.createElement("iframe"));
      frame.hidden = true;
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const page = this.scope.document;
      // without this, Firefox replaces the frame's first page and everything in it a moment later
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
