"use strict";
// Renews the page in place, and says so when it cannot. Without it the page is the same, by reload.
(() => {
  const root = document.documentElement, renew = +root.dataset.renew, stale = +root.dataset.stale;
  let heard = Date.now();
  const localise = () => document.querySelectorAll("time").forEach((at) => {
    at.title = new Date(at.dateTime).toLocaleString();
    if (at.dataset.local) at.textContent = new Date(at.dateTime).toLocaleTimeString();
  });
  const notice = () => {
    const seconds = Math.round((Date.now() - heard) / 1000), box = document.getElementById("stale");
    box.hidden = seconds < stale;
    if (!box.hidden) box.textContent = `This was ${seconds} s ago: the server does not answer.`;
  };
  const ask = async () => {
    try {
      const busy = document.activeElement && document.activeElement.closest("main form");
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.ok && !busy) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        const open = [...document.querySelectorAll("details")].map((item) => item.open);
        document.querySelector("main").replaceWith(fresh);
        document.querySelectorAll("details").forEach((item, at) => { if (open[at] !== undefined) item.open = open[at]; });
        localise();
      }
      if (answer.ok) heard = Date.now();
    } catch { /* said by the notice */ }
    notice();
    setTimeout(ask, 1000 * renew);
  };
  localise();
  setTimeout(ask, 1000 * renew);
  setInterval(notice, 1000);
})();
