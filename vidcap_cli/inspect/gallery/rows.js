// The rows: a list for each column. They come in pieces, in the page or as scripts beside it.

const about = JSON.parse(byId("about").textContent);
const pictures = JSON.parse(byId("pictures").textContent);
const TEXTS = ["path", "text", "error", "link", "status", "flags"];

const rows = { count: 0, strips: new Map(), numbers: {} };
for (const name of TEXTS) rows[name] = [];
for (const name of Object.keys(about.numbers)) rows.numbers[name] = [];

/** Add a piece: each script of rows calls this. */
function takeRows(piece) {
  for (const name of TEXTS) for (const value of piece[name]) rows[name].push(value);
  for (const [name, values] of Object.entries(rows.numbers)) {
    for (const value of piece.numbers[name]) values.push(value);
  }
  for (const [row, strip] of Object.entries(piece.strips)) rows.strips.set(Number(row), strip);
  rows.count += piece.path.length;
}

/** Take all pieces, one after the other; `then` is called after each. */
function loadRows(then) {
  const carried = document.querySelectorAll(".piece");
  for (const piece of carried) {
    takeRows(JSON.parse(piece.textContent));
    piece.remove();
  }
  if (carried.length || !about.pieces) return then();
  const next = (number) => {
    if (number === about.pieces) return;
    const script = element("script", {
      src: `${encodeURIComponent(about.folder)}/rows-${number}.js`,
    });
    script.addEventListener("load", () => (then(), script.remove(), next(number + 1)));
    script.addEventListener("error", () =>
      then(`${about.folder}/rows-${number}.js cannot be loaded`),
    );
    document.head.append(script);
  };
  next(0);
}

/** The address of a row's strip of pictures. */
function stripOf(row) {
  if (pictures[row]) return `data:image/webp;base64,${pictures[row]}`;
  return `${encodeURIComponent(about.folder)}/strips-${Math.floor(row / 1000)}/${row}.webp`;
}
