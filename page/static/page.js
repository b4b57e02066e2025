// SPDX-License-Identifier: Apache-2.0

// Draws what the agent answers. Everything that it says is written as text, never as HTML.

const PERIOD = 2000; // milliseconds between two readings
const GAP = 5 * PERIOD; // after which there is no telling what happened between
const PATIENCE = 10000; // how long the agent may take to answer
const KEPT = 60; // readings that a graph shows

const NOTHING = { receive: { packets: 0, bytes: 0 }, transmit: { packets: 0, bytes: 0 }, dropped: [] };

// entries has what is known and shown of each attachment.
const entries = new Map();
let lastReading; // its time; undefined before the first
let timer;
let asking = false;
let awaySince;

const by = (id) => document.getElementById(id);

// write changes a text only where it is another, so that a selection in it stays.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, text, className) {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

// Numbers

function scaled(value, unit) {
  for (const prefix of ["", "k", "M", "G"]) {
    if (value < 999.5) return `${value >= 99.5 || prefix === "" ? Math.round(value) : value.toPrecision(2)} ${prefix}${unit}`;
    value /= 1000;
  }
  return `${value.toPrecision(3)} T${unit}`;
}

const bits = (value) => scaled(value, "b/s");
const each = (value) => (value > 0 && value < 9.5 ? value.toFixed(1) : scaled(value, "").replace(" ", ""));
const packets = (value) => `${each(value)} packets/s`;
const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

// Readings

const keyOf = (a) => `${a.containerID}/${a.interface}`;
const sum = (list) => list.reduce((total, one) => total + one.packets, 0);

// take works the rates out, from the reading before to this one.
function take(attachments, at) {
  const seen = new Set();
  for (const a of attachments) {
    const key = keyOf(a);
    seen.add(key);
    let entry = entries.get(key);
    if (!entry || entry.now.created !== a.created) {
      entry?.row.remove();
      entry = begin(a, at);
      entries.set(key, entry);
    }
    entry.advance(a, at);
  }
  for (const [key, entry] of entries) {
    if (seen.has(key)) continue;
    entry.row.remove();
    entries.delete(key);
  }
  lastReading = at;
}

// begin knows an attachment from now on. One that has come since the last reading began at
// zero; what one that was there before had carried by then is of no rate.
function begin(a, at) {
  const isNew = lastReading !== undefined;
  return {
    now: isNew ? { ...NOTHING, created: a.created } : a,
    at: isNew ? lastReading : at,
    rates: null,
    graphs: { receive: [], send: [], drops: [] },
    row: by("attachment").content.firstElementChild.cloneNode(true),
    advance(next, at) {
      if (at - this.at > GAP) {
        this.rates = null;
        this.graphs = { receive: [], send: [], drops: [] };
      } else if (at > this.at) {
        this.rates = ratesBetween(this.now, next, (at - this.at) / 1000);
        for (const name of Object.keys(this.graphs)) {
          this.graphs[name].push(this.rates[name]);
          this.graphs[name].splice(0, this.graphs[name].length - KEPT);
        }
      }
      this.now = next;
      this.text = textOf(next);
      this.at = at;
    },
  };
}

function ratesBetween(then, now, seconds) {
  const per = (before, after) => Math.max(0, after - before) / seconds;
  const reasons = new Map(then.dropped.map((d) => [`${d.direction} ${d.reason}`, d.packets]));
  return {
    receive: 8 * per(then.receive.bytes, now.receive.bytes),
    send: 8 * per(then.transmit.bytes, now.transmit.bytes),
    receivePackets: per(then.receive.packets, now.receive.packets),
    sendPackets: per(then.transmit.packets, now.transmit.packets),
    drops: per(sum(then.dropped), sum(now.dropped)),
    reasons: now.dropped.map((d) => per(reasons.get(`${d.direction} ${d.reason}`) ?? 0, d.packets)),
  };
}

// Drawing

function draw() {
  for (const entry of entries.values()) drawRow(entry);
  arrange();
  drawTotals();
}

// arrange shows the rows that are wanted, in the order that is.
function arrange() {
  const wanted = by("filter").value.trim().toLowerCase();
  const order = orders[by("sort").value];
  const shown = [...entries.values()].filter((e) => e.text.includes(wanted)).sort(order);
  const list = by("attachments");
  const wantedRows = new Set(shown.map((e) => e.row));
  for (const entry of entries.values()) if (!wantedRows.has(entry.row)) entry.row.remove();
  shown.forEach((entry, i) => {
    if (list.children[i] !== entry.row) list.insertBefore(entry.row, list.children[i] ?? null);
  });
  by("none").hidden = shown.length > 0;
  write(by("none"), entries.size > 0 ? "No attachment has this in its names or addresses." : "No pod of this node has a network of weir’s.");
}

const podOf = (a) => (a.pod.name ? `${a.pod.namespace}/${a.pod.name}` : a.containerID);
const textOf = (a) => [podOf(a), a.interface, a.network, ...(a.addresses ?? [])].join(" ").toLowerCase();
const compareTexts = new Intl.Collator().compare;
const byName = (a, b) => compareTexts(a.text, b.text);
const byRate = (name) => (a, b) => (b.rates?.[name] ?? 0) - (a.rates?.[name] ?? 0) || byName(a, b);
const orders = { name: byName, receive: byRate("receive"), send: byRate("send"), drops: byRate("drops") };

function drawRow({ now, rates, graphs, row }) {
  const part = (name) => row.querySelector(`[data-is="${name}"]`);
  write(part("namespace"), now.pod.name ? `${now.pod.namespace}/` : "container ");
  write(part("pod"), now.pod.name || now.containerID.slice(0, 12));
  write(part("interface"), now.interface);
  write(part("network"), now.network);
  write(part("addresses"), (now.addresses ?? []).map((address) => address.split("/")[0]).join(", "));
  write(part("details-of"), ` of ${podOf(now)} ${now.interface}`);
  write(part("receive"), rates ? bits(rates.receive) : "–");
  write(part("send"), rates ? bits(rates.send) : "–");
  write(part("receive-packets"), rates ? packets(rates.receivePackets) : "");
  write(part("send-packets"), rates ? packets(rates.sendPackets) : "");
  write(part("drops"), rates ? packets(rates.drops) : "–");
  row.querySelector(".rate.drops").classList.toggle("dropping", rates?.drops > 0);
  graph(row.querySelector(".receive svg"), graphs.receive, "Received", bits);
  graph(row.querySelector(".send svg"), graphs.send, "Sent", bits);
  graph(row.querySelector(".drops svg"), graphs.drops, "Dropped", packets);
  drawReasons(row.querySelector(".reasons"), now, rates);
  drawDetails(row.querySelector("details dl"), now);
}

// graph draws rates over time, the newest at the right, as high as the greatest of them.
function graph(svg, values, what, unit) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((v, i) => `${60 - (values.length - 1 - i) * (60 / (KEPT - 1))},${(19 - 18 * (v / top)).toFixed(2)}`);
  const first = points[0]?.split(",")[0];
  svg.querySelector("polyline").setAttribute("points", points.join(" "));
  svg.querySelector("polygon").setAttribute("points", points.length ? `${first},20 ${points.join(" ")} 60,20` : "");
  const seconds = Math.round((values.length * PERIOD) / 1000);
  svg.setAttribute("aria-label", values.length ? `${what} in the last ${seconds} seconds: at most ${unit(Math.max(...values))}` : `${what}: not known yet`);
}

function drawReasons(list, now, rates) {
  const texts = now.dropped.map((d, i) => {
    const rate = rates?.reasons[i] ? `, ${each(rates.reasons[i])}/s` : "";
    return `${d.direction} ${d.reason} ${d.packets.toLocaleString("en")}${rate}`;
  });
  const guarded = { "": "not guarded", gone: "its interface is gone" }[now.hook ?? ""];
  const chips = texts.map((text) => make("li", text));
  if (guarded) chips.unshift(make("li", guarded, "unguarded"));
  replace(list, chips);
}

function drawDetails(list, now) {
  const lines = [
    ["Received", `${counted(now.receive.packets, "packet")}, ${counted(now.receive.bytes, "byte")}`],
    ["Sent", `${counted(now.transmit.packets, "packet")}, ${counted(now.transmit.bytes, "byte")}`],
    ["Type", [now.type, now.mode, now.master && `on ${now.master}`].filter(Boolean).join(" ")],
    ["MAC", now.mac],
    ["Addresses", (now.addresses ?? []).join(", ")],
    ["Programs", now.hook],
    ["Isolation", now.isolation],
    ["Container", now.containerID],
    ["Since", new Date(now.created).toLocaleString()],
    ...(now.rules ?? []).map((r) => [`Rule ${r.rule}`, `${r.direction}, ${r.action}: ${counted(r.packets, "packet")}`]),
  ];
  replace(list, lines.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
}

// replace changes what is in an element only where it says something else.
function replace(element, children) {
  const text = (nodes) => [...nodes].map((n) => n.className + n.textContent).join("\n");
  if (text(element.children) !== text(children)) element.replaceChildren(...children);
}

function drawTotals() {
  const all = [...entries.values()];
  const total = (name) => all.reduce((n, e) => n + (e.rates?.[name] ?? 0), 0);
  const known = all.length === 0 || all.some((e) => e.rates);
  write(by("count"), String(all.length));
  write(by("receive"), known ? bits(total("receive")) : "–");
  write(by("send"), known ? bits(total("send")) : "–");
  write(by("dropped"), known ? packets(total("drops")) : "–");
  by("dropped").parentElement.classList.toggle("dropping", total("drops") > 0);
}

function drawDrops(items) {
  by("last").hidden = false;
  by("no-drops").hidden = items.length > 0;
  by("drops").hidden = items.length === 0;
  replace(by("drops"), items.toReversed().map(dropRow));
}

function dropRow(d) {
  const row = by("drop").content.firstElementChild.cloneNode(true);
  const part = (name) => row.querySelector(`[data-is="${name}"]`);
  const time = row.querySelector("time");
  time.dateTime = d.time;
  time.textContent = new Date(d.time).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
  part("reason").textContent = d.rule ? `${d.reason} ${d.rule}` : d.reason;
  part("direction").textContent = d.direction;
  part("whose").textContent = `${podOf(d)} ${d.interface}`;
  part("packet").textContent = `${d.description}, ${counted(d.length, "byte")}`;
  return row;
}

// Asking

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`the agent answers ${answer.status}`);
  return { at: performance.now(), body: await answer.json() };
}

async function read() {
  const { at, body } = await ask("v1/attachments");
  take(body.items, at);
  draw();
  drawDrops((await ask("v1/drops")).body.items);
}

async function readOn() {
  if (asking) return;
  asking = true;
  try {
    await read();
    awaySince = undefined;
    say("Live");
  } catch (error) {
    awaySince ??= new Date();
    say(`The agent does not answer since ${timeOf(awaySince)}. Guards and counters go on without it. (${error.message})`);
  }
  asking = false;
  if (!document.hidden) timer = setTimeout(readOn, PERIOD);
}

const timeOf = (date) => date.toLocaleTimeString([], { hour12: false });

function say(text) {
  const away = awaySince !== undefined;
  by("state").classList.toggle("away", away);
  document.body.classList.toggle("away-too", away);
  write(by("state"), text);
}

by("tools").addEventListener("submit", (event) => event.preventDefault());
by("filter").addEventListener("input", arrange);
by("sort").addEventListener("change", arrange);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : readOn()));

ask("v1/version").then(({ body }) => write(by("version"), body.version), () => {});
readOn();
