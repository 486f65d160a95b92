// The page: everything put together, and the keyboard.

const charts = makeCharts(() => show({ again: true }));
let waiting = 0; // for the next letter of a search
let drawn = ""; // the cards that are there

/** Show the view: `again` where search or filters have changed, which begins at the first page. */
function show({ again = false, keep = false } = {}) {
  if (again && !keep) view.page = 0;
  if (again) {
    find(charts);
    for (const chart of charts) chart.draw();
    drawChips();
  }
  drawCards();
  drawFound();
  drawPages();
  const place = address();
  history.replaceState(null, "", place ? `#${place}` : location.pathname + location.search);
}

/** Cards that are there already stay as they are. */
function drawCards() {
  const shown = pageRows();
  const now = `${view.search} ${shown}`;
  if (now !== drawn) byId("cards").replaceChildren(...shown.map(card));
  drawn = now;
}

function drawFound() {
  const [found, first] = [view.found.length, view.page * PAGE];
  const loading =
    rows.count < about.rows ? ` · ${figure(rows.count)} of ${figure(about.rows)} loaded` : "";
  const range =
    found > PAGE ? `${figure(first + 1)}–${figure(Math.min(first + PAGE, found))} of ` : "";
  byId("found").textContent = `${range}${counted(found, "row")}${loading}`;
  byId("cards").classList.toggle("empty", !found);
}

/** What is filtered by, each to be taken back. */
function drawChips() {
  const chips = [];
  const chip = (label, undo) => {
    const take = () => (undo(), syncControls(), show({ again: true }));
    chips.push(
      element(
        "button",
        { class: "chip", type: "button", title: "Take back", onclick: take },
        `${label} ×`,
      ),
    );
  };
  for (const name of ["status", "flags"]) {
    for (const number of view[name]) {
      chip(labelOf(name, number), () => view[name].delete(number));
    }
  }
  for (const [name, [from, below]] of Object.entries(view.ranges)) {
    const label =
      below === Infinity ? `${figure(from)} or more` : `${figure(from)} to ${figure(below)}`;
    chip(`${label} ${about.numbers[name][1]}`, () => delete view.ranges[name]);
  }
  byId("chips").replaceChildren(...chips);
}

function drawPages() {
  const last = Math.max(0, pageCount() - 1);
  const step = (label, mark, page, off) =>
    element(
      "button",
      {
        type: "button",
        "aria-label": label,
        title: label,
        disabled: off,
        onclick: () => turn(page),
      },
      mark,
    );
  const field = element("input", {
    type: "number",
    min: 1,
    max: last + 1,
    value: view.page + 1,
    "aria-label": "Page",
    onchange: (event) => turn((parseInt(event.target.value, 10) || 1) - 1),
  });
  byId("pages").replaceChildren(
    step("First page", "«", 0, view.page === 0),
    step("Page before", "‹", view.page - 1, view.page === 0),
    element("span", {}, field, ` of ${figure(last + 1)}`),
    step("Next page", "›", view.page + 1, view.page === last),
    step("Last page", "»", last, view.page === last),
  );
  byId("pages").hidden = !last;
}

/** Go to a page, and to its top. */
function turn(page) {
  const to = Math.min(Math.max(0, page), Math.max(0, pageCount() - 1));
  if (to === view.page) return drawPages();
  view.page = to;
  show();
  scrollTo({ top: 0 });
  byId("cards").focus({ preventScroll: true });
}

/** Focus the next card or the one before, on the next page if need be. */
function step(by) {
  const cards = [...document.querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement?.closest(".card"));
  const to = at < 0 ? (by > 0 ? 0 : cards.length - 1) : at + by;
  if (to in cards) return cards[to].focus();
  const page = view.page;
  turn(page + by);
  if (view.page !== page) document.querySelector(by > 0 ? ".card" : ".card:last-child")?.focus();
}

/** Controls as the view has them. */
function syncControls() {
  byId("search").value = view.search;
  byId("sort").value = view.sort;
  byId("order").setAttribute("aria-pressed", view.down);
  byId("order").textContent = view.down ? "↓" : "↑";
}

const THEMES = { auto: "◐", light: "☀", dark: "☾" };

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  button.textContent = THEMES[theme];
  button.title = `Colours: ${theme}`;
  button.setAttribute("aria-label", `Colours: ${theme}`);
  try {
    localStorage.setItem("vidcap-theme", theme);
  } catch {
    // A page from a folder may have no storage.
  }
}

function storedTheme() {
  try {
    const stored = localStorage.getItem("vidcap-theme");
    return Object.hasOwn(THEMES, stored) ? stored : "auto";
  } catch {
    return "auto";
  }
}

const KEYS = {
  "/": () => byId("search").focus(),
  "?": () => byId("help").showModal(),
  ArrowLeft: ({ shiftKey }) => turn(shiftKey ? 0 : view.page - 1),
  ArrowRight: ({ shiftKey }) => turn(shiftKey ? pageCount() - 1 : view.page + 1),
  j: () => step(1),
  k: () => step(-1),
  Enter: ({ target }) => play(Number(target.dataset.row)),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key];
  if (!act || (event.key === "Enter" && !event.target.matches(".card"))) return;
  event.preventDefault(); // or Enter would go on to what the player focuses
  act(event);
});

byId("search").addEventListener("input", ({ target }) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => ((view.search = target.value), show({ again: true })), 120);
});
byId("search").addEventListener("keydown", ({ key, target }) => {
  if (key === "Escape" && !target.value) target.blur();
});
byId("sort").addEventListener(
  "change",
  ({ target }) => ((view.sort = target.value), show({ again: true })),
);
byId("order").addEventListener(
  "click",
  () => ((view.down = !view.down), syncControls(), show({ again: true })),
);
byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const now = names.indexOf(document.documentElement.dataset.theme);
  setTheme(names[(now + 1) % names.length]);
});
byId("keys").addEventListener("click", KEYS["?"]);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what is after # is the view
  byId("cards").focus();
});
addEventListener("hashchange", () => {
  fromAddress(location.hash.slice(1));
  syncControls();
  show({ again: true, keep: true });
});

function start() {
  setTheme(storedTheme());
  byId("title").textContent = about.title;
  byId("summary").textContent = about.summary;
  byId("made").textContent =
    `${about.by} · ${about.made} · frames of ${counted(about.strips, "row")}`;
  const sorts = [
    ["row", "Row"],
    ["path", "Path"],
    ["status", "Status"],
  ];
  for (const [name, [label]] of Object.entries(about.numbers)) sorts.push([name, label]);
  byId("sort").append(...sorts.map(([value, label]) => element("option", { value }, label)));
  byId("charts").append(...charts.map((chart) => chart.box));
  if (matchMedia("(max-width: 60rem)").matches) byId("filters").open = false;
  fromAddress(location.hash.slice(1));
  syncControls();
  let next = 0;
  loadRows((fault) => {
    if (fault || rows.count === about.rows || performance.now() >= next) {
      show({ again: true, keep: true });
      next = performance.now() + 500;
    }
    if (fault) byId("found").textContent = fault;
  });
}

start();
