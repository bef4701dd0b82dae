// The fourteen stations: which equations stand there, which boxes are lit, and who draws the picture.
// A drawer builds a station's elements once and returns update(view), which returns the numbers shown.

import { blocks, guidance, more, pixels, answer, single, attention } from "./stations_inside.js";
import { places, schedule, strip, streams, tokens, vector, words } from "./stations_before.js";

export const STATIONS = [
  { build: strip, equations: ["6.1"], lit: ["picture", "answer"] },
  { build: words, equations: ["7.1", "7.2"], lit: ["prompt", "t5", "clip"] },
  { build: tokens, equations: ["2.2", "2.1", "2.3", "2.4"], lit: ["noise", "tokens"] },
  { build: schedule, equations: ["1.5", "1.2", "1.3", "1.4"], lit: ["schedule"] },
  { build: vector, equations: ["4.4", "4.1", "4.2", "4.3"], lit: ["vec", "schedule", "clip"] },
  { build: streams, equations: ["4.7", "4.5", "4.6"], lit: ["double0", "double1", "double2"] },
  { build: places, equations: ["3.5", "3.1", "3.2", "3.3", "3.4"], lit: ["rope"] },
  { build: attention, equations: ["4.9", "4.8", "4.10"], lit: [] },
  { build: blocks, equations: ["4.11", "4.12"], lit: ["double0", "double1", "double2"] },
  { build: single, equations: ["5.4", "5.1", "5.2", "5.3"], lit: [] },
  { build: answer, equations: ["6.2", "6.1", "5.5"], lit: ["last", "answer", "euler"] },
  { build: guidance, equations: ["6.4", "10.1"], lit: ["guidance"] },
  { build: pixels, equations: ["8.2"], lit: ["decoder", "picture"] },
  { build: more, equations: [], lit: [] },
];
