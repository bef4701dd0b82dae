// The model's files, from beside the page, each kept in the browser's cache under its hash.

const CACHE = "flux-edu";
const AGAIN = "Check the connection and load the page again.";

export class Files {
  // folder: its address; manifest.json in it says {name: {bytes, sha256}} of every file
  constructor(folder) {
    this.folder = folder;
  }
  async manifest() {
    const address = new URL("manifest.json", this.folder);
    this.listed ??= await (await request(address, { cache: "no-cache" })).json();
    return this.listed;
  }
  address(name, { sha256 }) {
    return new URL(`${name}?${sha256}`, this.folder).href;
  }
  // {name: ArrayBuffer}; progress({bytes, total}) comes with every piece
  async read(names, progress) {
    const manifest = await this.manifest();
    const cache = await this.open_cache();
    const total = names.reduce((sum, name) => sum + manifest[name].bytes, 0);
    let bytes = 0;
    const received = (piece) => progress({ bytes: (bytes += piece), total });
    const read_one = async (name) => {
      const address = this.address(name, manifest[name]);
      const kept = await cache?.match(address);
      const file = await whole(kept ?? (await request(address)), received);
      if (file.byteLength !== manifest[name].bytes) {
        throw new Error(`The file ${name} came incomplete. ${AGAIN}`);
      }
      // a full disk or a private window is no reason not to paint
      if (!kept) await cache?.put(address, new Response(file)).catch(() => {});
      return [name, file];
    };
    return Object.fromEntries(await Promise.all(names.map(read_one)));
  }
  async read_beside(address) {
    return (await request(address)).arrayBuffer();
  }
  // How many bytes of these files would have to be fetched.
  async missing(names) {
    const manifest = await this.manifest();
    const cache = await this.open_cache();
    const cost = async (name) => {
      return (await cache?.match(this.address(name, manifest[name]))) ? 0 : manifest[name].bytes;
    };
    return (await Promise.all(names.map(cost))).reduce((a, b) => a + b, 0);
  }
  // The cache, without what is no longer in the manifest; null where a page may have none.
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

async function request(address, options) {
  const name = new URL(address).pathname.split("/").pop();
  const response = await fetch(address, options).catch(() => {
    throw new Error(`The file ${name} could not be loaded. ${AGAIN}`);
  });
  if (!response.ok) throw new Error(`The file ${name} is not there (${response.status}). ${AGAIN}`);
  return response;
}

async function whole(response, received) {
  const count = new TransformStream({
    transform(piece, controller) {
      received(piece.length);
      controller.enqueue(piece);
    },
  });
  return new Response(response.body.pipeThrough(count)).arrayBuffer();
}
