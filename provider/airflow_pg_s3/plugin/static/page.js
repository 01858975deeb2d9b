// The page: databases of all named repositories, backups of one database, one backup. The hash says which.

import { restore, verify } from "./actions.js";
import { ask, followTheme, isFramed, leave } from "./airflow.js";
import { plot } from "./plot.js";
import { ago, bytes, count, duration, el, moment, plural, ratio, span, when } from "./text.js";

const view = document.getElementById("view");
const crumbs = document.getElementById("crumbs");
const asOf = document.getElementById("as-of");
const EXAMPLE = `[pg_s3]
repositories = [{"name": "production", "uri": "s3://my-backups/production", "aws_conn_id": "backup_account", "max_age": "26h"}]`;
// A view that is asked for later makes what an earlier one still waits for void.
let turn = 0;
let oldest = null;

function address(...names) {
  return `#${names.map(encodeURIComponent).join("/")}`;
}

/** Ask a route; what it says is as old as the server says. */
async function answerOf(route, parameters) {
  const { age_seconds: age, answer } = await (await ask(route, parameters)).json();
  const at = Date.now() - age * 1000;
  oldest = oldest == null ? at : Math.min(oldest, at);
  showAge();
  return answer;
}

function showAge() {
  asOf.textContent = oldest == null ? "" : `as of ${span(Math.max((Date.now() - oldest) / 1000, 0))} ago`;
}

function waiting(text) {
  return el("p", { class: "note waiting" }, text);
}

function problem(error) {
  return el("div", { class: "notice bad", role: "alert" }, error.message);
}

function warnings(texts) {
  return texts.map((text) => el("div", { class: "notice" }, text));
}

/** Put what is asked for into a place, or the sentence that says why it is not there. */
async function fill(place, build) {
  const mine = turn;
  let content;
  try {
    content = await build();
  } catch (error) {
    content = [problem(error)];
  }
  if (mine === turn) place.replaceChildren(...content.filter(Boolean));
}

function badge(text, kind = "") {
  return el("span", { class: `badge ${kind}` }, text);
}

function verdictOf(backup) {
  const { proof, verdict } = backup;
  if (verdict?.outcome === "failed") return badge("✗ Failed", "bad");
  if (proof) return badge("✓ Verified", "good");
  if (verdict?.outcome === "could not verify") return badge("Could not verify", "doubt");
  if (verdict?.level === "checksum") return badge("Checksums right", "doubt");
  return badge("Not verified");
}

function verdictTime(backup) {
  const told = backup.verdict?.outcome === "failed" ? backup.verdict : backup.proof ?? backup.verdict;
  return told && `${moment(told.at)} UTC`;
}

function cell(column, attributes, ...children) {
  return el("td", { "data-column": column, ...attributes }, ...children);
}

function table(columns, rows, kind = "") {
  const heads = columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name));
  return el("table", { class: `cards ${kind}` }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows));
}

const number = { class: "number" };

// All repositories

async function showRepositories() {
  crumbs.replaceChildren();
  const repositories = await (await ask("repositories")).json();
  view.replaceChildren(el("h1", {}, "Backups"));
  if (!repositories.length) {
    view.append(el("section", { class: "panel" }, el("p", { class: "note" },
      "No repository has a name yet. Name those that this page should show in Airflow's configuration, and restart the API server:"),
    el("pre", {}, EXAMPLE)));
    return;
  }
  for (const repository of repositories) {
    const place = el("div", { class: "panel" }, waiting("Asking S3…"));
    const rule = repository.max_age_seconds == null ? "" : `a backup at least every ${span(repository.max_age_seconds)}`;
    const summary = el("span", { class: "end muted" }, rule);
    view.append(el("section", {}, el("div", { class: "heading" }, el("h2", {}, repository.name),
      el("span", { class: "mono muted break" }, repository.uri), summary), place));
    fill(place, async () => {
      const { databases, warnings: left } = await answerOf("databases", { repository: repository.name });
      if (!databases.length) return [el("p", { class: "note" }, "There is no backup here yet."), ...warnings(left)];
      return [databaseTable(repository, databases), ...warnings(left)];
    });
  }
}

function databaseTable(repository, databases) {
  const columns = [["Database"], ["Newest backup"], ["Verification"], ["Recovery", "number"], ["Size", "number"], ["New", "number"],
    ["Raw", "number"], ["Tables", "number"], ["Took", "number"]];
  return table(columns, databases.map((database) => databaseRow(repository, database)), "databases");
}

function databaseRow(repository, database) {
  const { name, newest, newest_verified: verified, is_fresh: isFresh } = database;
  const link = cell("Database", { class: "name" }, el("a", { href: address(repository.name, name) }, name));
  const late = isFresh === false && badge("Late", "bad");
  if (!newest) {
    return el("tr", {}, link, cell("Newest backup", { class: "wide", colspan: 8 }, el("span", { class: "muted" }, "none that is complete "), late));
  }
  const fresh = isFresh === true && badge("On time", "good");
  const proven = verified && verified.backup_id !== newest.backup_id && `newest verified: made ${ago(verified.created_at)}`;
  return el("tr", {}, link,
    cell("Newest backup", { class: "moment wide" }, el("div", {}, when(newest.created_at), " ", late || fresh, newest.left_out_by.length > 0 && el("span", { class: "label" }, "partial"), el("small", {}, `${moment(newest.created_at)} UTC`))),
    cell("Verification", { class: "moment wide" }, el("div", {}, verdictOf(newest), el("small", {}, proven || verdictTime(newest) || ""))),
    cell("Recovery", number, verified?.proof?.restore_seconds == null ? "–" : duration(verified.proof.restore_seconds)),
    cell("Size", number, bytes(newest.stored_bytes)),
    cell("New", number, bytes(newest.new_stored_bytes)),
    cell("Raw", number, bytes(newest.raw_bytes)),
    cell("Tables", number, count(newest.tables)),
    cell("Took", number, duration(newest.duration_seconds)));
}

// One database

async function showDatabase(repository, database) {
  const tiles = el("div", { class: "tiles panel" }, waiting("Asking S3…"));
  const plots = el("div", { class: "plots", hidden: true });
  const list = el("section", {});
  view.replaceChildren(el("h1", {}, database), el("p", { class: "muted break" }, `${repository.name}, ${repository.uri}`), tiles, plots, list);
  const parameters = { repository: repository.name, database };
  fill(list, async () => {
    const { backups, before, warnings: left } = await answerOf("backups", parameters);
    const verified = backups.find((backup) => backup.proof);
    tiles.replaceChildren(...(backups.length ? databaseTiles(repository, backups[0], verified) : [el("p", { class: "note" }, "There is no complete backup.")]));
    if (!backups.length) return warnings(left);
    return [backupList(repository, backups, before, parameters), ...warnings(left)];
  }).then(() => {
    const failed = list.querySelector("[role=alert]");
    if (failed) tiles.remove();
    else fillPlots(plots, repository, parameters);
  });
}

function tile(title, value, ...more) {
  return el("div", { class: "tile" }, el("h3", {}, title), el("div", { class: "value" }, value), el("small", {}, ...more));
}

function databaseTiles(repository, newest, verified) {
  const limit = repository.max_age_seconds;
  const age = (Date.now() - new Date(newest.created_at)) / 1000;
  const isLate = limit != null && Math.abs(age) > limit;
  const rule = limit == null ? "" : badge(isLate ? "Late" : "On time", isLate ? "bad" : "good");
  const seconds = verified?.proof?.restore_seconds;
  return [
    tile("Newest backup", [when(newest.created_at), " ", rule], `${moment(newest.created_at)} UTC`,
      limit == null ? "" : `, wanted every ${span(limit)}`),
    tile("Verification", verdictOf(newest), verdictTime(newest) || "no verification is recorded"),
    tile("Recovery time", seconds == null ? "–" : duration(seconds),
      seconds == null ? "measured by verifications" : verified === newest ? "measured with this backup" : `measured ${ago(verified.proof.at)}, with an earlier backup`),
    tile("Size", bytes(newest.stored_bytes), `${bytes(newest.raw_bytes)} raw, ${ratio(newest)}; ${bytes(newest.new_stored_bytes)} stored anew`),
  ];
}

async function fillPlots(place, repository, parameters) {
  await fill(place, async () => {
    const { backups } = await answerOf("history", parameters);
    const shown = backups.toReversed();
    if (!shown.length) return [];
    const open = (index) => { location.hash = address(repository.name, parameters.database, shown[index].backup_id); };
    const of = (title, key, format, isBars) =>
      plot({ title, format, isBars, open, points: shown.map((backup) => ({ time: backup.created_at, value: backup[key] })) });
    return [of("Stored", "stored_bytes", bytes), of("New", "new_stored_bytes", bytes, true), of("Raw", "raw_bytes", bytes),
      of("Duration", "duration_seconds", duration, true)];
  });
  place.hidden = false;
}

function backupList(repository, backups, before, parameters) {
  const columns = [["Backup"], ["Size", "number"], ["New", "number"], ["Ratio", "number"], ["Tables", "number"], ["Rows", "number"],
    ["Verification"], ["Labels"]];
  const listed = table(columns, backups.map((backup) => backupRow(repository, backup)));
  const panel = el("div", { class: "panel" }, el("div", { class: "scroll" }, listed));
  if (before) panel.append(olderButton(repository, listed.tBodies[0], before, parameters));
  return panel;
}

function olderButton(repository, body, before, parameters) {
  const button = el("button", {
    type: "button", class: "more",
    onclick: async () => {
      button.disabled = true;
      try {
        const more = await answerOf("backups", { ...parameters, before });
        body.append(...more.backups.map((backup) => backupRow(repository, backup)));
        ({ before } = more);
        button.hidden = !before;
        button.textContent = "Show older backups";
      } catch (error) {
        button.textContent = `${error.message} Try again`;
      }
      button.disabled = false;
    },
  }, "Show older backups");
  return button;
}

function labelsOf(backup) {
  const labels = Object.entries(backup.labels).filter(([name]) => name !== "hold");
  return [
    backup.hold != null && badge(`Held: ${backup.hold}`, "doubt"),
    ...labels.map(([name, value]) => el("span", { class: "label" }, `${name}=${value}`)),
    backup.left_out_by.length > 0 && el("span", { class: "label" }, "partial"),
  ].filter(Boolean);
}

function backupRow(repository, backup) {
  return el("tr", {},
    cell("Backup", { class: "name" },
      el("a", { href: address(repository.name, backup.database, backup.backup_id) }, `${moment(backup.created_at)} UTC`),
      el("small", {}, when(backup.created_at))),
    cell("Size", number, bytes(backup.stored_bytes)),
    cell("New", number, bytes(backup.new_stored_bytes)),
    cell("Ratio", number, ratio(backup)),
    cell("Tables", number, count(backup.tables)),
    cell("Rows", number, count(backup.rows)),
    cell("Verification", { class: "moment wide" }, backup.verdict
      ? el("div", {}, verdictOf(backup), el("small", {}, verdictTime(backup)))
      : el("small", {}, "not verified")),
    cell("Labels", { class: "wide" }, el("div", {}, labelsOf(backup))));
}

// One backup

async function showBackup(repository, database, backupId) {
  const place = el("div", {}, waiting("Asking S3…"));
  view.replaceChildren(el("h1", {}, database), place);
  const parameters = { repository: repository.name, database, backup_id: backupId };
  await fill(place, async () => {
    const details = await answerOf("backup", parameters);
    const { backup } = details;
    view.querySelector("h1").replaceWith(el("div", { class: "top" },
      el("div", {}, el("h1", {}, `${database}, ${moment(backup.created_at)} UTC`),
        el("p", { class: "mono muted break" }, backup.uri)),
      el("div", { class: "actions" },
        el("button", { type: "button", onclick: () => verify(repository, backup) }, "Verify…"),
        el("button", { type: "button", class: "main", onclick: () => restore(repository, backup) }, "Restore…"))));
    return [
      el("div", { class: "tiles panel" }, backupTiles(backup)),
      el("div", { class: "columns" }, factsPanel(details), verificationsPanel(details.verifications)),
      tablesPanel(details),
      commandsPanel(details),
      manifestPanel(parameters),
    ];
  });
}

function backupTiles(backup) {
  const seconds = backup.proof?.restore_seconds;
  return [
    tile("Verification", verdictOf(backup), verdictTime(backup) || "no verification is recorded"),
    tile("Recovery time", seconds == null ? "–" : duration(seconds), seconds == null ? "measured by verifications" : "measured by its verification"),
    tile("Size", bytes(backup.stored_bytes), `${bytes(backup.raw_bytes)} raw, ${ratio(backup)}; ${bytes(backup.new_stored_bytes)} stored anew`),
    tile("Contents", plural(backup.rows, "row"), `in ${plural(backup.tables, "table")}`),
  ];
}

function factsPanel({ backup, manifest }) {
  const { server, dump, encryption, producer } = manifest;
  const labels = labelsOf(backup);
  const facts = [
    ["Id", el("span", { class: "mono" }, backup.backup_id)],
    ["Made", `${moment(backup.created_at)} UTC, ${ago(backup.created_at)}, in ${duration(backup.duration_seconds)}`],
    ["Server", `PostgreSQL ${server.version} at ${server.host}`],
    ["Encoding", `${server.encoding}, ${server.collate}`],
    ["Extensions", server.extensions.map((one) => `${one.name} ${one.version}`).join(", ")],
    ["pg_dump", [`${dump.pg_dump_version}, ${plural(dump.jobs, "job")}`, ...dump.options].join(" ")],
    ["Left out by", backup.left_out_by.join(", ")],
    ["Roles", dump.has_globals ? "stored, without passwords" : ""],
    ["Chunks", `${count(manifest.new_chunks)} new of ${count(manifest.chunks)}; definitions and small tables are stored anew each time`],
    ["Compression", `zstd ${manifest.compression.level}`],
    ["Encryption", encryption ? `age, for ${encryption.recipients.join(", ")}` : "none"],
    ["Labels", labels.length ? labels : ""],
    ["Made by", [producer.dag_id, producer.task_id].filter(Boolean).join(".") || `${producer.tool} ${producer.version}`],
  ];
  return el("div", { class: "panel" }, el("h2", {}, "Facts"),
    el("dl", {}, facts.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat()));
}

function verificationsPanel(verifications) {
  const found = verifications.length ? verifications.map(finding) : [el("p", { class: "note" }, "No verification is recorded.")];
  return el("div", { class: "panel" }, el("h2", {}, "Evidence"), found);
}

function finding(found) {
  const kind = { verified: "good", failed: "bad" }[found.outcome] ?? "doubt";
  const did = found.level === "checksum" ? "everything stored was read and checked" : "restored and compared";
  const parts = [
    found.restore_seconds != null && `restored in ${duration(found.restore_seconds)}`,
    found.compare_seconds != null && `compared in ${duration(found.compare_seconds)}`,
    found.outcome === "verified" && found.level === "restore" && `${plural(found.tables_matching, "table")} and ${plural(found.rows, "row")} are the source's`,
    found.where && `on ${found.where}`,
    // That of a throwaway server is named already.
    found.server_version && !found.where?.includes(found.server_version) && `PostgreSQL ${found.server_version}`,
  ];
  const more = found.all_differences - found.differences.length;
  const lines = [
    ...found.differences.map((one) => `${one.kind} ${one.name}: ${one.detail}`),
    more > 0 && `and ${plural(more, "more difference")}`,
    ...found.checks.map((check) => `${check.passed ? "passed" : "FAILED"}: ${check.sql}${check.passed ? "" : ` – ${check.detail}`}`),
    ...found.warnings,
  ].filter(Boolean);
  return el("div", { class: "finding" },
    el("div", { class: "heading" }, badge(found.outcome, kind), el("span", {}, `${moment(found.began_at)} UTC`), el("small", {}, did)),
    el("small", {}, [found.reason, parts.filter(Boolean).join(", ")].filter(Boolean).join(" ")),
    lines.length > 0 && el("ul", {}, lines.map((line) => el("li", {}, line))));
}

function tablesPanel({ tables, all_tables: all }) {
  if (!all) return el("section", { class: "panel" }, el("p", { class: "note" }, "It holds no rows of any table."));
  const most = Math.max(...tables.map((one) => one.raw_bytes), 1);
  const rows = tables.map((one) => {
    const share = el("i", {});
    share.style.width = `${(one.raw_bytes / most) * 100}%`;
    return el("tr", {},
      cell("Table", { class: "name" }, `${one.schema}.${one.name}`),
      cell("Rows", number, count(one.rows)),
      cell("Raw", number, bytes(one.raw_bytes), el("span", { class: "share", "aria-hidden": "true" }, share)),
      cell("New, raw", number, bytes(one.new_raw_bytes)));
  });
  const listed = table([["Table"], ["Rows", "number"], ["Raw", "number"], ["New, raw", "number"]], rows);
  const search = el("input", {
    type: "text", placeholder: "Filter tables", "aria-label": "Filter tables",
    oninput: () => rows.forEach((row) => { row.hidden = !row.cells[0].textContent.toLowerCase().includes(search.value.toLowerCase()); }),
  });
  const heading = el("div", { class: "heading" }, el("h2", {}, "Tables"),
    all > tables.length && el("span", { class: "muted" }, `the largest ${tables.length} of ${count(all)}; pg-s3 show lists all`),
    tables.length > 10 && el("div", { class: "end" }, search));
  return el("section", { class: "panel" }, heading, el("div", { class: "scroll" }, listed));
}

function commandsPanel({ commands, document: explained }) {
  return el("section", { class: "panel" }, el("div", { class: "heading" }, el("h2", {}, "Without Airflow"),
    el("span", { class: "muted" }, `from any machine that reaches S3 and PostgreSQL; put the names of yours in place of HOST and USER. On the API server, ${explained} explains each step`)),
  commands.map(({ title, text }) => {
    const button = el("button", {
      type: "button", class: "quiet end",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(button.closest(".command").querySelector("pre"));
          button.textContent = "Selected: press Ctrl+C";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 2500);
      },
    }, "Copy");
    return el("div", { class: "command" }, el("div", { class: "heading" }, el("h3", {}, title), button), el("pre", { tabindex: 0 }, text));
  }));
}

function manifestPanel(parameters) {
  const text = el("pre", { tabindex: 0 });
  return el("section", { class: "panel" }, el("details", {
    ontoggle: async (event) => {
      if (!event.target.open || text.textContent) return;
      try {
        text.textContent = await (await ask("manifest", parameters)).text();
      } catch (error) {
        text.textContent = error.message;
      }
    },
  }, el("summary", {}, "Manifest ", el("span", { class: "muted" }, "the record that makes it a backup")), text));
}

// Which of them

function crumb(text, ...names) {
  return el("a", { href: address(...names) }, text);
}

async function show() {
  turn += 1;
  oldest = null;
  showAge();
  const mine = turn;
  try {
    const [name, database, backupId] = location.hash.slice(1).split("/").map(decodeURIComponent);
    document.title = [database, "Backups"].filter(Boolean).join(" – ");
    if (!database) {
      await showRepositories();
    } else {
      const repositories = await (await ask("repositories")).json();
      if (mine !== turn) return;
      const repository = repositories.find((one) => one.name === name);
      crumbs.replaceChildren(crumb("Backups"), crumb(`${name}`), backupId ? crumb(database, name, database) : el("span", {}, database));
      if (backupId) crumbs.append(el("span", {}, backupId));
      if (!repository) view.replaceChildren(problem(new Error(`No repository is named ${name}.`)));
      else if (backupId) await showBackup(repository, database, backupId);
      else await showDatabase(repository, database);
    }
  } catch (error) {
    if (mine === turn) view.replaceChildren(problem(error));
  }
  if (!isFramed) {
    crumbs.prepend(el("a", { href: "../", onclick: (event) => { event.preventDefault(); leave(""); } }, "Airflow"));
  }
}

followTheme();
document.getElementById("refresh").addEventListener("click", show);
window.addEventListener("changed", show);
window.addEventListener("hashchange", () => {
  document.getElementById("dialog").close();
  scrollTo(0, 0);
  show();
  view.focus({ preventScroll: true });
});
setInterval(showAge, 1000);
show();
