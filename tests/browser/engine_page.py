"""The page in which the engine's tests run: what it loads, and what goes in and comes out."""

import base64
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from engine_files import copy_engine

HELPERS = """import { Engine, configs } from "./engine/engine.js";
const base64 = (bytes) => {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
};
const numbers = (x) => base64(new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
Object.assign(window, { Engine, configs, numbers, bytes, ready: true });
"""


def write_site(folder: Path) -> Path:
    copy_engine(folder)
    (folder / "helpers.js").write_text(HELPERS, "utf-8")
    (folder / "index.html").write_text('<!doctype html><script type="module" src="helpers.js"></script>', "utf-8")
    return folder


def open_page(browser, address):
    page = browser.new_context().new_page()
    page.goto(address)
    page.wait_for_function("() => window.ready")
    page.evaluate("() => { window.engine = new Engine({ weights: 'weights/' }); }")
    return page


def floats(text):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())


def encoded(picture):
    """A picture as the page's `bytes` reads it."""
    return base64.b64encode(np.array(picture.convert("RGBA")).tobytes()).decode()


PAINT = """async ([options, relaxed]) => {
  const painter = relaxed ? engine : (window.plain ??= new Engine({ weights: "weights/", relaxed: false }));
  for (const name of ["picture", "mask", "edges", "init_image"]) {
    if (options[name]) {
      options[name] = { data: bytes(options[name]), width: options.width, height: options.height };
    }
  }
  return numbers((await painter.paint(options)).data);
}"""


def paint(page, relaxed=True, **options):
    """The page's picture, as numpy has it: rows, columns, colours."""
    pixels = np.frombuffer(base64.b64decode(page.evaluate(PAINT, [options, relaxed])), np.uint8)
    return pixels.reshape(options["height"], options["width"], 4)[..., :3]


def encode_exactly(generator, monkeypatch):
    """Of flat outlines of 256² pixels float32's group norm puts PyTorch's latent 4e-5 off, the engine's is 4e-7."""
    exact = deepcopy(generator.ae).double()
    monkeypatch.setattr(generator.ae, "encode", lambda x: exact.encode(x.double()).float())
