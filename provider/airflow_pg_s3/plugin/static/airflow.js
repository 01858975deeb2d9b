// Airflow around the page: its API, its theme, its other pages.

const API = new URL("../api/v2/", document.baseURI);
const isFramed = window.parent !== window;

export class Refused extends Error {}

async function explained(answer) {
  let detail = null;
  try {
    ({ detail } = await answer.json());
  } catch {
    // No JSON: a proxy has answered.
  }
  if (Array.isArray(detail)) detail = detail.map((one) => one.msg).join("; ");
  if (detail && typeof detail === "object") detail = JSON.stringify(detail);
  if (answer.status === 401) return "You are not logged in to Airflow any more: log in, and load this page again.";
  if (answer.status === 403 && (!detail || detail === "Forbidden")) return "Airflow does not let you do this.";
  return detail || `The server has answered with status ${answer.status}.`;
}

async function send(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
    // Airflow's first 3.1 keeps the token here, and not in a cookie.
    const token = localStorage.getItem("token");
    if (answer.status === 401 && token) {
      const bearer = token.startsWith('"') ? JSON.parse(token) : token;
      answer = await fetch(url, { ...options, headers: { ...options.headers, Authorization: `Bearer ${bearer}` } });
    }
  } catch {
    throw new Refused("Airflow's API server cannot be reached.");
  }
  if (!answer.ok) throw Object.assign(new Refused(await explained(answer)), { status: answer.status });
  return answer;
}

/** Ask a route of the page. */
export async function ask(route, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value != null);
  return send(`api/${route}?${new URLSearchParams(given)}`, { headers: {} });
}

/** Call Airflow's public API, with the user's own rights. */
export async function call(method, path, body) {
  const options = { method, headers: { "Content-Type": "application/json" } };
  if (body) options.body = JSON.stringify(body);
  return (await send(new URL(path, API), options)).json();
}

/** Go to another page of Airflow, such as dags/x/runs/y. */
export function leave(path) {
  const url = new URL(`../${path}`, document.baseURI);
  if (!isFramed) {
    location.assign(url);
    return;
  }
  // The frame may not navigate the window around it, but Airflow's router follows its history.
  window.parent.history.pushState(null, "", url);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
}

/** Follow the theme that is chosen in Airflow, or else the system's. */
export function followTheme() {
  const around = isFramed ? window.parent.document.documentElement : null;
  const follow = () => {
    const chosen = around ? ["dark", "light"].find((name) => around.classList.contains(name)) : localStorage.getItem("theme");
    document.documentElement.style.colorScheme = ["dark", "light"].includes(chosen) ? chosen : "light dark";
  };
  follow();
  if (around) new MutationObserver(follow).observe(around, { attributeFilter: ["class"] });
  window.addEventListener("storage", follow);
}

export { isFramed };
