// Every text of the live map, in one place. {names} in braces are filled in; nothing here is HTML.

export const page = {
  load: "Load the model, {mb} MB, once",
  loadKept: "Start the model, which this browser keeps",
  loading: "Loading: {done} of {mb} MB",
  preparing: "Preparing the weights …",
  ready: "The model is here, and this browser keeps it. Write a prompt and paint.",
  paintedBefore:
    "Painted when this book was built, by {model} in {steps} steps. Everything on this page moves; your own prompt needs the model.",
  needsModel:
    "Your own prompt needs the model. “Load the model” fetches {mb} MB, once; then paint.",
  painting: "Painting: step {step} of {steps} …",
  painted: "{model}, {steps} steps, seed {seed}: {ms} ms.",
  saved: "The picture was saved as {name}.",
  canvas: "The picture painted from “{prompt}”",
  step: "Step",
  stripStep: "Step {step} of {steps}, t = {t}",
  double: "double {n}",
  single: "single {n}",
  doubleBlock: "double block {n}",
  singleBlock: "single block {n}",
  noisy: "x_t, what goes in",
  clean: "x̂₀, what it has in mind",
  play: "Play",
  pause: "Stop",
  station: "{n} of {of}: {title}",
  beside: "Other equations of this place ({n})",
  section: "section",
  function: "function",
  test: "test",
  sentAway: "needs the model",
  steps: { one: "1 step", many: "{n} steps" },
};

export const drawing = {
  title: "The network, from prompt and noise to picture. Every box leads to what passes there.",
  noGuidance: "none (schnell)",
  boxes: {
    schedule: { short: "noise level", long: "Noise level t: when is most of the work done?" },
    guidance: { short: "guidance", long: "Guidance w: how does a model listen harder?" },
    prompt: { short: "prompt", long: "Prompt: what does the network read of it?" },
    noise: { short: "noise ε", long: "Noise: what is a token?" },
    clip: { short: "CLIP → y", long: "CLIP: one row for the whole prompt" },
    t5: { short: "T5 → txt", long: "T5: a row for each piece of the prompt" },
    tokens: { short: "tokens x_t", long: "Tokens: a row for each patch of the latent" },
    rope: { short: "places", long: "Places: how does a token know where it is?" },
    vec: { short: "vec", long: "The vector: how does every block know the noise level?" },
    double0: { short: "double 1", long: "First double block: who looks at whom?" },
    double1: { short: "double 2", long: "Second double block: who looks at whom?" },
    double2: { short: "double 3", long: "Third double block: who looks at whom?" },
    single0: { short: "single 1", long: "First single block: what does one stream change?" },
    single1: { short: "single 2", long: "Second single block: what does one stream change?" },
    single2: { short: "single 3", long: "Third single block: what does one stream change?" },
    single3: { short: "single 4", long: "Fourth single block: what does one stream change?" },
    single4: { short: "single 5", long: "Fifth single block: what does one stream change?" },
    single5: { short: "single 6", long: "Sixth single block: what does one stream change?" },
    last: { short: "velocity v", long: "Last layer: the velocity, the network’s answer" },
    answer: { short: "x̂₀ = x − t v", long: "The picture that the network has in mind" },
    euler: { short: "Euler step", long: "Euler step: walk against the velocity" },
    decoder: { short: "decoder", long: "Decoder: from latent to pixels" },
    picture: { short: "picture", long: "The picture, and how it came" },
  },
};

/** Title, at most 60 words, and the words of each station’s picture. */
export const stations = [
  {
    title: "When does it know what it paints?",
    text: "At every step the network answers for the whole picture. schnell has learned to jump: its first answer, from nothing but noise, already shows what will be there, and three steps mend it. The undistilled tiny begins with a blurred mean of all that could come. Left is what goes in, right the answer.",
    picture:
      "At step {step}, t = {t}, the input still lies {noisy} from the final latent, the answer {clean} (root mean square, noise has 1).",
    axis: ["step", "distance to x₀"],
  },
  {
    title: "What does the network read of a prompt?",
    text: "A tokenizer cuts the prompt into pieces, each with a number. T5 makes of every piece a row, and each row has read the others. CLIP makes one row of the whole sentence. The blocks read T5’s rows; CLIP’s row goes into the vector that steers them.",
    picture:
      "The prompt has {pieces} pieces and its end; {padding} rows of padding follow. “{word}” is id {ids}. Its rows of T5 are marked; every fourth number is drawn:",
    rows: "T5’s rows (colours: −, 0, +)",
    clip: "CLIP’s one row",
    replace: "Put another word in place of “{word}”",
    compare: "Compare",
    changed: "By how much each row of T5 changes; CLIP’s row changes by {y}.",
  },
  {
    title: "What is a token of a picture?",
    text: "The noise has 16 planes at an eighth of the picture’s size. A token is a 2 × 2 patch of all 16: 64 numbers, read plane by plane. What it does not hold is its place; that stands apart, in its id. Move the patch.",
    picture:
      "The patch in row {row}, column {column}: id (0, {row}, {column}). Its first plane holds {numbers}.",
    planes: "16 planes of the latent, the patch framed",
    token: "the token: 16 × (2 × 2) numbers",
    cells: "Patch",
  },
  {
    title: "When is most of the work done?",
    text: "A schedule says at which noise levels the network is asked. A larger picture shows through the same noise more easily, so its levels are shifted: more steps at high noise. The shift depends on the number of tokens alone. schnell has learned evenly spaced levels.",
    picture:
      "{size} × {size} pixels are {tokens} tokens: μ = {mu}. {high} of {steps} steps begin above t = 0.5; evenly spaced it would be {even}.",
    steps: "Number of steps N",
    size: "Pixels on a side",
    even: "evenly spaced",
    shifted: "shifted",
  },
  {
    title: "How does every block know how noisy it is?",
    text: "The noise level and CLIP’s row become one vector. Each block makes its own shift, scale and gate of it, a number for each channel and the same for all tokens. Move the step and see which blocks are told something else.",
    picture:
      "{block}, t = {t}: the scale has size {scale}, the gate {gate} (root mean square over channels).",
    rows: ["shift", "scale", "gate"],
    branches: {
      txt: ["text, for attention", "text, for the MLP"],
      img: ["picture, for attention", "picture, for the MLP"],
    },
    block: "Block",
  },
  {
    title: "Why do queries and keys get a norm?",
    text: "Queries and keys come out of their matrices in very different lengths, from token to token. A long query would shout: its attention would fall on one token alone. The norm gives all of them nearly the same length before they meet.",
    picture:
      "First head of {block}. Before the norm the queries’ lengths lie between {low} and {high}, after it between {lowAfter} and {highAfter}.",
    norms: "{name}: before the norm (pale), after",
    names: ["queries q", "keys k"],
  },
  {
    title: "How does a token know where it is?",
    text: "A place turns queries and keys: each pair of channels is an arrow, and the row or column says how far it turns. Move both tokens together: both arrows turn, the angle between them stays. So only the difference of places counts.",
    picture:
      "Pair {pair} turns {degrees}° a place. Between q at {i} and k at {j}: {angle}°; their product is {score}.",
    i: "Place of the query",
    j: "Place of the key",
    both: "Move both",
    pair: "Pair of channels",
  },
  {
    title: "Who looks at whom?",
    text: "Text and picture tokens meet in one attention. Everybody may look at everybody; nothing is masked. Above: where the picture reads the chosen word, block by block. Below: what the chosen patch looks at. Choose another word, patch or step. With the model loaded, paint again with nobody looking at that word.",
    picture:
      "In {block} the picture takes {share} of what it reads from “{word}”; patch ({row}, {column}) takes {text} from text and {image} from the picture.",
    reads: "where the picture reads “{word}”",
    looks: "where patch ({row}, {column}) looks",
    quadrants: "who takes how much from whom",
    off: "Paint with nobody looking at “{word}”",
    without: "nobody looks at “{word}”; T5 and CLIP have read it",
    text_: "text",
    image: "picture",
    block: "Block",
    head: "Head",
    mean: "mean of all heads",
    word: "Word",
    cells: "Patch",
  },
  {
    title: "How much does a block change?",
    text: "What attention and MLP have found is multiplied by a gate, a number for each channel, and added. The bars show how much each double block changes text and picture. The first rewrites the picture most, the last the text. With the model loaded, leave one out and paint again.",
    picture:
      "At t = {t}, block {block} changes the text by {text} of its size and the picture by {image}.",
    off: "Paint without {n}",
    without: "without {n}",
    names: ["text", "picture"],
  },
  {
    title: "What is different in a single block?",
    text: "From here on text and picture share their weights, and attention and MLP stand side by side instead of one after the other. The text is still changed, and dropped only after the last block. The last one does most for the picture.",
    picture:
      "At t = {t}, single block {block} changes the text by {text} of its size and the picture by {image}.",
  },
  {
    title: "What does the network answer?",
    text: "It answers with a velocity: the direction from picture to noise. Walking against it, all the way, leads to the picture it has in mind; we go a part of the way and ask again. The plane shows the walk from noise to picture, seen from the side.",
    picture:
      "At t = {t} the velocity has size {v}. The answer lies {far} from where the walk ends, {across} of it across the straight path.",
    axes: ["along the straight path", "across"],
    noise: "noise",
    end: "picture",
    mind: "x̂₀",
  },
  {
    title: "How can a model listen harder?",
    text: "Ask twice, without the prompt and with it. The difference is what the prompt adds; guidance goes w times as far along it. tiny-dev was trained to give that answer in one pass when it is told w: at high noise its dots follow the line, later they fall behind.",
    picture:
      "“{prompt}”, t = {t}, w = {w}: v_w lies {w} times the prompt’s difference from v_∅. What tiny-dev says went {along} along and lies {off} away from v_w in all.",
    own: "Draw this for “{prompt}” (by tiny and tiny-dev, 3 MB more)",
    axis: "along v_c − v_∅",
    w: "w of the arrows",
    pictures: "tiny at w = {list}, same seed",
    none: "v_∅",
    prompted: "v_c",
    guided: "v_w",
    dev: "tiny-dev",
  },
  {
    title: "Where do the pixels come from?",
    text: "All that you have seen happened on 16 planes at an eighth of the picture’s size. A decoder makes pixels of them. Beside it, a mere table of 51 numbers does the same for each place alone: colours, but no edges. Switch a plane off.",
    picture:
      "Between the table’s picture and the decoder’s the peak signal-to-noise ratio is {db} dB. {off}",
    allOn: "All 16 planes are on.",
    someOff: "Off: plane {list}.",
    planes: "Planes of the latent",
    table: "51 numbers",
    decoder: "decoder",
  },
  {
    title: "What is not shown here?",
    text: "The equations are FLUX.1’s own, and its published weights load into the same functions. The size is not: this model has learned small drawings and 1,720 English words. How FLUX.1 was trained, and on what, its makers have not published; notebook 09 says what is known.",
    rows: [
      ["size", "here", "FLUX.1"],
      ["numbers", "21 million", "12 billion"],
      ["blocks", "3 + 6", "19 + 38"],
      ["width, heads", "320, 5", "3,072, 24"],
      ["text tokens", "32", "512"],
      ["tokens of the largest picture here, of 1 megapixel", "256", "4,096"],
      ["English words it knows", "1,720", "those of the web"],
    ],
  },
];

/** A text with its {names} filled in. */
export function fill(text, values = {}) {
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? values[name] : all));
}
