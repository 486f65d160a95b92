"use strict";

// Elements from plain data. What comes from a table becomes text, never markup.

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; `on…` attributes are listeners, strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A number as it is read: two decimals at most. */
function figure(value) {
  const digits = value.toLocaleString("en", { maximumFractionDigits: 2 });
  return digits === "-0" ? "0" : digits.replace("-", "−");
}
const counted = (number, thing) => `${figure(number)} ${thing}${number === 1 ? "" : "s"}`;
