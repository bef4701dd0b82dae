"""Measure the tiny tools on held-out combinations: `python docs/make/evaluate_tools.py`.

Every edit has a true picture, painted from the same drawings, and three questions are asked of what the tool has made
of it. Is it done, by the judge of `evaluate`, which also sees where things stand? Is what should stay the same as good
as the autoencoder alone would have left it? And, of outlines, do they agree? Of edits by instruction the judge also
looks at the true pictures, to show how far it can be trusted there.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from evaluate import prompt_scenes
from jaxtyping import Bool, Float
from nearest_drawing import NearestDrawing
from reports import wilson
from torch import Tensor

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs
from flux_edu.io import lora
from flux_edu.io.checkpoint import read
from flux_edu.io.device import autocast
from flux_edu.io.images import picture_grid
from flux_edu.io.tiny import TINY_FOLDER
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, patchify, unpatchify
from flux_edu.tools import control_cond, fill_cond, hide, make_ref_ids
from flux_edu.train.autoencoder import encode, load_ae, round_trip
from flux_edu.train.data import COLOURS, SIZE, STYLES, Drawings, Scenes, captions, load_drawings, render
from flux_edu.train.distillation import sample, schedule
from flux_edu.train.edits import (
    BACKGROUND,
    KINDS,
    REMOVE,
    STYLE,
    SWAP,
    Edits,
    draw_edits,
    draw_masks,
    draw_variations,
    drawing_table,
    edge_agreement,
    instructions,
    opacity,
    outlines,
    render_edits,
    resolve_pronoun,
    wishes,
)
from flux_edu.train.judge_model import FIRST_VIEW, ZeroShotClassifier, load_classifier, verdict, views
from flux_edu.train.metrics import psnr_where
from flux_edu.train.objectives import Text
from flux_edu.train.text_to_velocity import TextEncoders
from flux_edu.train.trainer import save_report

TOOLS = ("fill", "canny", "kontext", "redux")
GUIDANCES = (1.0, 2.0, 3.0)
THRESHOLD = 200.0  # of the outlines that are measured; a quarter of it is the lower one


@torch.inference_mode()
def paint_with(
    name: str,
    flux: Flux,
    ae: AutoEncoder,
    text: Text,
    empty: Text,
    cond: Float[Tensor, "B ..."],
    guidance: float,
    steps: int = 28,
    seed: int = 0,
) -> Float[Tensor, "B 3 128 128"]:
    """One picture for each text and its condition, each from its own noise, in 8 bits as they would be saved."""
    device, n = cond.device, len(cond)
    noise, timesteps = get_noise(n, SIZE, SIZE, "cpu", torch.float32, seed), schedule(configs[f"tiny-{name}"], steps)
    painted = []
    for i in range(0, n, 256):
        rows = slice(i, i + 256)
        (txt, vec), picture, uncond = (part[rows] for part in text), cond[rows], empty
        img_cond, img_cond_seq = None, None
        if name == "kontext":
            img_cond_seq = picture, make_ref_ids(len(picture), SIZE // 16, SIZE // 16).to(device)
        elif name == "redux":
            txt, uncond = flux.redux(txt, picture), (flux.redux(empty[0], torch.zeros_like(picture[:1])), empty[1])
        else:
            img_cond = picture
        with autocast(device):
            conditions = uncond, img_cond, img_cond_seq
            x = sample(flux, noise[rows].to(device), (txt, vec), timesteps, guidance, *conditions)
            pictures = ae.decode(unpatchify(x, SIZE, SIZE)).float()
        painted.append(((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)
    return torch.cat(painted)


# ---------------------------------------------------------------- what should have come of an edit


def should_stay(drawings: Drawings, edits: Edits) -> Bool[Tensor, "n 1 H W"]:
    """The pixels that an edit has no business with.

    Another background: the things. Another style, or one thing gone: what is background before and after, and in the
    latter case the other thing too. Swapped: everything has its exact place in the picture after, so all of it.
    """
    before, after = opacity(drawings, edits.before), opacity(drawings, edits.after, edits.shown)
    kind = torch.from_numpy(edits.kind).to(before.device)[:, None, None, None]
    things, ground = after > 0.99, (before < 0.01) & (after < 0.01)
    stay = torch.where(kind == BACKGROUND, things, ground)
    return torch.where(kind == REMOVE, ground | things, torch.where(kind == SWAP, torch.ones_like(stay), stay))


def edit_verdict(
    classifier: ZeroShotClassifier, pictures: Float[Tensor, "n 3 H W"], edits: Edits
) -> dict[str, Bool[np.ndarray, "n"]]:
    """What is right in each picture, as `judge.verdict` says it of the scene that shall come of the edit.

    Where a thing is to be gone, its half must be plain: less than one pixel in a hundred unlike the background. The
    other thing is judged where it stands.
    """
    right = verdict(classifier, pictures, edits.after)
    rows = np.flatnonzero(edits.kind == REMOVE)
    if len(rows):
        kept = (~edits.shown[rows, 0]).astype(int)  # which of the two is left
        first, asked = FIRST_VIEW[edits.after.layout[rows]], edits.after.drawing[rows, kept]
        crops, at = views(pictures[torch.from_numpy(rows).to(pictures.device)]), np.arange(len(rows))
        concept, style = classifier.answers(classifier.similarity(crops[at, first + kept]))
        drawing = torch.from_numpy(asked).to(pictures.device)
        ground = torch.tensor(list(COLOURS.values()), device=pictures.device)[edits.after.colour[rows]] / 127.5 - 1
        unlike = (crops[at, first + 1 - kept] - ground[:, :, None, None]).abs().amax(dim=1) > 0.2
        right["object"][rows] = classifier.accepted[drawing, concept].cpu().numpy()
        right["style"][rows] = (classifier.style[drawing] == style).cpu().numpy()
        right["position"][rows] = (unlike.float().mean(dim=(1, 2)) < 0.01).cpu().numpy()
        right["all"] = right["object"] & right["style"] & right["colour"] & right["position"]
    return right


# ---------------------------------------------------------------- numbers


def shares(right: dict[str, np.ndarray], keys: tuple[str, ...]) -> dict[str, list[float]]:
    """Share right with its 95 % interval."""
    counts = {key: (int(right[key].sum()), len(right[key])) for key in keys}
    return {key: [round(x, 4) for x in (count / n, *wilson(count, n))] for key, (count, n) in counts.items()}


def kept(painted: Tensor, true: Tensor, ae: AutoEncoder, where: Tensor) -> dict[str, float]:
    """How well stays what should, beside what the autoencoder alone does to it."""
    return {
        "stays_db": round(psnr_where(painted, true, where), 2),
        "autoencoder_db": round(psnr_where(round_trip(ae, true, exact=False), true, where), 2),
    }


def in_another_style(drawings: Drawings, scenes: Scenes, seed: int) -> tuple[Scenes, np.ndarray]:
    """The same scenes drawn in another style, where there is such a drawing; and which rows those are."""
    rng, table = np.random.default_rng(seed), drawing_table(drawings)
    style = (drawings.style[scenes.drawing[:, :1]] + rng.integers(1, len(STYLES), (len(scenes), 1))) % len(STYLES)
    drawing = table[style, drawings.concept[scenes.drawing]]
    rows = np.flatnonzero((drawing >= 0).all(axis=1))
    return Scenes(scenes.layout[rows], drawing[rows], scenes.place[rows], scenes.colour[rows]), rows


SEEN = ("object", "style", "colour", "position", "all")


class Measure:
    """What all four measures need, and a method for each tool."""

    def __init__(
        self, name: str, flux: Flux, texts: TextEncoders, ae: AutoEncoder, drawings: Drawings, out: Path, n: int
    ):
        self.flux, self.texts, self.ae, self.drawings = flux, texts, ae, drawings
        self.out, self.n, self.name = out, n, name
        self.classifier = load_classifier(device=drawings.pixels.device)
        self.strict, self.empty = NearestDrawing(drawings), texts.read([""])

    def paint(self, texts: list[str], cond: Tensor, guidance: float, steps: int = 28) -> Tensor:
        return paint_with(self.name, self.flux, self.ae, self.texts.read(texts), self.empty, cond, guidance, steps)

    def sheet(self, file: str, *columns: Tensor, n: int = 24) -> None:
        """Rows of pictures side by side: what went in, what came out, what is true."""
        rows = torch.stack([column[:n] for column in columns], dim=1)
        picture_grid(rows.flatten(0, 1), 4 * len(columns)).save(self.out / f"{file}.png")

    def fill(self, guidance: float) -> dict:
        scenes = prompt_scenes(self.drawings, self.n, seed=4000)
        texts = captions(self.drawings, scenes, 0, chinese=0, complete=True)
        pictures, masks = render(self.drawings, scenes), draw_masks(scenes, 5, measured=True)
        masks = masks.to(pictures.device)
        painted = self.paint(texts, fill_cond(encode(self.ae, hide(pictures, masks)), masks), guidance)
        right = verdict(self.classifier, painted, scenes) | self.strict.verdict(painted, scenes)
        self.sheet(f"fill_w{guidance:g}", hide(pictures, masks), painted, pictures)
        (self.out / "fill.txt").write_text("\n".join(texts[:24]), "utf-8")
        return shares(right, (*SEEN, "strict object")) | kept(painted, pictures, self.ae, masks < 0.5)

    def canny(self, guidance: float) -> dict:
        scenes = prompt_scenes(self.drawings, self.n, seed=4000)
        other, rows = in_another_style(self.drawings, scenes, seed=6)
        pictures = render(self.drawings, scenes)
        high = np.full(self.n, THRESHOLD)
        edges = outlines(pictures, high)
        cond = control_cond(encode(self.ae, edges))
        back = edge_agreement(outlines(round_trip(self.ae, pictures, exact=False), high), edges)
        report: dict = {"f1 of the autoencoder": round(float(back.mean()), 4)}
        for key, scene, at in (("own style", scenes, np.arange(self.n)), ("another style", other, rows)):
            where = torch.from_numpy(at).to(cond.device)
            painted = self.paint(captions(self.drawings, scene, 0, chinese=0, complete=True), cond[where], guidance)
            f1 = edge_agreement(outlines(painted, high[at]), edges[where])
            right = verdict(self.classifier, painted, scene) | self.strict.verdict(painted, scene)
            report[key] = shares(right, (*SEEN, "strict object")) | {"f1": round(float(f1.mean()), 4), "n": len(at)}
            self.sheet(f"canny_{key.split()[0]}_w{guidance:g}", edges[where], painted, render(self.drawings, scene))
        return report

    def kontext(self, guidance: float) -> dict:
        report = {}
        asked = [(what, kind, 0.0) for kind, what in enumerate(KINDS)] + [("style, by name", STYLE, 1.0)]
        for what, kind, named in asked:
            edits = draw_edits(self.drawings, self.n, seed=4000 + kind, kinds=(kind,), unseen=True)
            before, after = render_edits(self.drawings, edits)
            texts = instructions(self.drawings, edits, seed=0, chinese=0, named=named)
            # "it" reaches the network by the names that the judge finds, as in `ToolGenerator.edit`
            texts = list(map(resolve_pronoun, texts, self.classifier.things(before)))
            painted = self.paint(texts, patchify(encode(self.ae, before)), guidance)
            stay, right = should_stay(self.drawings, edits), edit_verdict(self.classifier, painted, edits)
            report[what] = shares(right, SEEN) | kept(painted, after, self.ae, stay)
            if guidance == GUIDANCES[0]:
                back = round_trip(self.ae, after, exact=False)
                for true, x in (("true edits", after), ("after the autoencoder", back)):
                    report[what][f"judge on {true}"] = shares(edit_verdict(self.classifier, x, edits), ("all",))["all"]
            file = f"kontext_{what.replace(', by ', '_')}"
            self.sheet(f"{file}_w{guidance:g}", before, painted, after)
            (self.out / f"{file}.txt").write_text("\n".join(texts[:24]), "utf-8")
        return report

    def redux(self, guidance: float) -> dict:
        variations = draw_variations(self.drawings, self.n, seed=4000, unseen=True)
        before, after = render_edits(self.drawings, variations)
        texts = wishes(self.drawings, variations, seed=0, always=True)
        painted = self.paint(texts, self.classifier.judge.encode_image(before), guidance)
        right = verdict(self.classifier, painted, variations.after) | self.strict.verdict(painted, variations.after)
        self.sheet(f"redux_w{guidance:g}", before, painted, after)
        (self.out / "redux.txt").write_text("\n".join(texts[:24]), "utf-8")
        return shares(right, (*SEEN, "strict object", "strict style"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", nargs="*", default=list(TOOLS), help="which; all without")
    parser.add_argument("--weights", type=Path, default=Path(str(TINY_FOLDER)), help="folder of the deltas")
    parser.add_argument("--base", type=Path, default=Path(str(TINY_FOLDER)), help="folder of t5, clip and flux")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="all drawings")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate_tools"))
    parser.add_argument("--pictures", type=int, default=512, help="of each kind")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    base = read(args.base / "flux.safetensors", args.device)
    texts = TextEncoders(TINY_FOLDER / "tokenizer.json", 32).load(args.base).to(args.device)
    ae = load_ae(TINY_FOLDER / "ae.safetensors").to(args.device)
    drawings = load_drawings(args.data).to(args.device)
    for name in args.tools:
        if name not in TOOLS or not (args.weights / f"{name}.safetensors").is_file():
            print(f"{name} is left out: there is no {args.weights / name}.safetensors", flush=True)
            continue
        delta = read(args.weights / f"{name}.safetensors", args.device)
        flux = lora.with_delta(configs[f"tiny-{name}"], base, delta, name).requires_grad_(False).eval()
        measure = getattr(Measure(name, flux, texts, ae, drawings, args.out, args.pictures), name)
        save_report(args.out / f"{name}.json", {f"w = {w:g}": measure(w) for w in GUIDANCES})


if __name__ == "__main__":
    main()
