// The model's files, from beside the page, each kept in the browser's cache under its hash.

const CACHE = "flux-edu";

export class Files {
  // folder: its address; in it manifest.json says {name: {bytes, sha256}} of every file
  constructor(folder) {
    this.folder = folder;
  }
  async manifest() {
    this.listed ??= await (await request(new URL("manifest.json", this.folder), "no-cache")).json();
    return this.listed;
  }
  address(name, { sha256 }) {
    return new URL(`${name}?${sha256}`, this.folder).href;
  }
  // {name: ArrayBuffer}; received(name, bytes so far, bytes in all) is told of every piece
  async read(names, received) {
    const manifest = await this.manifest(), cache = await this.open_cache();
    const one = async (name) => {
      const address = this.address(name, manifest[name]);
      let response = await cache?.match(address);
      if (!response) {
        response = await request(address);
        // a full disk or a private window is no reason not to paint
        await cache?.put(address, response.clone()).catch(() => {});
      }
      return [name, await whole(response, (n) => received(name, n, manifest[name].bytes))];
    };
    return Object.fromEntries(await Promise.all(names.map(one)));
  }
  // The cache without what is no longer in the manifest; null where a page may have none.
  async open_cache() {
    const cache = await globalThis.caches?.open(CACHE).catch(() => null);
    if (!cache) return null;
    const current = Object.entries(await this.manifest()).map((file) => this.address(...file));
    for (const { url } of await cache.keys()) {
      if (url.startsWith(this.folder) && !current.includes(url)) await cache.delete(url);
    }
    return cache;
  }
}

async function request(address, cache = "default") {
  const name = new URL(address).pathname.split("/").pop();
  const again = "Check the connection and load the page again.";
  const response = await fetch(address, { cache }).catch(() => {
    throw new Error(`The file ${name} could not be loaded. ${again}`);
  });
  if (!response.ok) throw new Error(`The file ${name} is missing here (${response.status}). ${again}`);
  return response;
}

async function whole(response, received) {
  const pieces = [], reader = response.body.getReader();
  let length = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    length += piece.value.length;
    received(length);
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all.buffer;
}
