"""The questions of `flux_edu.teaching.quiz`, in the order of the notebooks, each with the experiment that answers it.

A choice carries what must hold of the measured number; margins are wide, so that other weights of the tiny model do not
change an answer.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flux_edu.attention import QKNorm, attention_weights
from flux_edu.configs import TINY, configs
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.flux2.architectures import DESIGNS, flops
from flux_edu.flux2.model import Flux2, Flux2Params, make_ids
from flux_edu.io.images import to_tensor
from flux_edu.model import Flux
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, prepare
from flux_edu.pipeline import FluxGenerator
from flux_edu.rope import EmbedND
from flux_edu.sampling import denoise, euler_step, guide, image_to_image_start
from flux_edu.schedule import get_lin_function, get_schedule, time_shift
from flux_edu.single_stream import SingleStreamBlock
from flux_edu.teaching.labs import attention_maps
from flux_edu.teaching.plots import chapter_11, chapter_15
from flux_edu.teaching.quiz import Question
from flux_edu.tools import fill_cond
from flux_edu.train.objectives import euler_rollout, logit_normal

QUESTIONS: list[Question] = []


def ask(notebook: str, section: str, text: str, choices: dict, said: str, why: str) -> Callable:
    """Put the decorated experiment under its question."""

    def keep(measure: Callable[[], float]) -> Callable[[], float]:
        QUESTIONS.append(Question(notebook, section, text, choices, said, why, torch.no_grad()(measure)))
        return measure

    return keep


@cache
def loaded(name: str) -> FluxGenerator:
    return FluxGenerator(name, "cpu")


def tiny(name: str = "tiny") -> FluxGenerator:
    return loaded(name)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(a: Tensor, b: Tensor) -> float:
    """How far a is from b, in parts of b's length."""
    return float((a - b).norm() / b.norm())


def velocity(prompt: str, t: float = 0.9, name: str = "tiny", w: float | None = None, **changes: Tensor) -> Tensor:
    """What the tiny model says to noise and a prompt, with some inputs changed."""
    flux = tiny(name)
    given = prepare(flux.t5, flux.clip, get_noise(1, 128, 128, "cpu", torch.float32, 0), prompt)
    given["y"] = given.pop("vec")
    given |= changes | {"timesteps": torch.tensor([t])}
    return flux.model(**given, guidance=None if w is None else torch.tensor([w]))


def small_model() -> Flux:
    """No blocks at all: good enough to count how often it is asked."""
    return Flux(replace(TINY, depth=0, depth_single_blocks=0)).requires_grad_(False)


def rows_asked(steps: int, guidance: float, two_passes: bool) -> float:
    """How many velocities a network computes while one picture is painted."""
    model, rows = small_model(), []
    model.img_in.register_forward_hook(lambda _, given, out: rows.append(len(given[0])))
    txt, vec = seeded(1, 3, TINY.context_in_dim), seeded(1, TINY.vec_in_dim)
    uncond = (txt, vec) if two_passes else None
    ids = make_img_ids(1, 2, 2), make_txt_ids(1, 3)
    denoise(model, seeded(1, 4, 64), ids[0], txt, ids[1], vec, get_schedule(steps, 4), guidance, uncond=uncond)
    return sum(rows)


def drawn() -> Tensor:
    """A yellow disc on blue, 128 × 128, in [-1, 1]."""
    picture = Image.new("RGB", (128, 128), (40, 90, 200))
    ImageDraw.Draw(picture).ellipse((24, 24, 104, 104), fill=(250, 210, 60))
    return to_tensor(picture)


NOTHING = {"nothing but rounding": lambda m: m < 1e-3, "it changes": lambda m: m > 0.01}
CATS = "a 3d cat face left of a dog face on a pink background"

# ---------------------------------------------------------------- 01


@ask(
    "01",
    "Eq. 1.3 · Time shift",
    "You raise μ from 0 to 1, with σ = 1. The curve t → t′ passes t′ = ½ at some t. Where does that point go?",
    {
        "to the left, to a smaller t": lambda m: m < 0.45,
        "it stays at t = ½": lambda m: 0.45 <= m <= 0.55,
        "to the right, to a larger t": lambda m: m > 0.55,
    },
    "With μ = 1 the curve passes ½ at t = {:.3f}.",
    "logit t′ = μ + logit t: a larger μ lifts the whole curve, so ½ is reached earlier.",
)
def half_point() -> float:
    t = torch.linspace(0.001, 0.999, 4001)
    return float(t[(time_shift(1.0, 1.0, t) - 0.5).abs().argmin()])


@ask(
    "01",
    "Eq. 1.5 · The schedule",
    "You ask for 28 steps. How many noise levels does the schedule have?",
    {"27": lambda m: m == 27, "28": lambda m: m == 28, "29": lambda m: m == 29},
    "get_schedule(28, 64) has {} numbers.",
    "A step leads from one level to the next, so N steps have N + 1 levels; the network is never asked at the last, t"
    " = 0.",
)
def levels() -> float:
    return len(get_schedule(28, 64))


@ask(
    "01",
    "Where the notes are wrong: `max_shift` is no maximum",
    "At 1024 × 1024 pixels μ is max_shift = 1.15. What is it at 2048 × 2048?",
    {
        "1.15: it is the maximum": lambda m: abs(m - 1.15) < 0.01,
        "larger than 1.15": lambda m: m > 1.2,
        "smaller: larger pictures need less shift": lambda m: m < 1.1,
    },
    "μ(16384 tokens) = {:.2f}.",
    "μ is a straight line through two points. Nothing clamps it.",
)
def mu_beyond() -> float:
    return get_lin_function()(128 * 128)


# ---------------------------------------------------------------- 02


@ask(
    "02",
    "Eq. 2.2 · Patchify",
    "You double both sides of a picture. By how much does the number of entries in one head's attention matrix of the"
    " image tokens grow?",
    {"4 times": lambda m: abs(m - 4) < 1, "8 times": lambda m: abs(m - 8) < 1, "16 times": lambda m: abs(m - 16) < 1},
    "It grows {:.0f} times.",
    "Four times as many tokens, and every token looks at every token.",
)
def matrix_growth() -> float:
    lengths = [patchify(get_noise(1, side, side, "cpu", torch.float32, 0)).shape[1] for side in (128, 256)]
    return (lengths[1] / lengths[0]) ** 2


@ask(
    "02",
    "Wrong orders load silently",
    "You cut a latent into patches in the wrong order, (ph pw c), and put it together again in the same wrong order."
    " Is the latent what it was?",
    {"yes, exactly": lambda m: m == 0, "no, patches are scrambled": lambda m: m > 0.1},
    "Largest difference: {}.",
    "Two equal mistakes undo each other, so no round trip finds this one. Only the trained network notices.",
)
def wrong_twice() -> float:
    x = seeded(1, 16, 4, 6)
    wrong = rearrange(x, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=2, pw=2)
    back = rearrange(wrong, "b (h w) (ph pw c) -> b c (h ph) (w pw)", h=2, ph=2, pw=2)
    return float((back - x).abs().max())


@ask(
    "02",
    "Eq. 2.4 · Image ids",
    "You shuffle the image tokens of a noisy picture and their ids in the same way. What happens to the velocity of"
    " each token?",
    {
        "nothing: it goes with its token": lambda m: m < 1e-3,
        "it changes: tokens now have other neighbours": lambda m: m > 0.01,
    },
    "The velocities, put back in order, differ by {:.1e} of their length.",
    "A token's place is its id and not its number in the sequence.",
)
def shuffled_tokens() -> float:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    img, ids = patchify(get_noise(1, 128, 128, "cpu", torch.float32, 0)), make_img_ids(1, 8, 8)
    shuffled = velocity(CATS, img=img[:, order], img_ids=ids[:, order])
    return apart(shuffled, velocity(CATS)[:, order])


# ---------------------------------------------------------------- 03


def scores(shift: float) -> Tensor:
    """Scores of four image tokens and a text token at 0 among themselves, the image moved down by so many rows."""
    ids = make_img_ids(1, 2, 2)
    ids[..., 1] += shift
    pe = EmbedND(24, 10_000, (8, 8, 8))(torch.cat([make_txt_ids(1, 1), ids], dim=1))
    q, k = seeded(1, 1, 5, 24), seeded(1, 1, 5, 24, seed=1)
    return attention_weights(q, k, pe)[0, 0].log()  # the differences within a row are those of the scores


@ask(
    "03",
    "Eq. 3.5 · Only differences count",
    "You add 5 to the row of every image token. What happens to the scores between image tokens?",
    NOTHING,
    "They move by {:.1e}.",
    "A rotated query and a rotated key see only the difference of their positions.",
)
def moved_image() -> float:
    a, b = (scores(shift)[1:, 1:] for shift in (0, 5))
    return float(((a - a[:, :1]) - (b - b[:, :1])).abs().max())


@ask(
    "03",
    "Three consequences",
    "The same: 5 more for the row of every image token. And the scores between image and text?",
    NOTHING,
    "They move by {:.2f}.",
    "Text tokens stay at (0, 0, 0), so their distance to the image changes.",
)
def moved_from_text() -> float:
    a, b = (scores(shift)[1:] for shift in (0, 5))
    return float(((a[:, :1] - a[:, 1:2]) - (b[:, :1] - b[:, 1:2])).abs().max())


# ---------------------------------------------------------------- 04


@ask(
    "04",
    "Text tokens have no order here",
    "You shuffle the 32 vectors that T5 gives for a prompt, and ask the network again. How far does the velocity move?",
    NOTHING | {"it becomes noise": lambda m: m > 1e6},
    "By {:.1e} of its length.",
    "All text tokens stand at position (0, 0, 0), and a sum over tokens knows no order. The words are read in their"
    " order before, by T5 and CLIP.",
)
def shuffled_text() -> float:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    txt = tiny().t5([CATS]).clone()
    return apart(velocity(CATS, txt=txt[:, order]), velocity(CATS))


@ask(
    "04",
    "Eq. 4.7 · QK norm",
    "The weights that make queries are multiplied by 10. What happens to the attention weights of a block with QK"
    " norm?",
    {
        "nothing but rounding": lambda m: m < 1e-3,
        "they become sharper, nearly 0 and 1": lambda m: m > 0.01,
    },
    "The largest change of a weight is {:.1e}.",
    "The norm divides by the length of the query, so a factor in front of it is lost.",
)
def longer_queries() -> float:
    norm, pe = QKNorm(12), EmbedND(12, 10_000, (4, 4, 4))(make_img_ids(1, 2, 3))
    q, k = seeded(1, 2, 6, 12), seeded(1, 2, 6, 12, seed=1)
    a, b = (attention_weights(*norm(factor * q, k), pe) for factor in (1, 10))
    return float((a - b).abs().max())


@ask(
    "04",
    "Eq. 4.11 · What attention found, let in by the gate",
    "All gates of a double block are 0. What comes out of it?",
    {
        "zeros": lambda m: abs(m - 1) < 1e-3,
        "the tokens as they went in": lambda m: m == 0,
        "the MLP's result alone": lambda m: m > 1.1 or 0 < m < 0.9,
    },
    "The tokens have moved by {} of their length.",
    "A block only adds to its tokens, and the gate multiplies what is added.",
)
def closed_gates() -> float:
    torch.manual_seed(0)
    block = DoubleStreamBlock(24, 2, 4.0)
    for mod in (block.img_mod, block.txt_mod):
        nn.init.zeros_(mod.lin.weight), nn.init.zeros_(mod.lin.bias)
    img, txt, vec = seeded(1, 4, 24), seeded(1, 2, 24, seed=1), seeded(1, 24, seed=2)
    pe = EmbedND(12, 10_000, (4, 4, 4))(torch.cat([make_txt_ids(1, 2), make_img_ids(1, 2, 2)], dim=1))
    return apart(block(img, txt, vec, pe)[0], img)


# ---------------------------------------------------------------- 05


@ask(
    "05",
    "What a block costs",
    "A double block of FLUX.1 has 340 million parameters, a single one 142 million. Which takes more multiplications"
    " for the same tokens?",
    {
        "the double block, more than twice as many": lambda m: m > 2,
        "about the same": lambda m: 0.8 < m < 1.25,
        "the single block": lambda m: m < 0.8,
    },
    "Double over single: {:.2f}.",
    "The double block has two sets of weights, but a token meets one of them only: 12 D² multiplications in either.",
)
def multiplications() -> float:
    D, H, L = 192, 3, 64
    img, txt, vec = seeded(1, L // 2, D), seeded(1, L // 2, D), seeded(1, D)
    pe = EmbedND(D // H, 10_000, (16, 24, 24))(torch.zeros(1, L, 3))
    counted = []
    for block, inputs in (
        (DoubleStreamBlock(D, H, 4.0), (img, txt, vec, pe)),
        (SingleStreamBlock(D, H), (torch.cat([txt, img], 1), vec, pe)),
    ):
        with FlopCounterMode(display=False) as counter:
            block(*inputs)
        counted.append(counter.get_total_flops())
    return counted[0] / counted[1]


@ask(
    "05",
    "The halves that diffusers swaps",
    "You load the last layer of the tiny model with its two halves swapped: scale first, then shift. What happens?",
    {
        "an error: the names or shapes do not fit": lambda m: m < 0,
        "no error, and nothing changes": lambda m: 0 <= m < 1e-3,
        "no error, and the velocity is wrong": lambda m: m > 0.02,
    },
    "It loads strictly, and the velocity moves by {:.0%} of its length.",
    "Both halves have the same shape, so nothing but the numbers can tell.",
)
def swapped_halves() -> float:
    right = velocity(CATS)
    layer = tiny().model.final_layer
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    swapped = {name: torch.cat(tensor.chunk(2)[::-1]) if "adaLN" in name else tensor for name, tensor in state.items()}
    try:
        layer.load_state_dict(swapped, strict=True)
        return apart(velocity(CATS), right)
    except RuntimeError:
        return -1
    finally:
        layer.load_state_dict(state, strict=True)


# ---------------------------------------------------------------- 06


@ask(
    "06",
    "Where the notes are wrong: the sign",
    "Your sampler adds (t_i − t_{i+1}) v instead of (t_{i+1} − t_i) v. On a straight path from noise ε, where does it"
    " end? (The picture is at distance 1 from ε.)",
    {
        "at the picture": lambda m: m < 0.1,
        "at the noise, where it began": lambda m: abs(m - 1) < 0.1,
        "as far behind the noise as the picture is before it": lambda m: abs(m - 2) < 0.1,
    },
    "Its end is {:.2f} times as far from the picture as the noise is.",
    "v points to the noise, and t falls, so the factor must be negative. The other sign walks away from pictures.",
)
def wrong_sign() -> float:
    x_0, eps, timesteps = seeded(50), seeded(50, seed=1), get_schedule(7, 64)
    x = eps
    for t, t_next in pairwise(timesteps):
        x = euler_step(x, eps - x_0, t_next, t)  # the levels exchanged: the other sign
    return float((x - x_0).norm() / (eps - x_0).norm())


@ask(
    "06",
    "Eq. 6.3 · Image to image",
    "Image to image with strength 0.5 and 28 steps, at 1024 × 1024 pixels. How much noise is in the state it starts"
    " from?",
    {
        "half: 0.5": lambda m: 0.45 < m < 0.55,
        "less than half": lambda m: m <= 0.45,
        "more than half": lambda m: m >= 0.55,
    },
    "It starts at t = {:.2f}.",
    "Strength counts steps, and the shifted schedule spends half of them above t = 0.7.",
)
def start_level() -> float:
    _, left = image_to_image_start(seeded(1, 2), seeded(1, 2), get_schedule(28, 4096), 0.5)
    return left[0]


@ask(
    "06",
    "Two passes, in one batch",
    "Two-pass guidance, 10 steps. How many velocities does the network compute with w = 1?",
    {"10": lambda m: m == 10, "20": lambda m: m == 20, "none: w = 1 is no guidance": lambda m: m == 0},
    "It computed {}.",
    "v_∅ + 1 · (v_c − v_∅) is v_c: the empty prompt cancels, so it is left out. With any other w there are 20.",
)
def rows_without_guidance() -> float:
    return rows_asked(10, 1.0, two_passes=True)


@ask(
    "06",
    "Where the reference is wrong: int() loses steps",
    "In Python, what is int((1 − 0.8) * 50)?",
    {"9": lambda m: m == 9, "10": lambda m: m == 10, "11": lambda m: m == 11},
    "It is {}.",
    "1 − 0.8 is a little less than 0.2 in floating point, and int cuts off. The reference loses a step to it.",
)
def float_error() -> float:
    return int((1 - 0.8) * 50)


# ---------------------------------------------------------------- 07


@ask(
    "07",
    "Where order comes from",
    "T5 reads “a 3d cat face left of a dog face”, CLIP “a 3d dog face left of a cat face”, with the same background. T5"
    " gives one vector a word, CLIP one for the whole text. Whose order does the tiny FLUX's velocity follow?",
    {
        "T5's": lambda m: m < 0.2,
        "CLIP's": lambda m: m > 0.8,
        "neither: it lies half-way": lambda m: 0.2 <= m <= 0.8,
    },
    "It goes {:.0%} of the way from T5's order to CLIP's.",
    "Either could carry the order. Trained together, in this model CLIP does; T5's vectors name the things.",
)
def whose_order() -> float:
    other = CATS.replace("cat", "?").replace("dog", "cat").replace("?", "dog")
    at_t5, at_clip = velocity(CATS), velocity(other)
    mixed = velocity(CATS, y=tiny().clip([other]))
    way = at_clip - at_t5
    return float(((mixed - at_t5) * way).sum() / way.square().sum())


@ask(
    "07",
    "77 and 512: what is cut off",
    "The tiny T5 reads 32 tokens. You give it a text of 100 words. What do you get?",
    {
        "100 or more vectors": lambda m: m >= 100,
        "32 vectors, the rest of the text is cut": lambda m: m == 32,
        "an error": lambda m: m < 0,
    },
    "It gave {} vectors (and a warning).",
    "The number of text tokens is fixed. What does not fit is cut off at the end, and the package says so.",
)
def long_text() -> float:
    try:
        return tiny().t5(["cat " * 100]).shape[1]
    except ValueError:
        return -1


# ---------------------------------------------------------------- 08


@ask(
    "08",
    "Why not paint pixels?",
    "A picture of 128 × 128 pixels in three colours becomes a latent. How many times fewer numbers does it have?",
    {"3 times": lambda m: abs(m - 3) < 1, "12 times": lambda m: abs(m - 12) < 2, "64 times": lambda m: abs(m - 64) < 9},
    "{:.0f} times fewer.",
    "64 times fewer places (8 × 8 pixels each), but 16 channels instead of 3.",
)
def fewer_numbers() -> float:
    x = drawn()
    return x.numel() / tiny().ae.encode(x).numel()


@ask(
    "08",
    "What the notes leave out: [0, 1] is not [−1, 1]",
    "You give the encoder a picture in [0, 1] instead of [−1, 1], and decode. What do you see?",
    {
        "an error": lambda m: m < 0,
        "the same picture": lambda m: 0 <= m < 0.05,
        "a picture with other colours": lambda m: m >= 0.05,
    },
    "The decoded picture is off by {:.2f} on average, where black to white is 2.",
    "0 is middle gray to the encoder. Everything comes out brighter and with less contrast, and nothing complains.",
)
def wrong_range() -> float:
    x, ae = drawn(), tiny().ae
    return float((ae.decode(ae.encode((x + 1) / 2)) - x).abs().mean())


# ---------------------------------------------------------------- 09


@ask(
    "09",
    "What a perfect network answers",
    "The data are the two numbers −1 and +1, equally often. A perfectly trained network walks from noise ε to t = 0 in"
    " a single step. Where does it end?",
    {
        "at −1 or +1, whichever is nearer to ε": lambda m: m > 0.8,
        "at 0, which is no data": lambda m: m < 0.2,
        "at ε: one step is not enough": lambda m: 0.2 <= m <= 0.8,
    },
    "It ends {:.2f} from 0 on average.",
    "At t = 1 the state says nothing about the data, so the best velocity is ε less their mean.",
)
def one_step() -> float:
    x_0 = torch.randint(0, 2, (400_000,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    eps = seeded(400_000, seed=1)
    bins = ((eps + 3) / 0.5).long().clamp(0, 11)  # the mean of the target ε − x_0 for every ε is what training finds
    count = torch.zeros(12).index_add_(0, bins, torch.ones_like(eps))
    best = torch.zeros(12).index_add_(0, bins, eps - x_0) / count
    ends = torch.zeros(12).index_add_(0, bins, eps) / count - best
    return float((ends.abs() * count / count.sum()).sum())


@ask(
    "09",
    "Eq. 9.3 · The shift moves the levels of training",
    "Training draws its levels t from a logit-normal with mean 0. Now you shift them with μ = 1. What is practised"
    " more?",
    {
        "high noise": lambda m: m > 0.55,
        "low noise": lambda m: m < 0.45,
        "both ends alike, the middle less": lambda m: 0.45 <= m <= 0.55,
    },
    "{:.0%} of the levels lie above ½.",
    "The same map as in sampling: logit t moves up by μ.",
)
def shifted_levels() -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        t = logit_normal(0.0, 1.0, 20_000)
    return float((time_shift(1.0, 1.0, t) > 0.5).float().mean())


# ---------------------------------------------------------------- 10


@ask(
    "10",
    "Eq. 10.1 · What the student is to learn",
    "v_w = v_∅ + w (v_c − v_∅). Which w gives the prompted network as it is?",
    {"w = 0": lambda m: m == 0, "w = 1": lambda m: m == 1, "w = 3": lambda m: m == 3},
    "The nearest to v_c is w = {}.",
    "At w = 0 the prompt is ignored; above 1 the network is pushed further than it would go by itself.",
)
def neutral_guidance() -> float:
    empty, prompted = seeded(1, 4, 5), seeded(1, 4, 5, seed=1)
    return min((0, 1, 3), key=lambda w: float((guide(empty, prompted, float(w)) - prompted).norm()))


@ask(
    "10",
    "The trained tiny dev",
    "The distilled tiny-dev is asked once a step. You turn its w from 1 to 6. Does its velocity change?",
    {
        "no: guidance needs a second pass": lambda m: m < 1e-3,
        "yes: w is an input like the time": lambda m: m > 0.01,
    },
    "It moves by {:.0%} of its length.",
    "It has learned to say what two passes of its teacher would have said for this w.",
)
def distilled_guidance() -> float:
    return apart(velocity(CATS, name="tiny-dev", w=6.0), velocity(CATS, name="tiny-dev", w=1.0))


# ---------------------------------------------------------------- 11


@ask(
    "11",
    "What few steps cost",
    "The toy's data are two blobs. You walk from 500 noises with a single step along the best velocity. How do the"
    " ends lie?",
    {
        "half of them on each blob": lambda m: m > 0.3,
        "all in one point between the blobs": lambda m: m < 0.05,
        "spread like the noise": lambda m: 0.05 <= m <= 0.3,
    },
    "The ends spread by {:.3f}; the noise by 1.",
    "One step leads to the mean of all data, from every noise. Few-step models are trained for something else.",
)
def toy_in_one_step() -> float:
    return float(chapter_11.toy_walk(1)[-1].std(dim=0).max())


@ask(
    "11",
    "What few steps cost",
    "A teacher paints in 28 steps of two passes, its student in 4 steps of one. How many times fewer velocities does"
    " the student compute?",
    {"7": lambda m: m == 7, "14": lambda m: m == 14, "28": lambda m: m == 28},
    "{:.0f} times fewer.",
    "56 against 4: the student has learned the guidance along with the long step.",
)
def students_price() -> float:
    return rows_asked(28, 3.0, two_passes=True) / rows_asked(4, 0.0, two_passes=False)


@ask(
    "11",
    "Eq. 11.1 · The mean velocity of a segment",
    "A teacher walks a segment in m small steps of equal length. The one velocity that leads to the same end is …",
    {
        "the teacher's velocity at the beginning": lambda m: m == 0,
        "the mean of the m velocities it met": lambda m: m == 1,
        "the teacher's velocity at the end": lambda m: m == 2,
    },
    "Of the three, number {} (counted from 0) leads to the same end.",
    "Equal steps: the way is the sum of the velocities times the length of a step.",
)
def one_for_many() -> float:
    met: list[Tensor] = []

    def teacher(x: Tensor, t: Tensor) -> Tensor:
        met.append(torch.sin(3 * x) + x * t[:, None, None])
        return met[-1]

    x, t, t_next = seeded(1, 2, 3), torch.tensor([0.75]), torch.tensor([0.5])
    end = euler_rollout(teacher, x, t, t_next, 5)
    candidates = [met[0], torch.stack(met).mean(0), met[-1]]
    return min(range(3), key=lambda i: float((x - 0.25 * candidates[i] - end).norm()))


# ---------------------------------------------------------------- 12


@ask(
    "12",
    "Eq. 12.2 · Fill: a picture with a hole",
    "A token of Fill covers 16 × 16 pixels. How many of its channels tell which of these are to be painted?",
    {"1, a share": lambda m: m == 1, "64, as the latent has": lambda m: m == 64, "256": lambda m: m == 256},
    "{:.0f} channels.",
    "One number a pixel: 8 × 8 to a place of the latent, 2 × 2 places to a token. Nothing of the mask is lost.",
)
def mask_channels() -> float:
    z, mask = torch.zeros(1, 16, 2, 2), torch.ones(1, 1, 16, 16)
    return fill_cond(z, mask).shape[-1] - patchify(z).shape[-1]


@ask(
    "12",
    "Eq. 12.3 · Kontext: another picture, after this one",
    "Kontext appends 4,096 tokens of a reference to the 4,096 of the picture. How many times the work is one step?",
    {
        "less than twice": lambda m: m < 1.95,
        "a little more than twice": lambda m: 1.95 <= m < 2.6,
        "four times": lambda m: m >= 2.6,
    },
    "{:.2f} times.",
    "The linear layers do not quite double, as there is the text, and attention grows with the square. At this size it"
    " is a fifth of the work.",
)
def price_of_a_reference() -> float:
    alone, beside = (sum(flops(DESIGNS["FLUX.1 dev"], L).values()) for L in (4096, 8192))
    return beside / alone


@ask(
    "12",
    "Eq. 12.4 · Redux: a picture in place of words",
    "Redux appends the tokens of a picture to the text. Somebody shuffles them. The velocity …",
    {
        "stays: FLUX sees no order in them": lambda m: m < 1e-3,
        "changes a little": lambda m: 1e-3 <= m < 0.5,
        "is another one altogether": lambda m: m >= 0.5,
    },
    "It moves by {:.0e} of its length.",
    "All text stands at the origin, where rotations are none. What had an order has to say so itself.",
)
def shuffled_picture() -> float:
    flux, text = tiny("tiny-schnell").model, seeded(1, 20, 256)
    noise, ids = seeded(1, 64, 64, seed=1), make_img_ids(1, 8, 8)
    order = torch.cat([torch.arange(5), 5 + torch.randperm(15, generator=torch.Generator().manual_seed(2))])
    rest = (make_txt_ids(1, 20), torch.tensor([0.6]), seeded(1, 256, seed=3))
    return apart(flux(noise, ids, text, *rest), flux(noise, ids, text[:, order], *rest))


# ---------------------------------------------------------------- 15


@cache
def painted() -> attention_maps.Survey:
    return attention_maps.survey(tiny("tiny-schnell"), CATS)


@ask(
    "15",
    "Which word paints where",
    "“a 3d cat face left of a dog face …”: the first step, when the state is pure noise. Where do image tokens take"
    " most from the word “cat”?",
    {
        "on the left": lambda m: m < -0.5,
        "everywhere alike: there is no cat yet": lambda m: -0.5 <= m <= 0.5,
        "on the right": lambda m: m > 0.5,
    },
    "The mean column is {:+.1f} tokens from the middle.",
    "The layout is read from the text before anything is painted: image tokens know their places, and CLIP's vector"
    " says who is on the left.",
)
def first_look() -> float:
    seen = painted()
    A = seen.attention[0].mean((0, 1))
    return chapter_15.place_of(attention_maps.word_map(A, seen.tokens("cat"), seen.L_txt, seen.grid))[1]


@ask(
    "15",
    "With a compass, and without",
    "The sharpest of the 45 heads looks at very few image tokens. You take the rotations of RoPE away. Does it stay"
    " sharp?",
    {
        "yes: it goes by what tokens show": lambda m: m < 1.5,
        "no: it looks at many more tokens": lambda m: m > 2,
    },
    "Without rotations it looks at {:.1f} times as many tokens.",
    "Such a head looks at a fixed neighbour, and only positions tell it which one that is.",
)
def without_compass() -> float:
    seen = painted()
    _, tokens = attention_maps.gaze(seen.attention.mean(0), seen.L_txt, seen.grid)
    where = divmod(int(tokens.argmin()), tokens.shape[1])
    name = attention_maps.block_names(tiny("tiny-schnell").model)[where[0]]
    still = torch.eye(2).expand_as(seen.traced["pe_embedder"])
    unturned = type(seen.traced)(seen.traced | {"pe_embedder": still}).attention(name)[:, where[1]]
    return float(attention_maps.gaze(unturned.mean(0), seen.L_txt, seen.grid)[1] / tokens.min())


@ask(
    "15",
    "Without a head, without a block",
    "You leave out a whole block of the tiny model: it hands its tokens on unchanged. What comes of the painting?",
    {
        "an error: the next block gets the wrong shapes": lambda m: not math.isfinite(m),
        "the same picture": lambda m: m < 1e-3,
        "a picture that is off, by more or less": lambda m: 1e-3 <= m < 10,
    },
    "Without the fifth of the nine blocks the latent moves by {:.0%} of its length.",
    "Every block only adds to its tokens, so the next one finds what it can read. How much is lost differs from block"
    " to block.",
)
def without_a_block() -> float:
    flux, noise = tiny("tiny-schnell"), get_noise(1, 128, 128, "cpu", torch.float32, 0)
    given, timesteps = prepare(flux.t5, flux.clip, noise, CATS), get_schedule(4, 64, shift=False)
    whole = denoise(flux.model, **given, timesteps=timesteps)
    with attention_maps.ablate(flux.model, attention_maps.block_names(flux.model)[4]):
        return apart(denoise(flux.model, **given, timesteps=timesteps), whole)


# ---------------------------------------------------------------- 16


@ask(
    "16",
    "Shared modulation",
    "FLUX.2 shares one modulation among all blocks of a kind. In FLUX.1 every block has its own. How much of FLUX.1's"
    " 12 billion parameters stands in them?",
    {
        "about a hundredth": lambda m: m < 0.05,
        "more than a quarter": lambda m: 0.25 < m < 0.5,
        "more than half": lambda m: m >= 0.5,
    },
    "The modulations of the blocks hold {:.0%}.",
    "Six vectors a stream and block, each from a matrix of D × D. That is why sharing them pays.",
)
def parameters_of_modulations() -> float:
    with torch.device("meta"):
        model = Flux(configs["flux-dev"].params)
    counted = [(name, p.numel()) for name, p in model.named_parameters()]
    return sum(n for name, n in counted if "_mod." in name or ".modulation." in name) / sum(n for _, n in counted)


@ask(
    "16",
    "Four axes, and text with places",
    "In FLUX.1 the vectors of the text may be shuffled and the velocity stays. And in FLUX.2, if ids stay where they"
    " are?",
    {"nothing but rounding": lambda m: m < 1e-4, "it changes": lambda m: m > 1e-3},
    "In a small random FLUX.2 the velocity moves by {:.1%} of its length.",
    "A text token of FLUX.2 has a place, (0, 0, 0, l). Another vector at this place is another text.",
)
def shuffled_text_of_flux2() -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Flux2(Flux2Params(12, 48, 2, 1, 1, False, in_channels=8, axes_dim=(6, 6, 6, 6))).requires_grad_(False)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
    txt_ids, img_ids = make_ids(1, (2, 3), 5)
    txt, img, t = seeded(1, 5, 12), seeded(1, 6, 8, seed=1), torch.tensor([0.5])
    return apart(model(img, img_ids, txt.flip(1), txt_ids, t), model(img, img_ids, txt, txt_ids, t))
