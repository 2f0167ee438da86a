import { bytes, cut, groups, item, short } from "/docs/format.js";

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
const shape = (sizes) => (sizes.length ? sizes.map((size) => size ?? "any").join(" × ") : "scalar");
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const numeric = (feature) => feature.type === "number" || feature.type === "integer";

/** Text that shows the exact value on hover, where it is shown shorter. */
const brief = (text, exact) => (text === exact ? text : make("span", { title: exact, className: "brief" }, text));
const figure = (value) => brief(short(value), String(value));
const line = (text, most = 60) => brief(cut(String(text).split("\n")[0].slice(0, most), most), String(text));
function items(values, most = 8) {
  const text = values.slice(0, most).map(item).join(", ");
  return values.length > most ? brief(`${text} and ${values.length - most} more`, values.map(item).join(", ")) : text;
}

function range({ minimum: low, maximum: high }) {
  if (low === undefined && high === undefined) return "";
  const text = (value) => (low === undefined ? `up to ${value(high)}` : high === undefined ? `from ${value(low)}` : `${value(low)} to ${value(high)}`);
  return brief(text(short), text(String));
}

function known(feature) {
  const { image, tokenizer } = feature;
  if (feature.type === "category") return items(feature.categories);
  if (image) return `JPEG or PNG, at most ${bytes(image.max_bytes ?? 4e6)}, becomes ${image.size[1]} × ${image.size[0]} pixels`;
  const cutAfter = tokenizer ? `, cut after ${tokenizer.max_tokens ?? 512} tokens` : "";
  return feature.max_length ? `at most ${feature.max_length.toLocaleString("en")} characters${cutAfter}` : range(feature);
}

const WIDE = 24;      // features from which on they are grouped, searched and sent as changes
const LARGE = 2000;   // characters of a body that is not put into a command, nor shown whole
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

  const parts = instance(model);
  fields = new Map(parts.map((part, i) => [part.name, field(part, `field-${i}`)]));
  $("find").hidden = parts.length <= WIDE;
  $("search").placeholder = `Find one of ${parts.length} features`;
  $("fields").replaceChildren(...(parts.length > WIDE ? groups(parts).map(([name, members]) =>
    make("details", { className: "group" }, make("summary", {}, `${name} `, make("small", {}, String(members.length))),
      make("div", { className: "grid" }, members.map((part) => fields.get(part.name).node))))
    : [make("div", { className: "grid" }, parts.map((part) => fields.get(part.name).node))]));
  fill();

  const columns = model.features?.length ?? 0;
  $("contract").parentElement.classList.toggle("tall", columns > WIDE);
  if (tabular) table("contract",
    ["Feature", "Type", "Unit", "Range or categories", "Beyond it", "Missing", "Description"],
    model.features.map((f) => [f.name, f.type, f.unit, known(f),
      known(f) && (f[f.type === "category" ? "unknown_category" : "out_of_range"] === "accept" ? "counted" : "refused"),
      f.nullable ? `allowed${f.fill_value === undefined ? "" : `, becomes ${item(f.fill_value)}`}` : "refused", f.description]));
  else table("contract", ["Input", "Type", "Shape of one instance"],
    instance(model).map((t) => [t.name, t.dtype, shape(t.shape)]));
  table("outputs", ["Output", "Kind", "Unit", "Classes or shape", "Decision", "Description"],
    model.outputs.map((o) => [o.name, o.kind, o.unit,
      (o.classes && items(o.classes)) ?? (o.kind === "tensor" ? shape(o.shape.slice(model.execution.batch === "none" ? 0 : 1)) : ""),
      o.decision && `${o.decision.above ?? "yes"} from ${short(o.decision.threshold)}`
        + (o.decision.review ? `; review ${o.decision.review.map(short).join(" to ")}` : ""), o.description]));
  const { limits, lineage } = model;
  list("limits", [["Rows per request", limits.rows.toLocaleString("en")], ["Request body", bytes(limits.body_bytes)],
    ["Response", bytes(limits.response_bytes)], ["Elements per tensor", tabular ? "" : limits.elements.toLocaleString("en")]]);
  const metrics = Object.entries(lineage.metrics ?? {});
  list("metrics", metrics.length ? metrics.map(([name, value]) => [name, figure(value)]) : [["None", "were packed with this version"]]);
  list("lineage", [["Packed", lineage.packed_at], ["Commit", lineage.git_commit?.slice(0, 12)],
    ["Predicts as", lineage.parity && `${lineage.parity.source}: ${agreement(lineage.parity)}`],
    ["Model", lineage.source_sha256.slice(0, 12)], ["Data", lineage.data_sha256?.slice(0, 12)],
    ...Object.entries(lineage.versions ?? {}).map(([name, version]) => [line(name, 30), line(version)])]);
}

/** Return how the predictions agree with those of the original model, in words. */
function agreement({ rows, max_difference, flipped_labels }) {
  const flipped = flipped_labels ? `, ${flipped_labels.toLocaleString("en")} labels differ` : "";
  return `at most ${short(max_difference)} apart in ${rows.toLocaleString("en")} rows${flipped}`;
}

/** Show the fields whose names hold the words searched for; groups without one are hidden. */
function search() {
  const words = $("search").value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const [name, { node }] of fields) {
    node.hidden = !words.every((word) => name.toLowerCase().includes(word));
    shown += !node.hidden;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".field:not([hidden])");
    group.open = !group.hidden && words[0] !== "";
  }
  $("count").textContent = words[0] ? `${shown} found` : "";
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
  else if (type === "image") control = make("input", { ...common, type: "file", accept: "image/jpeg,image/png" });
  else control = make("textarea", { ...common, rows: type === "tensor" ? 6 : 3, spellcheck: type === "text",
    className: type === "tensor" ? "json" : "" });
  if (nullable && !options) control.placeholder = "missing";

  const large = type === "tensor" || type === "image" ? make("div", { className: "large" }) : "";
  const usual = open || part.out_of_range === "accept" ? ["usually ", known(part)] : [known(part)];
  const hint = type === "tensor" ? [`${part.dtype}, ${shape(part.shape)}, as JSON`] : options ? [] : known(part) ? usual : [];
  const error = make("div", { id: `${id}-error`, className: "error" });
  const node = make("div", { className: control.tagName === "TEXTAREA" ? "field wide" : "field" },
    make("label", { htmlFor: id, title: part.description ?? "" }, part.name,
      part.unit ? make("small", {}, ` ${part.unit}`) : ""),
    large, control, make("div", { id: `${id}-hint`, className: "hint" }, hint.length ? hint : part.description || ""), error);

  let exact, shown;  // what was written, and how it is shown
  function read() {
    const text = control.value;
    if (type === "image") return exact;
    if (control.validity.badInput) throw new SyntaxError("not a number");
    if (text === shown) return exact;
    if (options || type === "tensor") return JSON.parse(text);
    if (text === "" && nullable) return null;
    if (words) return text;
    return text === "" ? undefined : Number.isNaN(Number(text)) ? text : Number(text);
  }
  function write(value) {
    exact = value ?? null;
    if (type === "image") return preview();
    const text = options || type === "tensor" ? JSON.stringify(exact) : numeric(part) && value != null ? short(value) : value ?? "";
    const long = type === "tensor" && text.length > LARGE;
    if (large) large.replaceChildren(...(long ? summary(exact, part) : []));
    if (long) Object.assign(control, { rows: 2, placeholder: "paste other values, as JSON" });
    control.value = long ? "" : text;
    control.title = numeric(part) && value != null ? String(value) : "";
    shown = control.value; // as the control has it
  }
  function preview(file) {
    const kind = exact?.startsWith("/9j/") ? "jpeg" : "png";
    const src = `data:image/${kind};base64,${exact}`, about = file ? `${file.name}, ${bytes(file.size)}` : "from the row above";
    large.replaceChildren(make("img", { src, alt: "", className: "picture" }), make("p", { className: "quiet" }, about));
    if (!file) control.value = "";
  }
  if (type === "image") control.addEventListener("change", async () => {
    const [file] = control.files;
    if (!file) return fill();
    const reader = new FileReader();
    await new Promise((done) => { reader.onload = done; reader.readAsDataURL(file); });
    exact = reader.result.split(",")[1];
    preview(file);
    return command();
  });
  return { node, control, error, read, write };
}

/** A large tensor: its size, its values' range, and a picture where its axes are an image's. */
function summary(value, { dtype, shape: axes }) {
  const numbers = [value].flat(Infinity);
  const about = [`${numbers.length.toLocaleString("en")} values of ${dtype}, from the row above`];
  if (typeof numbers[0] !== "number") return [make("p", { className: "quiet" }, about)];
  const low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
  const text = make("p", { className: "quiet" }, `${about}, ${short(low)} to ${short(high)}`);
  const sizes = []; // as sent: free axes have their length here
  for (let part = value; Array.isArray(part); part = part[0]) sizes.push(part.length);
  const last = [1, 3, 4].includes(sizes[2]), channels = sizes.length === 2 ? 1 : last ? sizes[2] : sizes[0];
  if (axes.length > 3 || sizes.length < 2 || ![1, 3, 4].includes(channels)) return [text];
  const [height, width] = sizes.length === 2 || last ? sizes : sizes.slice(1);
  const at = (x, y, c) => (sizes.length === 2 ? value[y][x] : last ? value[y][x][c % channels] : value[c % channels][y][x]);
  const canvas = make("canvas", { width, height, className: "picture", "aria-label": "the values as a picture" });
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i += 1) for (let c = 0; c < 4; c += 1)
    pixels.data[4 * i + c] = c === 3 ? 255 : (255 * (at(i % width, Math.floor(i / width), c) - low)) / (high - low || 1);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return [canvas, text];
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
  const first = document.querySelector("#fields [aria-invalid]"), group = first?.closest("details");
  if (group) group.open = true;
  first?.focus();
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

/** The fields that are not as in the golden row. */
function changes(row) {
  const { instance: golden } = page.golden[$("golden").value || 0];
  return Object.fromEntries(Object.entries(row).filter(([name, value]) => !same(value ?? null, golden[name] ?? null)));
}

function command() {
  const { row, text, problems } = typed();
  const changed = changes(row), names = Object.keys(changed);
  for (const [name, { node }] of fields) node.classList.toggle("changed", name in changed);
  $("changed").replaceChildren(...(names.length ? [`Changed: ${cut(names.map(item).join(", "), 120)} `,
    make("button", { type: "button", className: "small", onclick: fill }, "Reset")] : []));
  const quoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;
  const start = `curl -s ${location.origin}/predict -H 'content-type: application/json'`;
  // a long body is the golden row, as this server has it, with what is changed
  const body = [`curl -sG ${location.origin}/docs/example.json`, `-d row=${$("golden").value || 0}`,
    ...(names.length ? [`--data-urlencode ${quoted(`changes=${JSON.stringify(changed)}`)}`] : [])].join(" ");
  const [only, ...others] = [...fields.values()], file = others.length ? null : only.control.files?.[0];
  const whole = file ? `curl -s ${location.origin}/predict -H 'content-type: ${file.type}' --data-binary @${quoted(file.name)}`
    : text.length <= LARGE ? `${start} -d ${quoted(text)}` : `${body} |\n  ${start} --data-binary @-`;
  $("curl").textContent = problems.length ? "a field cannot be read" : cut(whole, LARGE);
  return whole;
}

function prediction(values) {
  return page.model.outputs.map(({ name, kind, unit, decision }) => {
    const value = values[name];
    const shares = Object.entries(kind === "probabilities" || kind === "scores" ? value : {}).sort((one, other) => other[1] - one[1]);
    let shown;
    if (kind === "probabilities") shown = shares.slice(0, 10).map(([label, p]) => make("div", { className: "share" },
      make("span", {}, item(label)), make("meter", { value: p, "aria-label": label }), make("output", { title: String(p) }, `${(p * 100).toFixed(1)} %`)));
    else if (kind === "scores") shown = shares.slice(0, 10).map(([label, score]) => make("div", { className: "share" },
      make("span", {}, item(label)), make("output", {}, figure(score))));
    else if (Array.isArray(value)) shown = make("pre", { tabIndex: 0 }, cut(JSON.stringify(value, (_, v) => (typeof v === "number" ? +v.toPrecision(4) : v)), 400));
    else shown = make("p", { className: "value" }, figure(value), unit ? make("small", {}, ` ${unit}`) : "");
    if (shares.length > 10) shown.push(make("p", { className: "quiet" }, `and ${shares.length - 10} more, in the JSON`));
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
  $("json").textContent = cut(JSON.stringify(parsed, null, 2), 5_000);
  $("answer").replaceChildren(...(response.ok
    ? [...prediction(parsed.predictions[0]), make("p", { className: "quiet" }, remark(row, parsed))] : problem(parsed)));
}

$("golden").addEventListener("change", fill);
$("fields").addEventListener("input", command);
$("search").addEventListener("input", search);
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
    if (matchMedia("(max-width: 56rem)").matches) $("answer-title").scrollIntoView(); // it lies below the fields
  } catch (error) {
    $("answer").replaceChildren(make("p", { className: "no" }, `No answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
});

page = await (await fetch("/docs/start.json")).json();
show(page);
