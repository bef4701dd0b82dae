"""Can a text encoder tell which thing comes first? A probe in two minutes: `python docs/make/probe_word_order.py`.

Captions of two things, 50 things in all; from the encoder's states a reader with one query a place (left or upper,
right or lower) names the thing there. Who only knows which two words occur is right half of the time.
"""

import argparse

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.configs import configs
from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.train.data import captions, draw_scenes, load_drawings
from flux_edu.train.text_to_velocity import init_position_bias
from flux_edu.train.trainer import set_rate


class Reader(nn.Module):
    """One query a place looks at all states; what it finds is read out as one of the things."""

    def __init__(self, width: int, things: int):
        super().__init__()
        self.query = nn.Parameter(0.05 * torch.randn(2, width))
        self.out = nn.Linear(width, things)

    def forward(self, states: Float[Tensor, "B L C"]) -> Float[Tensor, "B 2 things"]:
        weights = (self.query @ states.mT).softmax(dim=-1)
        return self.out(weights @ states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", choices=["local", "plain"], default="local", help="T5's first position bias")
    parser.add_argument("--steps", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    drawings, length = load_drawings(), configs["tiny"].txt_tokens
    t5, _ = tiny_embedders(TINY_FOLDER / "tokenizer.json", length)
    if args.start == "local":
        init_position_bias(t5.encoder)
    reader = Reader(t5.encoder.config.d_model, len(drawings.names))
    optimizer = torch.optim.AdamW([*t5.encoder.train().parameters(), *reader.parameters()], betas=(0.9, 0.95))
    right = []
    for step in range(1, args.steps + 1):
        set_rate(optimizer, 1e-3 * min(1.0, step / 30))
        scenes = draw_scenes(drawings, 128, seed=args.seed + step, pairs=1.0)
        guess = reader(t5(captions(drawings, scenes, seed=args.seed + step, chinese=0)))
        things = torch.from_numpy(drawings.concept[scenes.drawing])
        loss = F.cross_entropy(guess.flatten(0, 1), things.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append((guess.argmax(-1) == things).float().mean().item())
        if step % 25 == 0:
            print(f"step {step}  loss {loss.item():.3f}  right {sum(right[-25:]) / 25:.3f}", flush=True)


if __name__ == "__main__":
    main()
