// The charts at the side: each bar is a count and, when chosen, a filter.

/** A list of bars, a checkbox each: statuses or flags. `numbers` are what the rows have. */
function listChart(name, title, numbers, changed) {
  const counts = new Uint32Array(numbers.length);
  const place = new Map(numbers.map((number, at) => [number, at]));
  const bars = numbers.map((number) => {
    const label = labelOf(name, number);
    const means = name === "flags" ? (about.flags[number]?.means ?? "without a flag") : "";
    const box = element("input", {
      type: "checkbox",
      onchange: () => {
        view[name][box.checked ? "add" : "delete"](number);
        changed();
      },
    });
    const count = element("span", { class: "count" });
    const fill = element("span", { class: "fill", "aria-hidden": "true" });
    const words = element("span", {}, label);
    const item = element("label", { class: "choice", title: means }, fill, box, words, count);
    return { number, box, count, fill, item };
  });
  const list = element("div", { class: "choices" }, ...bars.map(({ item }) => item));
  return {
    name,
    counts,
    count(row) {
      const found = name === "flags" ? flagsOf(row) : [rows.status[row]];
      for (const number of found) counts[place.get(number)] += 1;
    },
    draw() {
      const most = Math.max(1, ...counts);
      bars.forEach(({ number, box, count, fill, item }, at) => {
        box.checked = view[name].has(number);
        count.textContent = figure(counts[at]);
        fill.style.inlineSize = `${(100 * counts[at]) / most}%`;
        item.classList.toggle("nothing", !counts[at]);
      });
    },
    box: element("fieldset", {}, element("legend", {}, title), list),
  };
}

/** A histogram of a number. A click takes a bar's range, with Shift it widens the one taken. */
function histogram(name, title, edges, changed) {
  const bins = edges.length - 1;
  const counts = new Uint32Array(bins);
  const below = (bin) => (bin === bins - 1 ? Infinity : edges[bin + 1]);
  const words = (bin) =>
    bin === bins - 1
      ? `${figure(edges[bin])} or more`
      : `${figure(edges[bin])} to ${figure(edges[bin + 1])}`;
  const take = (bin, widen) => {
    const [from, to] = view.ranges[name] ?? [];
    if (widen && from !== undefined) {
      view.ranges[name] = [Math.min(from, edges[bin]), Math.max(to, below(bin))];
    } else if (from === edges[bin] && to === below(bin)) delete view.ranges[name];
    else view.ranges[name] = [edges[bin], below(bin)];
    changed();
  };
  const bars = counts.reduce((made, _, bin) => {
    const fill = element("span", { class: "fill" });
    const click = (event) => take(bin, event.shiftKey);
    return [...made, { fill, button: element("button", { type: "button", onclick: click }, fill) }];
  }, []);
  const low = element("span", {}, figure(edges[0]));
  const high = element("span", {}, figure(edges[bins]));
  return {
    name,
    counts,
    count(row) {
      const value = rows.numbers[name][row];
      if (value === null || value < edges[0] || (name === "words" && !value)) return;
      let bin = Math.min(bins - 1, Math.floor((value - edges[0]) / (edges[1] - edges[0])));
      while (bin > 0 && value < edges[bin]) bin -= 1;
      while (bin < bins - 1 && value >= edges[bin + 1]) bin += 1;
      counts[bin] += 1;
    },
    draw() {
      const most = Math.max(1, ...counts);
      const [from, to] = view.ranges[name] ?? [];
      bars.forEach(({ fill, button }, bin) => {
        const taken = from !== undefined && edges[bin] >= from && below(bin) <= to;
        fill.style.blockSize = counts[bin] ? `max(2px, ${(100 * counts[bin]) / most}%)` : "0";
        button.setAttribute("aria-pressed", taken);
        button.setAttribute("aria-label", `${title} ${words(bin)}: ${counted(counts[bin], "row")}`);
        button.title = `${words(bin)}: ${counted(counts[bin], "row")}`;
      });
    },
    box: element(
      "fieldset",
      { class: "histogram" },
      element("legend", {}, title),
      element("div", { class: "bars" }, ...bars.map(({ button }) => button)),
      element("div", { class: "ends", "aria-hidden": "true" }, low, high),
    ),
  };
}

/** All charts of the table. */
function makeCharts(changed) {
  const most = (words) => [...words.keys()].sort((a, b) => words[b].rows - words[a].rows);
  const made = [
    listChart("status", "Status", most(about.statuses), changed),
    listChart("flags", "Flags", [...most(about.flags), NONE], changed),
  ];
  for (const [name, edges] of Object.entries(about.charts)) {
    made.push(histogram(name, about.numbers[name][0], edges, changed));
  }
  return made;
}
