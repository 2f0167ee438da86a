const $ = (id) => document.getElementById(id);

/** An element; properties with a hyphen are attributes. Text is never parsed as HTML. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== ""));
  return node;
}

const list = (id, pairs) => $(id).replaceChildren(...pairs
  .filter(([, value]) => value !== undefined && value !== "")
  .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
function table(id, titles, rows) {
  const used = titles.map((_, i) => rows.some((row) => row[i]));
  const line = (cells, first, scope, other) => make("tr", {}, cells.flatMap((cell, i) => (!used[i] ? []
    : i === 0 ? make(first, { scope }, cell) : make(other, scope === "col" ? { scope } : {}, cell ?? ""))));
  $(id).replaceChildren(make("thead", {}, line(titles, "th", "col", "th")),
    make("tbody", {}, rows.map((row) => line(row, "th", "row", "td"))));
}
const bytes = (n) => (n >= 1e6 ? `${+(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${+(n / 1e3).toFixed(1)} kB` : `${n} B`);
const shape = (sizes) => (sizes.length ? sizes.map((size) => size ?? "any").join(" × ") : "scalar");
const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const numeric = (feature) => feature.type === "number" || feature.type === "integer";

function range({ minimum: low, maximum: high }) {
  if (low === undefined && high === undefined) return "";
  return low === undefined ? `up to ${high}` : high === undefined ? `from ${low}` : `${low} to ${high}`;
}

function known(feature) {
  if (feature.type === "category") return feature.categories.join(", ");
  return feature.max_length ? `at most ${feature.max_length} characters` : range(feature);
}

let page;      // what /docs/start.json said
let fields;    // name -> {control, error, read, write}

/** What a row must give: the features, or the tensors without their axis of rows. */
function instance({ features, inputs, execution }) {
  const skip = execution.batch === "none" ? 0 : 1;
  return features ?? inputs.map((t) => ({ ...t, type: "tensor", shape: t.shape.slice(skip) }));
}

function show({ model, golden, event_source }) {
  const tabular = model.contract === "tabular";
  document.title = `${model.name} ${model.version} · Answerable`;
  $("name").textContent = model.name;
  $("version").textContent = model.version;
  $("description").textContent = model.description ?? "";
  const runbook = /^https?:/.test(model.runbook ?? "")
    ? make("a", { href: model.runbook }, model.runbook) : model.runbook;
  list("facts", [["Owner", model.owner], ["Why this version", model.lineage.reason],
    ["Runbook", runbook], ["Event source", { rest: "API Gateway, REST API", http: "API Gateway, HTTP API",
      url: "a function URL", alb: "an Application Load Balancer" }[event_source]]]);
  $("golden").replaceChildren(...golden.map((row, i) => make("option", { value: i }, row.name)));

  fields = new Map(instance(model).map((part, i) => [part.name, field(part, `field-${i}`)]));
  $("fields").replaceChildren(...[...fields.values()].map((one) => one.node));
  fill();

  if (tabular) table("contract",
    ["Feature", "Type", "Unit", "Range or categories", "Beyond it", "Missing", "Description"],
    model.features.map((f) => [f.name, f.type, f.unit, known(f),
      known(f) && (f[f.type === "category" ? "unknown_category" : "out_of_range"] === "accept" ? "counted" : "refused"),
      f.nullable ? `allowed${f.fill_value === undefined ? "" : `, becomes ${f.fill_value}`}` : "refused", f.description]));
  else table("contract", ["Input", "Type", "Shape of one instance"],
    instance(model).map((t) => [t.name, t.dtype, shape(t.shape)]));
  table("outputs", ["Output", "Kind", "Unit", "Classes or shape", "Decision", "Description"],
    model.outputs.map((o) => [o.name, o.kind, o.unit,
      o.classes?.join(", ") ?? (o.kind === "tensor" ? shape(o.shape.slice(model.execution.batch === "none" ? 0 : 1)) : ""),
      o.decision && `${o.decision.above ?? "yes"} from ${o.decision.threshold}`
        + (o.decision.review ? `; review ${o.decision.review.join(" to ")}` : ""), o.description]));
  const { limits, lineage } = model;
  list("limits", [["Rows per request", limits.rows.toLocaleString("en")], ["Request body", bytes(limits.body_bytes)],
    ["Response", bytes(limits.response_bytes)], ["Elements per tensor", tabular ? "" : limits.elements.toLocaleString("en")]]);
  list("metrics", Object.entries(lineage.metrics ?? { None: "were packed with this version" }));
  list("lineage", [["Packed", lineage.packed_at], ["Commit", lineage.git_commit?.slice(0, 12)],
    ["Model", lineage.source_sha256.slice(0, 12)], ["Data", lineage.data_sha256?.slice(0, 12)],
    ...Object.entries(lineage.versions ?? {})]);
}

/** One labelled control. `read` gives undefined for what is to be left out. */
function field(part, id) {
  const { type, nullable } = part;
  const open = type === "category" && part.unknown_category === "accept";
  const words = type === "text" || (open && typeof part.categories[0] === "string");
  const common = { id, "aria-describedby": `${id}-hint ${id}-error` };
  const options = type === "boolean" ? [true, false] : type === "category" && !open ? part.categories : null;
  let control;
  if (options) control = make("select", common, nullable ? make("option", { value: "null" }, "missing") : "",
    options.map((value) => make("option", { value: JSON.stringify(value) }, String(value))));
  else if (numeric(part)) control = make("input", { ...common, type: "number", step: type === "integer" ? 1 : "any",
    min: part.minimum, max: part.maximum });
  else if (open) control = make("input", common);
  else control = make("textarea", { ...common, rows: type === "tensor" ? 6 : 3, spellcheck: type === "text",
    className: type === "tensor" ? "json" : "" });
  if (nullable && !options) control.placeholder = "missing";

  const usual = (open || part.out_of_range === "accept") && known(part) ? `usually ${known(part)}` : known(part);
  const hint = type === "tensor" ? `${part.dtype}, ${shape(part.shape)}, as JSON` : options ? "" : usual;
  const error = make("div", { id: `${id}-error`, className: "error" });
  const node = make("div", { className: control.tagName === "TEXTAREA" ? "field wide" : "field" },
    make("label", { htmlFor: id, title: part.description ?? "" }, part.name,
      part.unit ? make("small", {}, ` ${part.unit}`) : ""),
    control, make("div", { id: `${id}-hint`, className: "hint" }, hint || part.description || ""), error);

  function read() {
    const text = control.value;
    if (control.validity.badInput) throw new SyntaxError("not a number");
    if (options || type === "tensor") return JSON.parse(text);
    if (text === "" && nullable) return null;
    if (words) return text;
    return text === "" ? undefined : Number.isNaN(Number(text)) ? text : Number(text);
  }
  function write(value) {
    control.value = options || type === "tensor" ? JSON.stringify(value ?? null) : value ?? "";
  }
  return { node, control, error, read, write };
}

function fill() {
  const row = page.golden[$("golden").value || 0].instance;
  for (const [name, one] of fields) one.write(row[name]);
  complain([]);
  command();
}

/** Mark the fields that the problems' JSON pointers lead to; give back the problems of no field. */
function complain(problems) {
  for (const { control, error } of fields.values()) {
    control.removeAttribute("aria-invalid");
    error.textContent = "";
  }
  const rest = problems.filter(({ pointer, message }) => {
    const [, , , name, ...inner] = pointer.split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
    const found = fields.get(name);
    found?.control.setAttribute("aria-invalid", "true");
    if (found) found.error.textContent = `${name}${inner.map((i) => `[${i}]`).join("")} ${message}`;
    return !found;
  });
  document.querySelector("#fields [aria-invalid]")?.focus();
  return rest;
}

/** The row, and problems like the handler's for the fields that cannot be read. */
function typed() {
  const row = {}, problems = [];
  for (const [name, { read }] of fields) {
    try {
      row[name] = read();
    } catch {
      const pointer = `/instances/0/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      problems.push({ pointer, message: "cannot be read" });
    }
  }
  return { row, text: JSON.stringify({ instances: [row] }), problems };
}

function command() {
  const { text, problems } = typed();
  const start = `curl -s ${location.origin}/predict -H 'content-type: application/json'`;
  // one argument of a command is at most 128 KiB
  const whole = text.length < 100_000 ? `${start} -d '${text.replaceAll("'", "'\\''")}'`
    : `${start} --data-binary @- <<'END'\n${text}\nEND`;
  $("curl").textContent = problems.length ? "a field cannot be read" : cut(whole, 1000);
  return whole;
}

function prediction(values) {
  return page.model.outputs.map(({ name, kind, unit, decision }) => {
    const value = values[name];
    let shown;
    if (kind === "probabilities") shown = Object.entries(value).map(([label, p]) => make("div", { className: "share" },
      make("span", {}, label), make("meter", { value: p, "aria-label": label }), make("output", {}, `${(p * 100).toFixed(1)} %`)));
    else if (kind === "scores") shown = Object.entries(value).map(([label, score]) => make("div", { className: "share" },
      make("span", {}, label), make("output", {}, String(score))));
    else if (kind === "tensor" && typeof value === "object") shown = make("pre", { tabIndex: 0 }, cut(JSON.stringify(value), 400));
    else shown = make("p", { className: "value" }, String(value), unit ? make("small", {}, ` ${unit}`) : "");
    return make("div", {}, make("h3", {}, name), shown,
      decision ? make("p", {}, "Decision: ", make("b", {}, values[`${name}_decision`])) : "");
  });
}

function problem(document) {
  const rest = complain(document.errors ?? []);
  return [make("p", { className: "no" }, make("b", {}, document.title ?? "No answer")), make("p", {}, document.detail ?? ""),
    ...rest.map(({ pointer, message }) => make("p", {}, make("code", {}, pointer), ` ${message}`))];
}

/** A remark on what the row should have been answered with, if it is the golden one. */
function remark(row, answer) {
  const { version } = answer.model, one = page.golden[$("golden").value];
  if (version !== page.model.version) return `Version ${version} answered; load this page again for its contract.`;
  const untouched = Object.keys(row).every((name) => same(row[name] ?? null, one.instance[name] ?? null));
  if (!untouched || !one.prediction) return "";
  const agrees = Object.keys(one.prediction).every((name) => same(one.prediction[name], answer.predictions[0][name]));
  return agrees ? "✓ As recorded for this golden row." : "✗ Not what was recorded for this golden row.";
}

async function predict() {
  const { row, text, problems } = typed();
  complain(problems);
  if (problems.length) return;
  const start = performance.now();
  const response = await fetch("/predict", { method: "POST", headers: { "content-type": "application/json" }, body: text });
  const answer = await response.text();
  const round = (performance.now() - start).toFixed(1);
  const handler = response.headers.get("server-timing")?.match(/dur=([\d.]+)/)?.[1];
  $("timing").replaceChildren(make("b", { className: response.ok ? "ok" : "no" }, String(response.status)),
    `${round} ms round trip` + (handler ? `, ${(+handler).toFixed(1)} ms handler` : ""));
  const parsed = JSON.parse(answer);
  $("raw").hidden = false;
  $("json").textContent = cut(JSON.stringify(parsed, null, 2), 20_000);
  $("answer").replaceChildren(...(response.ok
    ? [...prediction(parsed.predictions[0]), make("p", { className: "quiet" }, remark(row, parsed))] : problem(parsed)));
}

$("golden").addEventListener("change", fill);
$("fields").addEventListener("input", command);
$("copy").addEventListener("click", async () => {
  if (!navigator.clipboard) return getSelection().selectAllChildren($("curl")); // http, and not localhost
  await navigator.clipboard.writeText(command());
  $("copy").textContent = "Copied";
  return setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("form").querySelector("button");
  button.disabled = true;
  try {
    await predict();
  } catch (error) {
    $("answer").replaceChildren(make("p", { className: "no" }, `No answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
});

page = await (await fetch("/docs/start.json")).json();
show(page);
