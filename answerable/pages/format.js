// How the start page writes values and groups features. Pure functions; a test runs them.

export const bytes = (n) => (n >= 1e6 ? `${+(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${+(n / 1e3).toFixed(1)} kB` : `${n} B`);
export const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length.toLocaleString("en")} characters)` : text);

/** A number as people write it: four digits, whole numbers whole. */
export function short(value) {
  if (typeof value !== "number" || (Number.isInteger(value) && Math.abs(value) < 1e9)) return String(value);
  const size = Math.abs(value);
  if (size >= 1e9 || (size < 1e-3 && size > 0)) return (+value.toPrecision(3)).toExponential().replace("e+", "e");
  return String(size >= 1e3 ? Math.round(value) : +value.toPrecision(4));
}
/** A value in a list: quoted where a comma or a blank would be read as the list's. */
export const item = (value) => (typeof value === "string" && (/[,;"]|^\s|\s$/.test(value) || !value) ? JSON.stringify(value) : short(value));

/** Features by the first word of their names; what has no fellow goes by position, 25 at a time. */
export function groups(parts) {
  const families = Map.groupBy(parts, ({ name }) => name.match(/^[^\s_.:/-]*[^\s_.:/\d-]/)?.[0] ?? "");
  const many = [...families].filter(([, members]) => members.length > 2);
  if (many.length > 1 && many.length <= 40) {
    const rest = [...families].filter(([, members]) => members.length <= 2).flatMap(([, members]) => members);
    return [...many, ...(rest.length ? [["others", rest]] : [])];
  }
  return Array.from({ length: Math.ceil(parts.length / 25) }, (_, i) => parts.slice(25 * i, 25 * i + 25))
    .map((members) => [`${members[0].name} … ${members.at(-1).name}`, members]);
}
