// What passes inside, for those who ask: every stage says its name and shows its numbers.

let names = null; // a Set of names, "all", or null: nobody asks
let seen = {};

// x is a Tensor or a FeatureMap; its numbers are copied only if somebody asks for that name.
export function show(name, x) {
  if (names === null) return x;
  const shape = x.channels ? [x.channels, x.h, x.w] : [x.rows, x.cols];
  if (names === "all") seen[name] = { shape };
  else if (names.has(name)) seen[name] = { shape, numbers: x.numbers() };
  return x;
}

// {name: {shape, numbers}} of the wanted names while `work` runs; without names, every name's shape
export function observe(wanted, work) {
  [names, seen] = [wanted ? new Set(wanted) : "all", {}];
  try {
    work();
    return seen;
  } finally {
    names = null;
  }
}
