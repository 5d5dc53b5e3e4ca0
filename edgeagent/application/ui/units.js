// Numbers as people read them; null means that nobody knows, and is shown so.

const NONE = "–";
const group = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (n) => group.format(n).replaceAll(",", "\u202f");

export function seconds(s) {
  if (s === null || s === undefined) return NONE;
  if (s < 0.0995) return `${(s * 1000).toPrecision(3)} ms`;
  return s < 100 ? `${s.toPrecision(s < 1 ? 2 : 3)} s` : `${group.format(s)} s`;
}

export function bytes(n) {
  if (n === null || n === undefined) return NONE;
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (n >= size) return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${n} B`;
}

export const gibibytes = (n) => `${(n / 2 ** 30).toFixed(1)} GiB`;

export const rate = (perSecond) => `${perSecond < 10 ? perSecond.toFixed(1) : count(perSecond)} tok/s`;

export const joules = (j) => (j === null || j === undefined ? NONE : `${j.toPrecision(3)} J`);

export function difference(predicted, measured) {
  if (!predicted || measured === null || measured === undefined) return NONE;
  const percent = Math.round((measured / predicted - 1) * 100);
  return `${percent > 0 ? "+" : percent < 0 ? "\u2212" : "±"}${Math.abs(percent)} %`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
