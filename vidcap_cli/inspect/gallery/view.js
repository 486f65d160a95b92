// What is shown: search, filters, order and page, and the rows that come of them.

const PAGE = 50; // cards

const view = {
  search: "",
  status: new Set(),
  flags: new Set(), // NONE is "no flag"
  ranges: {}, // of numbers: [from, below]
  sort: "row",
  down: false,
  page: 0,
  found: [], // rows, in order
};
const NONE = -1;

/** The filters that are set, the cheapest first; each has a name and says whether a row passes. */
function filters() {
  const set = [];
  if (view.status.size) {
    set.push({ name: "status", passes: (row) => view.status.has(rows.status[row]) });
  }
  if (view.flags.size) {
    set.push({ name: "flags", passes: (row) => flagsOf(row).some((flag) => view.flags.has(flag)) });
  }
  for (const [name, [from, below]] of Object.entries(view.ranges)) {
    const values = rows.numbers[name];
    set.push({
      name,
      passes: (row) => values[row] !== null && values[row] >= from && values[row] < below,
    });
  }
  const terms = termsOf(view.search);
  if (terms.length) {
    const holds = (term, row) =>
      term.test(rows.text[row]) || term.test(rows.path[row]) || term.test(rows.error[row]);
    set.push({ name: "search", passes: (row) => terms.every((term) => holds(term, row)) });
  }
  return set;
}

const flagsOf = (row) => (rows.flags[row].length ? rows.flags[row] : [NONE]);

/** The words of a search, all of which have to be there; "in quotes" they are one. */
function termsOf(search) {
  const words = search.match(/"[^"]+"|[^\s"]+/g) ?? [];
  const literal = (word) => word.replaceAll('"', "").replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  return words.map((word) => new RegExp(literal(word), "iu"));
}

/**
 * Find the rows that pass all filters. A row that fails none but its own filter is counted in a
 * chart, so each shows what its other bars would give.
 */
function find(charts) {
  const set = filters();
  view.found = [];
  for (const chart of charts) chart.counts.fill(0);
  for (const row of ordered(view.sort, view.down)) {
    const failed = firstTwo(set, row);
    if (failed.length > 1) continue;
    if (!failed.length) view.found.push(row);
    for (const chart of charts) {
      if (!failed.length || failed[0] === chart.name) chart.count(row);
    }
  }
  if (rows.count === about.rows) view.page = Math.max(0, Math.min(view.page, pageCount() - 1));
}

/** The names of the filters that a row fails, two at most. */
function firstTwo(set, row) {
  let failed = NOTHING;
  for (const { name, passes } of set) {
    if (passes(row)) continue;
    if (failed.length) return [...failed, name];
    failed = [name];
  }
  return failed;
}
const NOTHING = [];

const pageCount = () => Math.ceil(view.found.length / PAGE);
const pageRows = () => view.found.slice(view.page * PAGE, (view.page + 1) * PAGE);

// Orders are kept until more rows come.
const orders = new Map();
const SORTS = {
  row: (row) => row,
  path: (row) => rows.path[row],
  status: (row) => about.statuses[rows.status[row]].name,
};

/** All rows by one of their values; those without come last, equal ones as in the table. */
function ordered(sort, down) {
  const key = `${sort} ${down}`;
  if (orders.get(key)?.length !== rows.count) {
    const values = rows.numbers[sort];
    const of = SORTS[sort] ?? ((row) => values[row]);
    const order = Uint32Array.from({ length: rows.count }, (_, row) => row);
    const sign = down ? -1 : 1;
    if (sort === "row") {
      if (down) order.reverse();
    } else {
      order.sort((a, b) => {
        const [one, two] = [of(a), of(b)];
        if (one === two) return a - b;
        if (one === null || two === null) return one === null ? 1 : -1;
        return one < two ? -sign : sign;
      });
    }
    orders.set(key, order);
  }
  return orders.get(key);
}

/** The view as the part of the address after #, to come back to. */
function address() {
  const told = new URLSearchParams();
  if (view.search) told.set("q", view.search);
  for (const name of ["status", "flags"]) {
    if (view[name].size) told.set(name, [...view[name]].map((n) => nameOf(name, n)).join(","));
  }
  for (const [name, range] of Object.entries(view.ranges)) told.set(name, range.join("_"));
  if (view.sort !== "row") told.set("sort", view.sort);
  if (view.down) told.set("down", "1");
  if (view.page) told.set("page", view.page + 1);
  return told.toString();
}

/** The inverse of `address`; what means nothing here is left out. */
function fromAddress(text) {
  const told = new URLSearchParams(text);
  view.search = told.get("q") ?? "";
  for (const name of ["status", "flags"]) {
    const names = (told.get(name) ?? "").split(",").filter(Boolean);
    view[name] = new Set(names.map((one) => numberOf(name, one)).filter((one) => one !== null));
  }
  view.ranges = {};
  for (const name of Object.keys(about.charts)) {
    const range = (told.get(name) ?? "").split("_").map(Number);
    if (range.length === 2 && !range.some(Number.isNaN)) view.ranges[name] = range;
  }
  const sort = told.get("sort");
  view.sort = [SORTS, rows.numbers].some((known) => Object.hasOwn(known, sort)) ? sort : "row";
  view.down = told.has("down");
  view.page = Math.max(0, (parseInt(told.get("page"), 10) || 1) - 1);
}

const nameOf = (kind, number) => {
  if (kind === "flags" && number === NONE) return "none";
  return (kind === "status" ? about.statuses : about.flags)[number].name;
};
const labelOf = (kind, number) => {
  const name = nameOf(kind, number);
  return name === "none" ? `no ${kind === "flags" ? "flag" : kind}` : name;
};
const numberOf = (kind, name) => {
  if (kind === "flags" && name === "none") return NONE;
  const found = (kind === "status" ? about.statuses : about.flags).findIndex(
    (one) => one.name === name,
  );
  return found < 0 ? null : found;
};
