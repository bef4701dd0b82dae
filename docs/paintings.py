"""Five paintings of the live map, with the numbers on their way: what stands there before any model is loaded.

Pictures are kept as WebP, numbers in 8 bits; `painted` keeps all of it in build/live_map until this file or the weights
change.
"""

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flux_edu.io.images import to_picture
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.patchify import get_noise, patchify, prepare, unpatchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import euler_step, guide, predict_x0, velocity_field
from flux_edu.teaching.labs.attention_maps import AttentionRecord, record_attention
from flux_edu.text import embed_empty

KEPT = Path(__file__).resolve().parents[1] / "build" / "live_map"
PAINTER, STEPS, SIZE = "tiny-schnell", 4, 128
PROMPTS = (
    ("a flat fox left of a strawberry on a white background", 0),
    ("a 3d astronaut on a purple background", 0),
    ("a noto rocket above a house on a black background", 0),
    ("a sticker tiger face on a green background", 0),
    ("a 3d dog face on a white background", 0),
)
MODELS = ("tiny-schnell", "tiny-dev", "tiny")
GUIDANCES = (1, 2, 3, 4, 5, 6)  # what tiny-dev was trained for: station 11 asks it there
PICTURES_AT = (0, 1, 3, 6)  # and paints with the one that takes two passes
GUIDED_STEPS = 8
CHANNELS_APART = 8  # of the modulations every eighth channel is kept


# ---------------------------------------------------------------- a painting's numbers


class Numbers:
    """Arrays as bytes, one after the other, and where each lies: value = low + (high − low) (byte / 255)^power."""

    def __init__(self):
        self.places, self.parts, self.length = {}, [], 0

    def add(self, name: str, x: Tensor, power: float = 1) -> None:
        low, high = float(x.min()), float(x.max())
        share = ((x.double() - low) / (high - low or 1)) ** (1 / power)
        data = (255 * share).round().to(torch.uint8).numpy().tobytes()
        self.places[name] = {"shape": list(x.shape), "at": self.length, "low": low, "high": high, "power": power}
        self.parts.append(data)
        self.length += len(data)

    def bytes(self) -> bytes:
        return b"".join(self.parts)


def shown_rows(record: AttentionRecord) -> int:
    """How many text rows are kept one by one: those of the prompt's pieces and the one of its end."""
    return max(max(tokens) for name, tokens in record.words if name != "(padding)") + 1


def gathered(A: Tensor, used: int, L_txt: int) -> Tensor:
    """Attention with all padding as one token: what is taken from it summed, what it takes as a mean."""
    columns = torch.cat([A[..., :used], A[..., used:L_txt].sum(-1, keepdim=True), A[..., L_txt:]], dim=-1)
    padding = columns[..., used:L_txt, :].mean(-2, keepdim=True)
    return torch.cat([columns[..., :used, :], padding, columns[..., L_txt:, :]], dim=-2)


def changes(record: AttentionRecord, generator: FluxGenerator) -> Tensor:
    """By how much each block changes text and image, "steps blocks 2": ‖after − before‖ / ‖before‖."""
    traced, L_txt = record.traced, record.L_txt
    states = [(traced["txt_in"], traced["img_in"])]
    for i in range(len(generator.model.double_blocks)):
        img, txt = traced[f"double_blocks.{i}"]
        states.append((txt, img))
    for i in range(len(generator.model.single_blocks)):
        x = traced[f"single_blocks.{i}"]
        states.append((x[:, :L_txt], x[:, L_txt:]))
    rows = [
        torch.stack([(b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in zip(*pair, strict=True)], 1)
        for pair in pairwise(states)
    ]
    return torch.stack(rows, dim=1)


def modulation_rows(generator: FluxGenerator) -> list[tuple[str, str, int]]:
    """(name shown, module, branch) of all modulations; each has three rows: shift, scale, gate."""
    model, rows = generator.model, []
    for i in range(len(model.double_blocks)):
        for stream in ("txt", "img"):
            rows += [(f"double {i} {stream} {k + 1}", f"double_blocks.{i}.{stream}_mod", k) for k in (0, 1)]
    return rows + [(f"single {i}", f"single_blocks.{i}.modulation", 0) for i in range(len(model.single_blocks))]


def modulations(record: AttentionRecord, generator: FluxGenerator) -> Tensor:
    """Shift, scale and gate of every one of `modulation_rows`, "steps rows 3 channels"."""
    outs = [record.traced[module][branch] for _, module, branch in modulation_rows(generator)]
    return torch.stack([torch.cat([out.shift, out.scale, out.gate], dim=1) for out in outs], dim=1)


def norms(record: AttentionRecord, generator: FluxGenerator) -> Tensor:
    """Lengths of the first head's q and k before and after the norm, "steps blocks (q, k) (before, after) tokens"."""
    model, D, blocks = generator.model, generator.spec.params.hidden_size, []
    K = D // model.params.num_heads
    for i in range(len(model.double_blocks)):
        streams = []
        for stream in ("txt", "img"):
            name = f"double_blocks.{i}.{stream}_attn"
            qkv = record.traced[f"{name}.qkv"]
            after = record.traced[f"{name}.norm"]
            pair = [[qkv[..., c * D : c * D + K], after[c][:, 0]] for c in (0, 1)]
            streams.append(torch.stack([torch.stack([x.norm(dim=-1) for x in two], 1) for two in pair], 1))
        blocks.append(torch.cat(streams, dim=-1))
    return torch.stack(blocks, dim=1)


def guidance_plane(tiny: FluxGenerator, dev: FluxGenerator, prompt: str, t: float, x: Tensor) -> dict:
    """Where tiny-dev's v lies for w = 1 … 6 in the plane of v_∅ and v_c, in units of ‖v_c − v_∅‖.

    The first axis runs from v_∅ to v_c, so v_w lies at (w, 0) by Eq. (6.4); the second is what of v_∅ lies across it.
    `off` is the whole distance of tiny-dev from v_w, not only in this plane.
    """
    inputs = [prepare(generator.t5, generator.clip, torch.zeros(1, 16, 16, 16), prompt) for generator in (tiny, dev)]
    txt, vec = embed_empty(tiny.t5, tiny.clip)
    v_none = velocity_field(tiny.model, inputs[0] | {"txt": txt, "vec": vec})(x, t).flatten()
    v_text = velocity_field(tiny.model, inputs[0])(x, t).flatten()
    unit = (v_text - v_none).norm()
    along = (v_text - v_none) / unit
    across = v_none - (v_none @ along) * along
    across = across / across.norm()
    places, off = [], []
    for w in GUIDANCES:
        v = velocity_field(dev.model, inputs[1], float(w))(x, t).flatten()
        places.append([round(float((v - v_none) @ axis / unit), 4) for axis in (along, across)])
        off.append(round(float((v - guide(v_none, v_text, w)).norm() / unit), 4))
    return {"t": t, "unit": round(float(unit / v_none.norm()), 4), "dev": places, "off": off}


def guidance_planes(tiny: FluxGenerator, dev: FluxGenerator, prompt: str, seed: int) -> tuple[list[dict], Image.Image]:
    """Station 11: four levels of a walk of tiny, and its pictures at w = 0, 1, 3, 6 side by side."""
    pictures, states = [], []
    for w in PICTURES_AT:
        states.append([])
        keep = states[-1].append
        picture = tiny.generate_image(
            *(SIZE, SIZE, GUIDED_STEPS, w, seed, prompt), callback=lambda i, t, x, v, keep=keep: keep((t, x.clone()))
        )
        pictures.append(picture)
    walk = states[PICTURES_AT.index(3)][:: GUIDED_STEPS // 4][:4]
    return [guidance_plane(tiny, dev, prompt, t, x) for t, x in walk], side_by_side([pictures])


# ---------------------------------------------------------------- the five paintings


def side_by_side(rows: list[list[Image.Image]], size: int = 96) -> Image.Image:
    sheet = Image.new("RGB", (size * len(rows[0]), size * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture.resize((size, size), Image.Resampling.LANCZOS), (size * x, size * y))
    return sheet


def decoded(generator: FluxGenerator, tokens: Tensor) -> list[Image.Image]:
    return [to_picture(x) for x in generator.ae.decode(unpatchify(tokens, SIZE, SIZE))]


@torch.no_grad()
def paint(generator: FluxGenerator, prompt: str, seed: int, folder: Path) -> tuple[dict, Tensor, Image.Image]:
    """One painting's files in folder; what stands in painted.json of it, its last latent and its picture."""
    record = record_attention(generator, prompt, seed, STEPS)
    traced, used = record.traced, shown_rows(record)
    levels = [*record.timesteps, 0.0]
    x = patchify(get_noise(1, SIZE, SIZE, "cpu", torch.float32, seed))
    states = []
    for v, (t, t_next) in zip(traced["final_layer"].split(1), pairwise(levels), strict=True):
        states.append((x, predict_x0(x, v, t)))
        x = euler_step(x, v, t, t_next)
    strip = [decoded(generator, torch.cat(row)) for row in zip(*states, strict=True)]
    side_by_side(strip).save(folder / "strip.webp", quality=70)
    record.picture.save(folder / "picture.webp", quality=90)
    A = gathered(record.attention[:, : len(generator.model.double_blocks)].mean(2), used, record.L_txt)
    kept = [used, *range(record.L_txt, record.L_txt + record.grid[0] * record.grid[1])]
    root = (A / A.max()).sqrt()
    levels_of_grey = (255 * root).round().to(torch.uint8).flatten(0, 2).numpy()
    Image.fromarray(levels_of_grey).save(folder / "attention.webp", quality=80)
    numbers = Numbers()
    numbers.add("velocity", traced["final_layer"])
    numbers.add("modulation", modulations(record, generator)[..., ::CHANNELS_APART])
    numbers.add("lengths", norms(record, generator)[..., [*range(used), *kept]])
    ready = prepare(generator.t5, generator.clip, torch.zeros(1, 16, 16, 16), prompt)
    numbers.add("txt", ready["txt"][0, : used + 1, ::4])
    numbers.add("y", ready["vec"][0, ::4])
    (folder / "numbers.bin").write_bytes(numbers.bytes())
    ids = generator.t5.tokenizer(prompt)["input_ids"][:used]
    return (
        {
            "prompt": prompt,
            "seed": seed,
            "levels": levels,
            "ids": ids,
            "pieces": generator.t5.tokenizer.convert_ids_to_tokens(ids),
            "words": [[name, tokens] for name, tokens in record.words],
            "attention": {"shape": list(A.shape), "most": float(A.max())},
            "change": [[[round(n, 5) for n in pair] for pair in step] for step in changes(record, generator).tolist()],
            "numbers": numbers.places,
        },
        x,
        record.picture,
    )


def preview_matrix(latents: list[Tensor], pictures: list[Image.Image]) -> list[list[float]]:
    """17 × 3 numbers, by least squares: a latent's 16 channels and a 1 → the mean colour of 8 × 8 pixels."""
    inputs = torch.cat([unpatchify(x, SIZE, SIZE)[0].flatten(1).T for x in latents])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    small = [picture.resize((SIZE // 8, SIZE // 8), Image.Resampling.BOX) for picture in pictures]
    colours = torch.cat([torch.from_numpy(np.asarray(picture).copy()).reshape(-1, 3) for picture in small]).float()
    return torch.linalg.lstsq(inputs, colours).solution.tolist()


def painted() -> Path:
    """The folder of the five paintings, painted when this file or the weights have changed."""
    sources = [Path(__file__), *sorted(Path(str(TINY_FOLDER)).glob("*.safetensors"))]
    key = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()[:16]
    folder = KEPT / key
    if (folder / "painted.json").exists():
        return folder
    shutil.rmtree(KEPT, ignore_errors=True)
    generators = {name: FluxGenerator(name, "cpu") for name in MODELS}
    paintings, latents, pictures = [], [], []
    for number, (prompt, seed) in enumerate(PROMPTS):
        place = folder / str(number)
        place.mkdir(parents=True)
        painting, latent, picture = paint(generators[PAINTER], prompt, seed, place)
        planes, sheet = guidance_planes(generators["tiny"], generators["tiny-dev"], prompt, seed)
        sheet.save(place / "guidance.webp", quality=70)
        paintings.append(painting | {"guidance": planes})
        latents.append(latent)
        pictures.append(picture)
    rows = [name for name, _, _ in modulation_rows(generators[PAINTER])]
    shared = {"model": PAINTER, "size": SIZE, "channelsApart": CHANNELS_APART, "rows": rows}
    shared |= {"picturesAt": PICTURES_AT, "guidances": GUIDANCES, "preview": preview_matrix(latents, pictures)}
    text = json.dumps(shared | {"paintings": paintings}, ensure_ascii=False, separators=(",", ":"))
    (folder / "painted.json").write_text(text, encoding="utf-8")
    return folder
