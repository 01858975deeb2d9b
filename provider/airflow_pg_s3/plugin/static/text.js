// Elements, and numbers and times as people read them. Text from elsewhere only ever becomes text nodes.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export function bytes(size) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (size < 1000) return `${unit === "B" ? size : size.toFixed(1)} ${unit}`;
    size /= 1000;
  }
  return `${size.toFixed(2)} TB`;
}

export function count(number) {
  return number.toLocaleString("en-US");
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function span(seconds) {
  for (const [unit, length, most] of [["s", 1, 120], ["min", 60, 120], ["h", 3600, 48]]) {
    if (seconds < most * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds / 86400)} d`;
}

export function ago(time) {
  const seconds = (Date.now() - new Date(time)) / 1000;
  // Made by the clocks of other machines.
  return seconds < -60 ? `${span(-seconds)} in the future` : `${span(Math.max(seconds, 0))} ago`;
}

export function moment(time) {
  return new Date(time).toISOString().slice(0, 16).replace("T", " ");
}

export function when(time) {
  return el("time", { datetime: time, title: `${moment(time)} UTC, ${new Date(time).toLocaleString()} here` }, ago(time));
}

export function ratio(backup) {
  return `${(backup.raw_bytes / Math.max(backup.stored_bytes, 1)).toFixed(1)} : 1`;
}
