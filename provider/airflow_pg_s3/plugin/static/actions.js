// Restores and verifications: the shipped DAGs, triggered with a backup filled in.

import { call, leave } from "./airflow.js";
import { el, moment, plural } from "./text.js";

const RESTORE_DAG = "pg_s3_on_demand";
const VERIFY_DAG = "pg_s3_verify_new_backup";
const FILES = { [RESTORE_DAG]: "pg_s3_on_demand.py", [VERIFY_DAG]: "pg_s3_restore_verification.py" };
const SECONDS_BETWEEN_LOOKS = 2;
// The server keeps what S3 has said for 15 s.
const SECONDS_UNTIL_NEWS = 16;
const IF_EXISTS = [
  ["fail", "Refuse", "Restore only into a database that is empty or missing."],
  ["clean", "Drop what the backup brings", "Drops the objects that the backup also holds, in one transaction."],
  ["replace", "Replace the database", "Restores beside it, then swaps the names. This cuts its connections. The old database is kept under another name."],
];
const RIGHTS = ["no_owner", "no_privileges"];
const VERIFY_SERVER = "On the server of this connection";
const NOT_BLANK = { required: true, pattern: ".*\\S.*" };
const dialog = document.getElementById("dialog");

function show(...content) {
  dialog.replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
}

function closeButton(text) {
  return el("button", { type: "button", onclick: () => dialog.close() }, text);
}

function field(title, input, hint) {
  return el("label", { class: "field" }, el("span", {}, title), input, hint && el("small", {}, hint));
}

function textInput(name, value, attributes = {}) {
  return el("input", { type: "text", name, value: value ?? "", autocomplete: "off", spellcheck: "false", ...attributes });
}

function choices(name, legend, options, chosen) {
  return el("fieldset", {}, el("legend", {}, legend), options.map(([value, title, about]) =>
    el("label", { class: "choice" }, el("input", { type: "radio", name, value, checked: value === chosen }), el("span", {}, title),
      about && el("small", {}, about))));
}

/** A param of the DAG that is true or false, in the words of its form. */
function flag(name, { value, schema, description }) {
  return el("label", { class: "choice" }, el("input", { type: "checkbox", name, checked: value }), el("span", {}, schema.title ?? name),
    el("small", {}, description));
}

/** A link to another page of Airflow. */
function pageLink(path, text) {
  return el("a", {
    href: new URL(`../${path}`, document.baseURI),
    onclick: (event) => {
      event.preventDefault();
      leave(path);
    },
  }, text);
}

/** Read a DAG; show why it cannot be triggered, if so. */
async function dagOf(dagId, title) {
  try {
    const dag = await call("GET", `dags/${dagId}/details`);
    const params = dag.params ?? {};
    return { ...dag, params, value: (name) => params[name]?.value };
  } catch (error) {
    const reason = error.status === 404 ? `The DAG ${dagId} is not in this Airflow: copy airflow_pg_s3/example_dags/${FILES[dagId]} of the installed package (in a clone: dags/${FILES[dagId]}) into Airflow's folder of DAGs. Airflow takes some minutes to find a new file.` : error.message;
    show(el("h2", { id: "dialog-title" }, title), el("p", { class: "notice" }, reason), el("div", { class: "buttons" }, closeButton("Close")));
    return null;
  }
}

function named(title, argument) {
  return [argument, `“${title}” (${argument})`];
}

/** Pairs: how errors of the operators name what is in the DAG's form, and how they shall name it here. */
function wordsOfForm(dag) {
  const params = Object.entries(dag.params).map(([name, { schema }]) => ({ name, ...schema }));
  return params.filter(({ name, type }) => type === "boolean" || name === "age_identity_conn_id")
    .map(({ name, title, type }) => named(title ?? name, type === "boolean" ? `${name}=True` : name));
}

function inWords(text, words) {
  return words.reduce((said, [theirs, ours]) => said.replaceAll(theirs, ours), text);
}

function ask({ title, about, dag, words, fields, submit, isDangerous, read, confirm }) {
  const problem = el("p", { class: "notice bad", hidden: true, role: "alert" });
  const button = el("button", { type: "submit", class: isDangerous ? "danger" : "main" }, confirm ? "Continue" : submit);
  const paused = dag.is_paused && el("p", { class: "notice" },
    "The DAG ", pageLink(`dags/${dag.dag_id}`, dag.dag_id), " is paused: unpause it, or the run will wait.");
  const form = el("form", {
    method: "dialog",
    onsubmit: async (event) => {
      event.preventDefault();
      const given = read(new FormData(form));
      if (confirm && !form.querySelector("[name=confirmed]")) {
        const question = confirm(given);
        if (question) {
          confirmFirst(form, question);
          button.textContent = submit;
          return;
        }
      }
      button.disabled = true;
      problem.hidden = true;
      try {
        const run = await call("POST", `dags/${dag.dag_id}/dagRuns`, { logical_date: null, conf: given });
        follow(dag.dag_id, run.dag_run_id, title, [...words, ...wordsOfForm(dag)]);
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        button.disabled = false;
      }
    },
  }, el("h2", { id: "dialog-title" }, title), el("p", { class: "muted break" }, about), paused, fields, problem,
    el("div", { class: "buttons" }, closeButton("Cancel"), button));
  // What was asked for is confirmed as it is: a change asks again.
  form.addEventListener("input", (event) => {
    if (event.target.name === "confirmed" || !form.querySelector(".question")) return;
    form.querySelector(".question").remove();
    button.textContent = "Continue";
  });
  show(form);
}

function confirmFirst(form, question) {
  const box = el("input", { type: "checkbox", name: "confirmed", required: true });
  form.querySelector(".buttons").before(el("label", { class: "notice bad choice question" }, box, el("span", {}, question)));
  form.querySelector(".buttons").scrollIntoView();
  box.focus({ preventScroll: true });
}

const ENDINGS = {
  /** What a run has done, by what its task returns. */
  async success(run, tasks) {
    for (const { task_id: task, map_index: index } of tasks.filter((one) => one.state === "success")) {
      const entry = await call("GET", `${run}/taskInstances/${task}/xcomEntries/return_value?map_index=${index}`).catch(() => null);
      const facts = entry && (typeof entry.value === "string" ? JSON.parse(entry.value) : entry.value);
      if (facts?.backup_id == null) continue;
      const what = facts.tables == null ? "" : `: ${plural(facts.tables, "table")}, ${plural(facts.rows ?? 0, "row")}`;
      const warned = facts.warnings?.length ? `, with ${plural(facts.warnings.length, "warning")}: ${facts.warnings.join("; ")}` : "";
      return [`${facts.level ? "Verified" : `Restored into ${facts.database}`}${what}${warned}.`];
    }
    return [];
  },
  /** The error of the task that has failed, and a link to its log. */
  async failed(run, tasks, words) {
    const task = tasks.find((one) => one.state === "failed");
    if (!task) return [];
    const logs = await call("GET", `${run}/taskInstances/${task.task_id}/logs/${task.try_number}?map_index=${task.map_index}`).catch(() => ({ content: [] }));
    const said = logs.content.findLast?.((line) => line.level === "error")?.event;
    const mapped = task.map_index < 0 ? "" : `/mapped/${task.map_index}`;
    const path = `${run.replace("dagRuns", "runs")}/tasks/${task.task_id}${mapped}`;
    return [`Failed: ${inWords(said ?? "the log says why.", words)} `, pageLink(path, `Log of ${task.task_id}`)];
  },
};

async function ending(state, dagId, runId, words) {
  const run = `dags/${dagId}/dagRuns/${encodeURIComponent(runId)}`;
  const { task_instances: tasks } = await call("GET", `${run}/taskInstances`);
  return ENDINGS[state](run, tasks, words);
}

function announceChange() {
  window.dispatchEvent(new Event("changed"));
}

/** Show a run until it has ended. */
async function follow(dagId, runId, title, words) {
  const state = el("p", { class: "notice break", role: "status" });
  const link = pageLink(`dags/${dagId}/runs/${encodeURIComponent(runId)}`, "Open the run in Airflow");
  show(el("h2", { id: "dialog-title" }, title), el("p", { class: "muted break" }, `${dagId}, ${runId}`), state, link,
    el("div", { class: "buttons" }, closeButton("Close")));
  dialog.addEventListener("close", announceChange, { once: true });
  const texts = { queued: "Queued…", running: "Running…", success: "Done.", failed: "Failed: the run's log says why." };
  while (dialog.open && state.isConnected) {
    try {
      const run = await call("GET", `dags/${dagId}/dagRuns/${encodeURIComponent(runId)}`);
      state.textContent = texts[run.state] ?? run.state;
      state.classList.toggle("good", run.state === "success");
      state.classList.toggle("bad", run.state === "failed");
      if (ENDINGS[run.state]) {
        setTimeout(announceChange, SECONDS_UNTIL_NEWS * 1000);
        const told = await ending(run.state, dagId, runId, words).catch(() => []);
        if (told.length) state.replaceChildren(...told);
        return;
      }
    } catch (error) {
      state.textContent = error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, SECONDS_BETWEEN_LOOKS * 1000));
  }
}

export async function restore(repository, backup) {
  const title = `Restore ${backup.database}`;
  const dag = await dagOf(RESTORE_DAG, title);
  if (!dag) return;
  const rights = RIGHTS.filter((name) => dag.params[name]);
  ask({
    title,
    about: `The backup of ${moment(backup.created_at)} UTC, ${backup.backup_id}, is restored by the DAG ${RESTORE_DAG}.`,
    dag,
    words: [
      ...IF_EXISTS.flatMap(([value, label]) => [named(label, `if_exists="${value}"`), named(label, `if_exists='${value}'`)]),
      [/give database=('[^']*'|"[^"]*")/g, "fill $1 into “Database”"],
    ],
    submit: "Restore",
    isDangerous: true,
    fields: [
      field("Into the server of this connection", textInput("target_conn_id", dag.value("target_conn_id"), NOT_BLANK),
        "The id of a Postgres connection of Airflow."),
      field("Database", textInput("target_database", ""), "Empty: the connection's own. A missing database is created."),
      choices("if_exists", "If the database holds something", IF_EXISTS, "fail"),
      field("Only these tables", textInput("tables", ""), "Such as public.orders, separated by spaces or commas. Empty: everything."),
      rights.length > 0 && el("fieldset", {}, el("legend", {}, "Owners and rights"), rights.map((name) => flag(name, dag.params[name]))),
      el("p", { class: "field muted break" }, "For more choices, trigger the DAG ", pageLink(`dags/${RESTORE_DAG}`, RESTORE_DAG),
        ` yourself, with this backup: ${backup.uri}`),
    ],
    read: (form) => ({
      mode: "restore",
      backup: backup.uri,
      aws_conn_id: repository.aws_conn_id ?? "",
      target_conn_id: form.get("target_conn_id").trim(),
      target_database: form.get("target_database").trim(),
      if_exists: form.get("if_exists"),
      tables: form.get("tables").split(/[\s,]+/).filter(Boolean),
      ...Object.fromEntries(rights.map((name) => [name, form.has(name)])),
    }),
    confirm: (given) => {
      const target = given.target_database ? `the database ${given.target_database} of ${given.target_conn_id}` : `the database of ${given.target_conn_id}`;
      const tables = given.tables.join(", ");
      const them = given.tables.length > 1 ? "them" : "it";
      if (given.if_exists === "replace") return `Yes, replace ${target} by this backup, and cut its connections.`;
      if (given.if_exists === "clean") return tables ? `Yes, drop ${tables} from ${target} and restore ${them}.` : `Yes, drop from ${target} what this backup brings.`;
      return `Yes, restore ${tables ? `${tables} ` : ""}into ${target}.`;
    },
  });
}

export async function verify(repository, backup) {
  const title = `Verify the backup of ${backup.database}`;
  const dag = await dagOf(VERIFY_DAG, title);
  if (!dag) return;
  ask({
    title,
    about: `The backup of ${moment(backup.created_at)} UTC, ${backup.backup_id}, is restored into a scratch database and compared by the DAG ${VERIFY_DAG}.`,
    dag,
    words: [named(VERIFY_SERVER, "postgres_conn_id")],
    submit: "Verify",
    fields: [
      field(VERIFY_SERVER, textInput("verify_conn_id", dag.value("verify_conn_id")),
        "Empty: a throwaway PostgreSQL on the worker."),
      choices("level", "How", [
        ["restore", "Restore and compare every row"],
        ["checksum", "Only read and check what is stored", "Needs no server, and proves less."],
      ], dag.value("level") ?? "restore"),
    ],
    read: (form) => ({
      backup: backup.uri,
      aws_conn_id: repository.aws_conn_id ?? "",
      verify_conn_id: form.get("verify_conn_id").trim(),
      level: form.get("level"),
    }),
  });
}
