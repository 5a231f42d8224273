// The live page. It keeps the last snapshot of the store, follows the event stream, and asks again
// for the agents that an event touches: what is shown is what the store says, never worked out here.
// Everything that comes from outside is put in as text, never as HTML.

const ROWS = 200; // shown at most
const EVENTS = 50;
const GATHER = 200; // ms in which touched agents are gathered for one request
const PER_REQUEST = 100; // agents asked for by number
const ALL_OVER = 500; // touched agents from which everything is asked for
const BACK_OFF = [500, 1000, 2000, 3500, 5000]; // ms
const LONG_AWAY = 30_000; // ms without a connection after which everything is asked for again
const SILENCE = 45_000; // ms without a byte after which the connection counts as lost
const REFRESH = 60_000; // ms: what changes without an event (a name, a plan) is seen after this, …
const RARELY = 500; // … or after so many times the time that reading everything takes
const ANNOUNCE = 1000; // ms in which changes are gathered for screen readers
const TOKEN = "fastagi-token";

const LINKS = 3000; // ms: no event tells that an Asterisk is away, so it is asked for so often

const STATUS = {
  available: "Available",
  paused: "Paused",
  unknown: "Unknown",
  logged_off: "Logged off",
};
const MEANING = {
  available: "Logged in and not paused. Whether the agent is in a call is not shown.",
  unknown: "The agent's Asterisk or the database is away: this is what was known last.",
};
const ORDER = { paused: 0, available: 1, unknown: 2, logged_off: 3 };
const PLANNED = { "log off": "logs off after the call", pause: "pauses after the call" };
const REASONS = { "device-lost": "phone away" };
const COLUMNS = {
  number: { label: "number", key: (a) => a.number },
  name: { label: "name", key: (a) => a.name },
  status: { label: "state", key: (a) => ORDER[statusOf(a)] },
  reason: { label: "pause reason", key: (a) => reasonOf(a) },
  paused: { label: "paused for", key: (a) => -a.pausedAt, empty: (a) => !a.pausedAt || !a.known },
  extension: { label: "extension", key: (a) => a.extension },
  queues: { label: "queues", key: (a) => a.joined.join(", ") },
  since: { label: "logged in", key: (a) => a.since || "" },
  source: { label: "how they got there", key: (a) => by(a.source, a.by) },
};
const TOLD = {
  LOGOFF_AFTER_CALL: "Will be logged off when the call ends.",
  PAUSE_AFTER_CALL: "Will be paused when the call ends.",
  ALREADY_PAUSED: "Was paused for this already.",
  NOT_PAUSED: "Was not paused.",
};
const REFUSALS = {
  NO_INPUT: "nothing was entered",
  NO_SUCH_AGENT: "no such agent",
  WRONG_PIN: "wrong PIN",
  AGENT_LOCKED: "too many wrong PINs for this agent",
  EXTENSION_LOCKED: "too many wrong PINs at this extension",
  NO_SUCH_EXTENSION: "no such extension",
  EXTENSION_IN_USE: "another agent is logged in there",
  LOGGED_IN_ELSEWHERE: "is logged in elsewhere",
  QUEUE_REFUSED: "Asterisk refused it",
  UNAVAILABLE: "the service could not do it then",
};

const byId = (id) => document.getElementById(id);
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const agents = new Map(); // by number
let events = []; // the newest first
let reasons = [];
let client = { name: "", rights: [] };
let seq = 0;
let offset = 0; // ms that the server's clock is ahead of this one
let snapshotTag = "";
let frozenAt = 0; // server's time at which the connection was lost; 0: it is there
const view = { status: "in", queue: "", text: "", sort: "number", down: false };

// -- small things -------------------------------------------------------------------------------

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const number = (n) => n.toLocaleString("en");
const serverNow = () => frozenAt || Date.now() + offset;
const reasonOf = (agent) => REASONS[agent.pause_reason] || agent.pause_reason;
const may = (right) => client.rights.includes(right);
const statusOf = (agent) => (agent.known ? agent.status : "unknown");

function running(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(seconds / 3600);
  const m = Math.floor((seconds % 3600) / 60);
  return h ? `${h}:${two(m)}:${two(seconds % 60)}` : `${m}:${two(seconds % 60)}`;
}

function at(iso) {
  const when = new Date(iso);
  const today = new Date(serverNow()).toDateString() === when.toDateString();
  return today ? clock.format(when) : `${day.format(when)}, ${clock.format(when)}`;
}

// -- talking to the server ----------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, words, wait) {
    super(words);
    this.status = status;
    this.wait = wait; // seconds, where the server says so
  }
}

// Until the tab is closed, unless whoever enters it wants it kept: a computer may be many people's.
const token = {
  get: () => sessionStorage.getItem(TOKEN) || localStorage.getItem(TOKEN) || "",
  set: (value, keep) => {
    token.forget();
    (keep ? localStorage : sessionStorage).setItem(TOKEN, value);
  },
  forget: () => [sessionStorage, localStorage].forEach((storage) => storage.removeItem(TOKEN)),
};

// The header tells the second alone, and is set once a second: each answer narrows down where the
// server's clock can be, until it contradicts (somebody has set a clock).
let [earliest, latest] = [-Infinity, Infinity];

function heard(date, asked, answered) {
  const [low, high] = [date - answered, date + 1100 - asked];
  earliest = Math.max(earliest, low);
  latest = Math.min(latest, high);
  if (earliest > latest) [earliest, latest] = [low, high];
  offset = (earliest + latest) / 2;
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token.get()) headers.set("Authorization", `Bearer ${token.get()}`);
  const asked = Date.now();
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const date = Date.parse(response.headers.get("Date") || "");
  if (date) heard(date, asked, Date.now());
  if (!response.ok && response.status !== 304) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let words = "";
  try {
    const body = await response.json();
    const said = body.error ?? body.detail ?? body.message;
    if (typeof said === "string") words = said;
  } catch {
    // not JSON: a proxy's page, perhaps
  }
  const wait = Number(response.headers.get("Retry-After")) || 0;
  return new Refusal(response.status, words || `The server answered ${response.status}.`, wait);
}

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    wake = () => (clearTimeout(timer), resolve());
  });
let wake = () => {};

// Programs have names; of the others the source says enough.
function by(source, name) {
  return source === "api" && name ? `api (${name})` : source || "";
}

// -- the snapshot ---------------------------------------------------------------------------------

function take(agent) {
  agent.pausedAt = agent.paused_since ? Date.parse(agent.paused_since) : 0;
  agent.haystack = [agent.number, agent.name, agent.extension, reasonOf(agent), agent.source, agent.by]
    .join(" ")
    .toLowerCase();
  const known = agents.get(agent.number);
  if (known) announceChange(known, agent);
  agents.set(agent.number, agent);
}

// What all that is shown rests on: the store, and a link to each Asterisk.
let links = { store: true, asterisks: {}, plans: 0 };
let linksLoaded = ""; // those of the agents that are shown

function takeLinks(said) {
  links = said;
  if (streaming && !behind) connection("live");
}

function whatIsAway() {
  if (!links.store) return { short: "Database away", long: "The database cannot be used" };
  const away = Object.entries(links.asterisks).filter(([, there]) => !there);
  if (!away.length) return null;
  const names = away.map(([name]) => name).filter(Boolean).join(", ");
  const short = names ? `Asterisk ${names} away` : "Asterisk away";
  return { short, long: names ? `Not connected to Asterisk ${names}` : "Not connected to Asterisk" };
}

async function lookAtLinks(signal) {
  const said = await (await ask("/live/links", { signal })).json();
  takeLinks(said);
  if (JSON.stringify(said) !== linksLoaded) await loadAll(signal);
}

let refreshAt = 0;

async function loadAll(signal) {
  const began = Date.now();
  const headers = snapshotTag ? { "If-None-Match": snapshotTag } : {};
  const response = await ask("/live/agents", { signal, headers });
  refreshAt = Date.now() + Math.max(REFRESH, RARELY * (Date.now() - began));
  if (response.status === 304) return;
  const body = await response.json();
  snapshotTag = response.headers.get("ETag") || "";
  if (!streaming) seq = Math.max(seq, body.seq); // else the stream says how far it is
  client = body.client;
  reasons = body.reasons;
  const there = new Set(body.agents.map((agent) => agent.number));
  for (const known of agents.keys()) if (!there.has(known)) agents.delete(known);
  for (const agent of body.agents) take(agent);
  behind = false;
  linksLoaded = JSON.stringify(body.links);
  takeLinks(body.links);
  fillQueues();
  showClient();
  render();
}

async function loadEvents(signal) {
  const body = await (await ask("/live/events", { signal })).json();
  events = [];
  for (const event of body.events) remember(event);
  renderEvents();
}

function remember(event) {
  if (events.some((known) => known.id === event.id)) return;
  events.unshift(event);
  events.sort((a, b) => b.seq - a.seq);
  events.length = Math.min(events.length, EVENTS);
}

// -- what an event touches --------------------------------------------------------------------------

const touched = new Set();
let gathering = 0;
let lastTook = 0; // ms: a server that takes longer is asked less often
let streaming = false;
let behind = false; // events are told of, but the agents themselves could not be asked for

function touch(agent, signal) {
  if (agent) touched.add(agent);
  if (!gathering && touched.size) {
    const wait = behind ? BACK_OFF[1] : GATHER + Math.min(600, 3 * lastTook);
    gathering = setTimeout(() => refresh(signal), wait);
  }
}

async function refresh(signal) {
  const wanted = [...touched];
  touched.clear();
  const began = Date.now();
  try {
    if (wanted.length > ALL_OVER) {
      await loadAll(signal);
    } else {
      for (let i = 0; i < wanted.length; i += PER_REQUEST) {
        await loadSome(wanted.slice(i, i + PER_REQUEST), signal);
      }
      render();
    }
    behind = false;
    if (streaming) connection("live");
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Refusal && error.status === 401) return restart();
    for (const agent of wanted) touched.add(agent);
    behind = true;
    if (streaming) connection("lost", error instanceof Refusal ? error.message : "");
  }
  lastTook = Date.now() - began;
  if (signal.aborted) return;
  gathering = 0;
  touch("", signal);
}

async function loadSome(wanted, signal) {
  const query = new URLSearchParams(wanted.map((one) => ["number", one]));
  const body = await (await ask(`/live/agents?${query}`, { signal })).json();
  const found = new Set(body.agents.map((agent) => agent.number));
  for (const one of wanted) if (!found.has(one)) agents.delete(one);
  const queues = queueCount();
  for (const agent of body.agents) take(agent);
  if (queueCount() !== queues) fillQueues();
}

// -- the stream -------------------------------------------------------------------------------------

async function* messages(response, signal, abort) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let message = { event: "message", data: [], id: "" };
  let silence = 0;
  try {
    for (;;) {
      silence = setTimeout(abort, SILENCE);
      const { value, done } = await reader.read();
      clearTimeout(silence);
      if (done) return;
      rest += value;
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (message.data.length || message.event !== "message") {
            yield { ...message, data: message.data.join("\n") };
          }
          message = { event: "message", data: [], id: "" };
          continue;
        }
        const colon = line.indexOf(":");
        if (colon === 0) continue; // a comment: the server is there
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "data") message.data.push(value);
        else if (field === "event") message.event = value;
        else if (field === "id") message.id = value;
      }
    }
  } finally {
    clearTimeout(silence);
    if (signal.aborted) reader.cancel().catch(() => {});
  }
}

// Returns when the stream ends; "reset": what came in between is not there any more.
async function follow(signal, live) {
  const one = new AbortController();
  const stop = () => one.abort();
  signal.addEventListener("abort", stop, { once: true });
  window.addEventListener("offline", stop, { once: true });
  try {
    const response = await ask(`/events?after=${seq}`, {
      signal: one.signal,
      headers: { Accept: "text/event-stream" },
    });
    live();
    for await (const message of messages(response, one.signal, stop)) {
      if (message.event === "reset") return "reset";
      if (message.id) seq = Math.max(seq, Number(message.id) || 0);
      if (!message.data) continue;
      const event = JSON.parse(message.data);
      if (!event.type || !event.agent) continue;
      remember({ ...event, seq: event.seq ?? Number(message.id) });
      laterEvents();
      touch(event.agent, signal);
    }
  } finally {
    signal.removeEventListener("abort", stop);
    window.removeEventListener("offline", stop);
    one.abort();
  }
  return "ended";
}

let session = new AbortController();

function restart() {
  session.abort();
  session = new AbortController();
  clearTimeout(gathering);
  gathering = 0;
  run(session.signal);
}

async function run(signal) {
  let tries = 0;
  let lostAt = 0;
  let whole = true; // everything has to be asked for
  touched.clear();
  streaming = behind = false;
  connection("connecting");
  while (!signal.aborted) {
    let words = "";
    let wait = 0;
    try {
      if (whole || (lostAt && Date.now() - lostAt > LONG_AWAY)) {
        if (whole) seq = 0;
        snapshotTag = "";
        await loadAll(signal);
        await loadEvents(signal);
        whole = false;
        enter();
      }
      const how = await follow(signal, () => {
        tries = 0;
        lostAt = 0;
        streaming = true;
        if (!behind) connection("live");
        touch("", signal); // what could not be asked for while the server was away
      });
      whole = how === "reset";
      if (whole) continue;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal) {
        if (error.status === 401 || (error.status === 429 && !agents.size)) return askForToken(error);
        words = error.message;
        wait = error.wait * 1000;
      }
    }
    streaming = false;
    if (signal.aborted) return;
    if (!lostAt) lostAt = Date.now();
    wait = Math.max(wait, BACK_OFF[Math.min(tries, BACK_OFF.length - 1)]);
    tries += 1;
    connection("lost", words);
    await pause(wait * (0.8 + 0.2 * Math.random()), signal); // not all pages at the same instant
  }
}

// -- the state of the connection -----------------------------------------------------------------------

function connection(state, words = "") {
  const shown = { connecting: "Connecting …", live: "Live", lost: "Not connected", token: "Token needed" };
  const away = state === "live" ? whatIsAway() : null;
  byId("connection").dataset.state = away ? "away" : state;
  setText(byId("connection-words"), away ? away.short : shown[state]);
  const lost = state === "lost";
  if (lost && !frozenAt) frozenAt = serverNow();
  if (!lost) frozenAt = 0;
  const since = clockSeconds.format(new Date(serverNow()));
  const what = agents.size
    ? `Connection lost. What you see is of ${since} and may not be true any more. Trying again …`
    : "The server cannot be reached. Trying again …";
  const banner = byId("banner");
  let text = lost ? (words ? `${what} (${words})` : what) : "";
  if (away) text = `${away.long}: how agents are there now is not known. You see what was known last.`;
  if (banner.dataset.text !== text) {
    banner.dataset.text = text;
    banner.replaceChildren(...(text ? [icon("warning"), make("span", "", text)] : []));
  }
  document.body.classList.toggle("lost", lost);
  const trouble = lost ? shown.lost : away?.short;
  document.title = trouble ? `⚠ ${trouble} · Agents` : "Agents";
  tick();
}

function askForToken(error) {
  agents.clear();
  events = [];
  byId("live").hidden = true;
  byId("entry").hidden = false;
  byId("forget").hidden = !token.get();
  byId("client").hidden = true;
  connection("token");
  let words = "";
  if (error.status === 429) words = error.message;
  else if (token.get()) words = "The server does not know this token.";
  byId("entry-problem").textContent = words;
  byId("token").setAttribute("aria-invalid", String(Boolean(words)));
  byId("token").focus();
}

function enter() {
  byId("entry").hidden = true;
  byId("token").value = "";
  byId("live").hidden = false;
}

function showClient() {
  const rights = may("control") ? "may pause and log off" : "may look on";
  byId("client").hidden = !client.name;
  setText(byId("client"), client.name ? `${client.name} · ${rights}` : "");
  byId("forget").hidden = !token.get();
}

// -- which agents, in which order ---------------------------------------------------------------------

const inView = (agent, status) =>
  status === "all" ||
  (status === "in" ? agent.status !== "logged_off" : statusOf(agent) === status);

function queuesOf(agent) {
  return agent.status === "logged_off" ? agent.queues : agent.joined;
}

function found() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  return [...agents.values()].filter(
    (agent) =>
      (!view.queue || queuesOf(agent).includes(view.queue)) &&
      words.every((word) => agent.haystack.includes(word)),
  );
}

function sorted(list) {
  const { key, empty = (agent) => key(agent) === "" } = COLUMNS[view.sort];
  const sign = view.down ? -1 : 1;
  return list
    .map((agent) => ({ agent, key: key(agent), empty: empty(agent) }))
    .sort((a, b) => {
      if (a.empty !== b.empty) return a.empty ? 1 : -1; // those without come last, either way
      const order = typeof a.key === "number" ? a.key - b.key : collator.compare(a.key, b.key);
      return sign * order || collator.compare(a.agent.number, b.agent.number);
    })
    .map((item) => item.agent);
}

const allQueues = () => new Set([...agents.values()].flatMap((a) => [...a.queues, ...a.joined]));
const queueCount = () => allQueues().size;

function fillQueues() {
  const select = byId("queue");
  const names = [...allQueues()].sort(collator.compare);
  const there = [...select.options].slice(1).map((option) => option.value);
  if (names.join("\n") === there.join("\n")) return;
  const options = names.map((name) => {
    const option = make("option", "", name);
    option.value = name;
    return option;
  });
  select.replaceChildren(select.options[0], ...options);
  if (!names.includes(view.queue)) view.queue = "";
  select.value = view.queue;
}

// -- drawing -----------------------------------------------------------------------------------------

const rows = new Map(); // number -> row
let drawing = 0;

function render() {
  if (!drawing) drawing = setTimeout(draw); // not a frame: a page in the background is true, too
}

function draw() {
  drawing = 0;
  const matching = found();
  for (const count of document.querySelectorAll("[data-count]")) {
    setText(count, number(matching.filter((a) => inView(a, count.dataset.count)).length));
  }
  const unknown = document.querySelector('#states [data-status="unknown"]');
  unknown.hidden = view.status !== "unknown" && ![...agents.values()].some((a) => !a.known);
  const list = sorted(matching.filter((agent) => inView(agent, view.status)));
  const shown = list.slice(0, ROWS);
  drawRows(shown);
  const hidden = list.length - shown.length;
  setText(
    byId("more"),
    hidden > 0
      ? `The first ${number(shown.length)} of ${number(list.length)}: ${number(hidden)} more match. Search or choose a queue to see them.`
      : "",
  );
  byId("table").hidden = !list.length;
  byId("nobody").hidden = Boolean(list.length);
  const narrowed = view.text || view.queue || view.status !== "in";
  setText(
    byId("nobody-words"),
    !agents.size ? "There are no agents yet." : narrowed ? "Nobody matches." : "Nobody is logged in.",
  );
  byId("clear").hidden = !agents.size;
  for (const button of byId("states").children) {
    button.setAttribute("aria-pressed", String(button.dataset.status === view.status));
  }
  for (const head of document.querySelectorAll("[data-sort]")) {
    const here = head.dataset.sort === view.sort;
    head.setAttribute("aria-sort", here ? (view.down ? "descending" : "ascending") : "none");
  }
  byId("sort").value = `${view.sort}${view.down ? " down" : ""}`;
  tick();
}

function drawRows(shown) {
  const body = byId("rows");
  const focused = document.activeElement;
  const focusedRow = body.contains(focused) ? focused.closest("tr") : null;
  const place = focusedRow ? [...body.children].indexOf(focusedRow) : 0;
  const keep = new Set(shown.map((agent) => agent.number));
  for (const [number, row] of rows) {
    if (!keep.has(number)) {
      row.remove();
      rows.delete(number);
    }
  }
  shown.forEach((agent, index) => {
    let row = rows.get(agent.number);
    if (!row) {
      row = newRow(agent.number);
      rows.set(agent.number, row);
    }
    fillRow(row, agent);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] || null);
  });
  if (!focusedRow || document.activeElement === focused) return;
  if (focused.isConnected && !focused.hidden) {
    focused.focus({ preventScroll: true }); // its row has moved
  } else if (document.activeElement === document.body) {
    const next = body.children[Math.min(place, body.children.length - 1)];
    (next?.querySelector("button:not([hidden])") || byId("results")).focus({ preventScroll: true });
  }
}

const CELLS = [
  ["number", "Number"],
  ["name", "Name"],
  ["state", "State"],
  ["reason", "Reason"],
  ["age", "Paused for"],
  ["extension", "Extension"],
  ["queues", "Queues"],
  ["since", "Logged in"],
  ["source", "By"],
  ["actions", ""],
];

function newRow(agent) {
  const row = make("tr");
  row.setAttribute("role", "row");
  row.dataset.number = agent;
  row.cells_ = {};
  for (const [name, label] of CELLS) {
    const head = name === "number";
    const cell = make(head ? "th" : "td", `c-${name}`);
    cell.setAttribute("role", head ? "rowheader" : "cell");
    if (head) cell.scope = "row";
    if (label) cell.dataset.label = label;
    row.cells_[name] = cell;
    row.append(cell);
  }
  row.drawn = "";
  return row;
}

function fillRow(row, agent) {
  const drawn = JSON.stringify([agent, may("control")]);
  if (row.drawn === drawn) return;
  if (row.drawn && row.dataset.status !== agent.status) say(row, "");
  row.drawn = drawn;
  row.dataset.status = agent.status;
  row.classList.toggle("unknown", !agent.known);
  const cells = row.cells_;
  setText(cells.number, agent.number);
  setText(cells.name, agent.name);
  const now = statusOf(agent);
  const state = make("span", `state ${now}`);
  state.append(icon(now), STATUS[now]);
  if (MEANING[now]) state.title = MEANING[now];
  cells.state.replaceChildren(state);
  if (!agent.known) cells.state.append(make("span", "note", `was ${STATUS[agent.status].toLowerCase()}`));
  if (PLANNED[agent.planned]) cells.state.append(make("span", "note", PLANNED[agent.planned]));
  const paused = agent.status === "paused";
  const runs = paused && agent.known; // whether the pause goes on is not known else
  cells.reason.replaceChildren();
  if (paused) {
    cells.reason.append(make("span", "", reasonOf(agent) || "no reason"));
    if (agent.pause_source) cells.reason.append(" ", make("span", "dim", `by ${by(agent.pause_source, agent.pause_by)}`));
  }
  if (!runs) cells.age.replaceChildren();
  else if (!cells.age.firstChild) cells.age.append(make("time"));
  if (runs) cells.age.firstChild.dateTime = agent.paused_since || "";
  row.pausedAt = runs ? agent.pausedAt : 0;
  cells.extension.replaceChildren(agent.extension);
  if (agent.asterisk) cells.extension.append(" ", make("span", "dim", agent.asterisk));
  if (agent.extension && agent.device_type === "remote") {
    cells.extension.append(" ", make("span", "dim", "outside"));
  }
  cells.queues.replaceChildren(...queueMarks(agent));
  cells.since.replaceChildren();
  if (agent.since) {
    const time = make("time", "", at(agent.since));
    time.dateTime = agent.since;
    cells.since.append(time);
  }
  setText(cells.source, by(agent.source, agent.by));
  fillActions(cells.actions, agent);
  tickRow(row);
}

function queueMarks(agent) {
  if (agent.status === "logged_off") return [make("span", "dim", agent.queues.join(", "))];
  const marks = [];
  const all = [...agent.joined, ...agent.queues.filter((queue) => !agent.joined.includes(queue))];
  for (const queue of all.slice(0, 8)) {
    const joined = agent.joined.includes(queue);
    const mark = make("span", joined ? "queue" : "queue out", queue);
    const word = !joined ? "not in it" : agent.paused_in.includes(queue) ? "paused" : "";
    if (word) {
      mark.append(make("span", joined ? "" : "said", ` ${word}`));
      mark.title = joined ? "Paused in this queue alone" : "One of the agent's queues, but not in it now";
    }
    marks.push(mark, " ");
  }
  if (all.length > 8) {
    const more = make("span", "dim", `and ${all.length - 8} more`);
    more.title = all.slice(8).join(", ");
    marks.push(more);
  }
  return marks;
}

function fillActions(cell, agent) {
  if (!cell.firstChild) {
    const one = make("button", "act");
    const off = make("button", "act");
    const told = make("p", "problem");
    one.type = off.type = "button";
    off.dataset.act = "logoff";
    off.textContent = "Log off";
    told.setAttribute("role", "alert");
    cell.append(one, " ", off, told);
  }
  const [one, off] = cell.querySelectorAll("button");
  const who = agent.name ? `${agent.name} (${agent.number})` : agent.number;
  const paused = agent.status === "paused";
  one.dataset.act = paused ? "unpause" : "pause";
  setText(one, paused ? "Back" : "Pause");
  one.setAttribute("aria-label", paused ? `Back: end the pause of ${who}` : `Pause ${who}`);
  off.setAttribute("aria-label", `Log off ${who}`);
  const none = agent.status === "logged_off" || !may("control");
  for (const button of [one, off]) {
    // A button that goes away under the fingers hands the focus on.
    if (none && !button.hidden && document.activeElement === button) byId("results").focus();
    button.hidden = none;
  }
}

function say(row, words, kind = "problem") {
  const told = row.querySelector(".c-actions p");
  if (!told) return;
  told.className = kind;
  setText(told, words);
  clearTimeout(row.forget);
  if (words) row.forget = setTimeout(() => setText(told, ""), 20_000);
}

// -- what runs ----------------------------------------------------------------------------------------

function tickRow(row) {
  const now = serverNow();
  if (row.pausedAt) setText(row.cells_.age.firstChild, running(now - row.pausedAt));
}

function tick() {
  for (const row of rows.values()) tickRow(row);
}

// -- events --------------------------------------------------------------------------------------------

function happened(event) {
  const where = event.extension ? ` at ${event.extension}` : "";
  const why = REASONS[event.reason] || event.reason;
  const queues = event.queues.join(", ");
  switch (event.type) {
    case "agent-login":
      return `logged in${where}`;
    case "agent-logout":
      return why ? `logged off (${why})` : "logged off";
    case "agent-pause":
      return why ? `paused: ${why}` : "paused";
    case "agent-unpause":
      return why ? `back from ${why}` : "back";
    case "queue-join":
      return `joined ${queues}`;
    case "queue-leave":
      return `left ${queues}`;
    case "queue-penalty":
      return `penalty in ${queues}: ${why}`;
    case "queue-missing":
      return `not in ${queues}: Asterisk has no such queue`;
    case "queue-static":
      return `${queues}: ${why}`;
    case "pause-exceeded":
      return why ? `pause lasts too long: ${why}` : "pause lasts too long";
    case "login-refused":
      return `login refused${where}: ${REFUSALS[event.reason] || event.reason.toLowerCase().replaceAll("_", " ")}`;
    case "repair":
      return why ? `put right: ${why}` : "put right";
    default:
      return why ? `${event.type}: ${why}` : event.type;
  }
}

let eventsLater = 0;

function laterEvents() {
  if (!eventsLater) eventsLater = setTimeout(renderEvents, 100);
}

function renderEvents() {
  eventsLater = 0;
  byId("no-events").hidden = events.length > 0;
  const list = byId("events");
  const there = new Map([...list.children].map((item) => [item.dataset.id, item]));
  const items = events.map((event) => there.get(event.id) || eventItem(event));
  const wanted = new Set(items);
  for (const item of [...list.children]) if (!wanted.has(item)) item.remove();
  items.forEach((item, index) => {
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] || null);
  });
}

function eventItem(event) {
  const item = make("li");
  item.dataset.id = event.id;
  item.dataset.type = event.type;
  const when = new Date(event.occurred_at);
  const today = new Date(serverNow()).toDateString() === when.toDateString();
  const time = make("time", "", today ? clockSeconds.format(when) : at(event.occurred_at));
  time.dateTime = event.occurred_at;
  const name = agents.get(event.agent)?.name;
  const who = make("span", "who", name ? `${event.agent} ${name}` : event.agent);
  const what = make("span", "what", happened(event));
  item.append(time, " ", who, " ", what, " ");
  item.append(make("span", "dim by", `by ${by(event.source, event.actor?.name)}`));
  return item;
}

// -- for screen readers: what changed, politely and not as a flood ---------------------------------------

const changes = new Map(); // number -> words
let announcing = 0;

function announceChange(before, after) {
  const same = statusOf(before) === statusOf(after) && before.pause_reason === after.pause_reason;
  if (same || !(inView(before, view.status) || inView(after, view.status))) return;
  if (view.queue && ![...queuesOf(before), ...queuesOf(after)].includes(view.queue)) return;
  const now = statusOf(after);
  const reason = now === "paused" && reasonOf(after) ? `: ${reasonOf(after)}` : "";
  changes.set(after.number, `${after.name || after.number} ${STATUS[now].toLowerCase()}${reason}.`);
  if (!announcing) announcing = setTimeout(announce, ANNOUNCE);
}

function announce() {
  announcing = 0;
  const words = [...changes.values()];
  changes.clear();
  byId("announce").textContent =
    words.length > 3 ? `${words.length} agents have changed.` : words.join(" ");
}

// -- pause, back, log off ---------------------------------------------------------------------------------

let chosen = ""; // the agent a dialog is about
let cameFrom = null;

function open(dialog, agent, button) {
  chosen = agent.number;
  cameFrom = button;
  dialog.showModal();
}

function nameOf(agent) {
  return agent.name ? `${agent.name} (${agent.number})` : agent.number;
}

function askReason(agent, button) {
  setText(byId("pause-title"), `Pause ${nameOf(agent)}`);
  const choices = reasons.length ? reasons : [{ code: "", name: "no reason" }];
  const labels = choices.map((reason, index) => {
    const label = make("label");
    const input = make("input");
    input.type = "radio";
    input.name = "reason";
    input.value = reason.code;
    input.checked = index === 0;
    label.append(input, make("span", "", reason.name));
    return label;
  });
  byId("reasons").replaceChildren(byId("reasons").firstElementChild, ...labels);
  open(byId("pause"), agent, button);
  labels[0].firstChild.focus();
}

function askLogOff(agent, button) {
  setText(byId("logoff-title"), `Log off ${nameOf(agent)}?`);
  open(byId("logoff"), agent, button);
  byId("logoff").querySelector(".cancel").focus();
}

async function act(agent, what, body = {}) {
  const row = rows.get(agent);
  row?.setAttribute("aria-busy", "true");
  if (row) say(row, "");
  let words = "";
  let kind = "problem";
  try {
    const response = await ask(`/live/agents/${encodeURIComponent(agent)}/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    words = TOLD[(await response.json()).outcome] || "";
    kind = "note";
  } catch (error) {
    words =
      error instanceof Refusal ? error.message : "The server cannot be reached: nothing was done.";
    if (error instanceof Refusal && error.status === 401) restart();
  }
  row?.removeAttribute("aria-busy");
  touch(agent, session.signal);
  const now = rows.get(agent);
  if (words && now) say(now, words, kind);
}

// -- hands ---------------------------------------------------------------------------------------------------

function show(changed) {
  Object.assign(view, changed);
  render();
}

function prepare() {
  for (const head of document.querySelectorAll("[data-sort]")) {
    const button = make("button", "sort", head.textContent);
    button.type = "button";
    button.addEventListener("click", () => {
      const sort = head.dataset.sort;
      show({ sort, down: view.sort === sort && !view.down });
    });
    head.replaceChildren(button);
  }
  for (const [name, { label }] of Object.entries(COLUMNS)) {
    for (const down of [false, true]) {
      const option = make("option", "", `Sort: ${label}${down ? ", downwards" : ""}`);
      option.value = `${name}${down ? " down" : ""}`;
      byId("sort").append(option);
    }
  }
  byId("sort").addEventListener("change", (event) => {
    const [sort, down] = event.target.value.split(" ");
    show({ sort, down: Boolean(down) });
  });
  byId("states").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show({ status: button.dataset.status });
  });
  byId("queue").addEventListener("change", (event) => show({ queue: event.target.value }));
  byId("search").addEventListener("input", (event) => show({ text: event.target.value }));
  byId("clear").addEventListener("click", () => {
    byId("search").value = byId("queue").value = "";
    show({ status: "all", text: "", queue: "" });
    byId("results").focus();
  });

  byId("rows").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    const agent = button && agents.get(button.closest("tr").dataset.number);
    if (!agent || button.closest("tr").hasAttribute("aria-busy")) return;
    if (button.dataset.act === "pause") askReason(agent, button);
    else if (button.dataset.act === "logoff") askLogOff(agent, button);
    else act(agent.number, "unpause");
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => cameFrom?.isConnected && cameFrom.focus());
  }
  byId("pause-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const reason = new FormData(event.target).get("reason");
    byId("pause").close();
    act(chosen, "pause", { reason });
  });
  byId("logoff-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("logoff").close();
    act(chosen, "logoff");
  });

  byId("entry-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("token").value.trim();
    if (!given) return;
    if (/[^\x21-\x7e]/.test(given)) {
      byId("entry-problem").textContent = "A token has no blanks and no letters like é or ß.";
      return;
    }
    token.set(given, byId("keep").checked);
    restart();
  });
  byId("forget").addEventListener("click", () => {
    token.forget();
    agents.clear();
    events = [];
    byId("live").hidden = true;
    restart();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      if (byId("live").hidden) return;
      event.preventDefault();
      byId("search").focus();
      byId("search").select();
    } else if (event.key === "Escape" && event.target === byId("search") && view.text) {
      event.preventDefault();
      byId("search").value = "";
      show({ text: "" });
    }
  });
  window.addEventListener("online", () => wake());
  document.addEventListener("visibilitychange", () => document.hidden || (tick(), wake()));
  setInterval(tick, 1000);
  setInterval(() => {
    const live = byId("connection").dataset.state === "live";
    if (live && !document.hidden && Date.now() >= refreshAt) {
      loadAll(session.signal).catch(() => {}); // the stream says it when the server is away
    }
  }, REFRESH / 4);
  let looking = false;
  setInterval(async () => {
    if (!streaming || looking || document.hidden) return;
    looking = true;
    await lookAtLinks(session.signal).catch(() => {}); // likewise
    looking = false;
  }, LINKS);
}

prepare();
run(session.signal);
