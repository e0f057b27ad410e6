// Keeps the page current. The server sends the HTML of each region that changed; here the old tree is brought in line with the
// new one node by node, so that focus, selection, open tables and scroll positions stay where they are.

const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30000;
const WORDS = { begin: "Connecting", on: "Live", wait: "Reconnecting", off: "Paused" };

const address = document.body.dataset.events;
let source = null;
let delay = FIRST_DELAY_MS;
let retry = 0;

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key || node.id || null : null);
const fits = (old, next) => old.nodeType === next.nodeType && old.nodeName === next.nodeName && keyOf(old) === keyOf(next);

function bring(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether a table is open is the reader's choice.
    if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  bringChildren(old, next);
}

function bringChildren(old, next) {
  const keyed = new Map();
  for (const child of old.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let here = old.firstChild;
  for (const wanted of [...next.childNodes]) {
    const key = keyOf(wanted);
    const known = key ? keyed.get(key) : here;
    keyed.delete(key);
    if (known && known.parentNode === old && fits(known, wanted)) {
      if (known === here) here = here.nextSibling;
      else old.insertBefore(known, here);
      bring(known, wanted);
    } else {
      old.insertBefore(document.importNode(wanted, true), here);
    }
  }
  while (here) {
    const after = here.nextSibling;
    here.remove();
    here = after;
  }
}

function take(event) {
  delay = FIRST_DELAY_MS;
  show("on");
  for (const [name, html] of Object.entries(JSON.parse(event.data))) {
    const region = document.querySelector(`[data-region="${name}"]`);
    if (!region) continue;
    const template = document.createElement("template");
    template.innerHTML = html;
    bringChildren(region, template.content);
  }
}

function show(state) {
  const badge = document.getElementById("live");
  if (badge.dataset.state === state) return;
  badge.dataset.state = state;
  document.getElementById("live-text").textContent = WORDS[state];
}

function follow() {
  clearTimeout(retry);
  if (source) source.close();
  else show("begin");
  source = new EventSource(address);
  source.addEventListener("open", () => show("on"));
  source.addEventListener("regions", take);
  source.addEventListener("error", () => {
    show("wait");
    // A refusal (too many followers, a balancer's error page) ends an EventSource for good: ask again, later each time.
    if (source.readyState !== EventSource.CLOSED) return;
    retry = setTimeout(follow, delay * (0.75 + Math.random() / 2));
    delay = Math.min(delay * 2, LONGEST_DELAY_MS);
  });
}

function rest() {
  clearTimeout(retry);
  if (source) source.close();
  source = null;
  show("off");
}

if (address) {
  // A hidden page needs no figures, and browsers allow only a few streams to one host.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", (event) => event.persisted && follow());
  if (!document.hidden) follow();
}
