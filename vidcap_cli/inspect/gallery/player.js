// The player: a video with its caption, over the page.

/** Play the video of a row, where the browser can. */
function play(row) {
  const link = rows.link[row];
  if (!link) return;
  const box = byId("player");
  const note = element(
    "p",
    { class: "none", hidden: true, role: "alert" },
    "This browser cannot play it. ",
  );
  note.append(element("a", { href: link }, "Open the file"));
  const video = element("video", {
    src: link,
    controls: true,
    autoplay: true,
    loop: true,
    playsinline: true,
  });
  video.muted = true;
  video.addEventListener("error", () => {
    note.hidden = false;
    video.hidden = true;
  });
  const close = element(
    "button",
    { class: "close", type: "button", "aria-label": "Close", onclick: () => box.close() },
    "×",
  );
  box.replaceChildren(close, video, note, element("header", {}, pathOf(row)), caption(row));
  box.addEventListener("close", () => box.replaceChildren(), { once: true });
  box.showModal();
}

// A click beside a dialog closes it.
for (const box of document.querySelectorAll("dialog")) {
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
}
