// Keeps a page up to date: the server sends the parts that have changed, as HTML, once a second.
"use strict";
(() => {
  const main = document.querySelector("main[data-live-of]");
  const banner = document.getElementById("connection");
  if (!main) return;
  const address = "/live?of=" + encodeURIComponent(main.dataset.liveOf);
  const SILENT_MS = 8000, AGAIN_MS = 3000;
  let source = null, heardAt = Date.now();

  function say(text) {
    if (banner.textContent !== text) banner.textContent = text;
    banner.hidden = !text;
  }

  function replace(part, html) {
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const folded = new Map([...part.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
    const scrolled = [...part.querySelectorAll(".scroll")].map((e) => e.scrollTop);
    part.innerHTML = html;
    for (const [id, open] of folded) {
      const details = document.getElementById(id);
      if (details) details.open = open;
    }
    part.querySelectorAll(".scroll").forEach((e, i) => { e.scrollTop = scrolled[i] || 0; });
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  function heard(event) {
    heardAt = Date.now();
    const message = JSON.parse(event.data);
    say(message.error ? "Qdrant cannot be looked at; what is shown may be old. " + message.error : "");
    for (const [name, html] of Object.entries(message.parts || {})) {
      const part = main.querySelector('[data-part="' + name + '"]');
      if (part) replace(part, html);
    }
  }

  function connect() {
    source = new EventSource(address);
    source.onmessage = heard;
    source.onerror = () => {
      say("The connection to the dashboard is lost; what is shown may be old. Trying again …");
      if (source.readyState !== EventSource.CLOSED) return;
      // Whoever is not signed in any more is led to where one signs in, as by opening the page.
      fetch(location.href, { redirect: "manual" })
        .then((answer) => { if (answer.type === "opaqueredirect") location.reload(); })
        .catch(() => {})
        .finally(() => setTimeout(connect, AGAIN_MS));
    };
  }

  setInterval(() => {
    if (Date.now() - heardAt > SILENT_MS && banner.hidden) {
      say("Nothing has been heard from the dashboard for some seconds; what is shown may be old.");
    }
  }, 1000);
  // A browser has few connections for one site, and a page that is left must not keep one.
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  connect();
})();
