// A card for each row of the page: frames, caption, what is known of it.

const LONG = 900; // characters of a caption that are shown before "all of it" is asked for

/** The card of a row. */
function card(row) {
  const status = about.statuses[rows.status[row]].name;
  const head = element(
    "header",
    {},
    pathOf(row),
    status === "ok"
      ? null
      : element("span", { class: `status ${status === "missing" ? "left" : ""}` }, status),
    element("span", { class: "number" }, `row ${figure(row)}`),
  );
  const flags = rows.flags[row].map((flag) =>
    element("li", { class: "flag", title: about.flags[flag].means }, about.flags[flag].name),
  );
  const facts = Object.entries(about.numbers)
    .filter(([name]) => rows.numbers[name][row] !== null && (name !== "words" || rows.text[row]))
    .map(([name, [, label]]) =>
      element("li", {}, element("b", {}, figure(rows.numbers[name][row])), ` ${label}`),
    );
  return element(
    "li",
    { class: "card", tabindex: "-1", "data-row": row },
    frames(row),
    element(
      "div",
      { class: "words" },
      head,
      caption(row),
      element("ul", { class: "facts" }, ...flags, ...facts),
    ),
  );
}

/** The path, its last part first to be seen; a link to the file where there is one. */
function pathOf(row) {
  const path = rows.path[row];
  const cut = path.lastIndexOf("/") + 1;
  const parts = [
    element("span", { class: "folder" }, path.slice(0, cut)),
    element("b", {}, path.slice(cut)),
  ];
  const link = rows.link[row];
  const given = { class: "path", dir: "auto", title: path };
  return link ? element("a", { ...given, href: link }, ...parts) : element("span", given, ...parts);
}

/** The caption, or why there is none; what was searched for is marked. */
function caption(row) {
  const text = rows.text[row];
  if (!text.trim()) {
    return element("p", { class: "none", dir: "auto" }, ...marked(rows.error[row] || "no caption"));
  }
  const said = element("p", { class: "caption", dir: "auto" });
  const show = (whole) => said.replaceChildren(...marked(whole ? text : `${text.slice(0, LONG)}…`));
  if (text.length <= LONG * 1.2) {
    said.append(...marked(text));
    return said;
  }
  const more = element(
    "button",
    { class: "more", type: "button", "aria-expanded": "false" },
    "all of it",
  );
  more.addEventListener("click", () => {
    const whole = more.getAttribute("aria-expanded") === "false";
    more.setAttribute("aria-expanded", whole);
    more.textContent = whole ? "less" : "all of it";
    show(whole);
  });
  show(false);
  return element("div", {}, said, more);
}

/** Text with the words of the search marked. */
function marked(text) {
  const terms = termsOf(view.search).map((term) => term.source);
  if (!terms.length) return [text];
  const parts = text.split(new RegExp(`(${terms.join("|")})`, "iu"));
  return parts.map((part, at) => (at % 2 ? element("mark", {}, part) : part));
}

/** The frames of a video, a button that plays it; a place for it where there are none. */
function frames(row) {
  const name = rows.path[row].split("/").pop();
  const strip = rows.strips.get(row);
  const link = rows.link[row];
  if (!strip) {
    if (!link) return element("div", { class: "frames blank" }, "no video here");
    return element(
      "button",
      { class: "frames blank", type: "button", onclick: () => play(row) },
      `▶ ${name}`,
    );
  }
  const [number, width, height] = strip;
  const source = `url("${stripOf(row)}")`;
  const columns = Math.ceil(Math.sqrt(number));
  const pictures = Array.from({ length: number }, (_, at) => {
    const picture = element("span", { class: "frame" });
    picture.style.aspectRatio = `${width} / ${height}`;
    picture.style.backgroundImage = source;
    picture.style.backgroundSize = `${100 * number}% 100%`;
    picture.style.backgroundPosition = number > 1 ? `${(100 * at) / (number - 1)}% 0` : "0 0";
    return picture;
  });
  const box = link
    ? element("button", { type: "button", "aria-label": `Play ${name}`, onclick: () => play(row) })
    : element("div", { role: "img", "aria-label": `Frames of ${name}` });
  box.className = "frames";
  box.append(...pictures);
  box.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  box.style.setProperty("--shape", (columns * width) / (Math.ceil(number / columns) * height));
  return box;
}
