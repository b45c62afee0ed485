// Bytes, counts and rates as text. Pure.

const STEPS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Return bytes with a binary unit, to three digits: "72.0 MiB". */
export function formatBytes(bytes) {
  let value = bytes;
  let step = 0;
  while (value >= 1024 && step < STEPS.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${step === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${STEPS[step]}`;
}

/** Return a count with its thousands apart: "4,096". */
export function formatCount(count) {
  return Math.round(count).toLocaleString("en-US");
}

/** Return tokens a second, as exact as it matters. */
export function formatRate(rate) {
  return `${rate >= 100 ? formatCount(rate) : rate.toFixed(1)} tok/s`;
}
