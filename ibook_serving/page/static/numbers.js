// Numbers out of two looks at /status, and as people read them (as page/shown.py writes them).

export const UNKNOWN = "–";
const GLUE = "\u00a0";
const MIXED = "mixed";
const NO_VARIANT = "none";
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

const grouped = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const whole = value => grouped(value);
export const rate = value => `${grouped(value, value < 9.95 && value > 0 ? 1 : 0)}/s`;
export const percent = value =>
  `${(100 * value).toFixed(value === 0 || value === 1 ? 0 : value < 0.1 ? 2 : 1)}%`;
export const exact = value => `${+(100 * value).toFixed(4)}%`;
export const share = (part, all) => (all ? percent(part / all) : UNKNOWN);
export const money = cents =>
  grouped(cents / 100, cents === 0 || Math.abs(cents) >= 10000 ? 0 : 2);
export const milliseconds = seconds =>
  seconds === null ? UNKNOWN : `${(1000 * seconds).toFixed(seconds >= 0.1 ? 0 : 1)}${GLUE}ms`;
export const clock = seconds => `${new Date(1000 * seconds).toISOString().slice(11, 19)} UTC`;
export const minute = seconds =>
  `${new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ")} UTC`;

export function age(seconds) {
  if (seconds === null) return UNKNOWN;
  const [size, unit] = UNITS.find(([size, unit]) => seconds >= 2 * size || unit === "s");
  return `${grouped(seconds / size, seconds / size < 10 ? 1 : 0)}${GLUE}${unit}`;
}

// The latency that the share q of requests stays within; null without requests.
export function quantile(buckets, bounds, q) {
  const all = buckets.at(-1) ?? 0;
  if (!all) return null;
  let below = 0, lower = 0;
  for (const [i, upper] of bounds.entries()) {
    const within = buckets[i];
    if (within >= q * all && within > below)
      return lower + (upper - lower) * (q * all - below) / (within - below);
    [below, lower] = [within, upper];
  }
  return bounds.at(-1);
}

const minus = (now, before = {}) => Object.fromEntries(
  Object.entries(now).map(([key, value]) => [key, value - (before[key] ?? 0)]));
const sum = values => values.reduce((total, value) => total + value, 0);

// What was counted from `before` to `now`, two documents of /status of one server's life.
export function between(before, now) {
  const earlier = new Map(before.variants.map(count => [count.variant, count]));
  const variants = new Map(now.variants.map(count => {
    const { variant, latency_buckets: buckets, ...numbers } = count;
    const { variant: _, latency_buckets: past = [], ...had } = earlier.get(variant) ?? {};
    return [variant, { ...minus(numbers, had), buckets: buckets.map((n, i) => n - (past[i] ?? 0)) }];
  }));
  const answered = [...variants].filter(([name]) => name !== NO_VARIANT).map(([, count]) => count);
  const answers = Object.entries(minus(now.answers, before.answers));
  const of = (from, to) => sum(answers.filter(([code]) => code >= from && code < to).map(([, n]) => n));
  const total = key => sum(answered.map(count => count[key]));
  const buckets = now.latency_bounds_seconds.concat(null).map(
    (_, i) => sum(answered.map(count => count.buckets[i])));
  const orders = total("approved") + total("reviewed");
  return {
    seconds: now.read_at - before.read_at,
    requests: sum(answers.map(([, n]) => n)),
    failed: of("500", "600"),
    rejected: of("400", "500"),
    orders,
    reviewed: total("reviewed"),
    degraded: minus(now.degraded, before.degraded),
    missing: sum(Object.values(minus(now.degraded, before.degraded))),
    p: q => quantile(buckets, now.latency_bounds_seconds, q),
    variants,
    mixed: variants.get(MIXED),
  };
}
