"""The notes on preparing picture and prompt."""

import inspect

import torch

from flux_edu.io.tiny import TINY_FOLDER, tiny_embedders
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids, patchify, prepare
from flux_edu.teaching.errata.arguments import small_flux, small_inputs
from flux_edu.teaching.errata.entry import Check, Erratum

PART = "图片和prompt预处理, preparing picture and prompt"


def signature_notes():
    return ["self", "img", "prompt"]


def signature_right():
    return list(inspect.signature(prepare).parameters)


def three_texts(prompts: list[str]) -> torch.Tensor:
    """A stand-in for a text encoder: a row of zeros a prompt."""
    return torch.zeros(len(prompts), 4, 8)


def batch_notes():
    img, txt = torch.zeros(2, 16, 4, 4), three_texts(["a", "b", "c"])  # repeats only what is 1 long
    return f"{len(img)} pictures with {len(txt)} texts"


def batch_right():
    try:
        return prepare(three_texts, three_texts, torch.zeros(2, 16, 4, 4), ["a", "b", "c"])["img"].shape
    except AssertionError:
        return "refused"


def encoders_notes():
    return "one vector a text", "one vector a token"  # global, local


def encoders_right():
    t5, clip = tiny_embedders(TINY_FOLDER / "tokenizer.json", 32)
    prepared = prepare(t5, clip, torch.zeros(1, 16, 4, 4), ["a fox", "a cat"])
    kinds = {(2, 256): "one vector a text", (2, 32, 256): "one vector a token"}
    return [kinds[tuple(prepared[name].shape)] for name in ("vec", "txt")]


def moved_by_shuffling(txt_ids: torch.Tensor) -> bool:
    """Whether the velocity of the image notices that text tokens change places."""
    inputs, vec = small_inputs(), torch.randn(1, 7)
    model, order = small_flux(), [2, 0, 1]
    both = [model(inputs["img"], inputs["img_ids"], txt, txt_ids, torch.ones(1), vec)
            for txt in (inputs["txt"], inputs["txt"][:, order])]  # fmt: skip
    return not torch.allclose(*both, atol=1e-5)


def order_notes():
    counted = make_txt_ids(1, 3)
    counted[..., 2] = torch.arange(3)  # a place of its own for every text token
    return moved_by_shuffling(counted)


def order_right():
    return moved_by_shuffling(make_txt_ids(1, 3))


def pieces_notes():
    return (1024 // 2) * (1024 // 2)


def pieces_right():
    return patchify(get_noise(1, 1024, 1024, "cpu", torch.float32, seed=0)).shape[1]


def numbers_notes():
    return [[width * row + column for row, column in ((2, 1), (1, 1))] for width in (4, 7)]


def step_down(ids) -> list:
    """From the second to the third row, in the second column, of pictures 4 and 7 tokens wide."""
    return [below - above for below, above in ids]


def serial_notes():
    return step_down(numbers_notes())


def serial_right():
    grids = [make_img_ids(1, 3, width).reshape(3, width, 3) for width in (4, 7)]
    return step_down([(grid[2, 1], grid[1, 1]) for grid in grids])


COORDINATES = "'img_ids'是图片的坐标，'txt_ids'是文本的坐标，目前为0"

ENTRIES = [
    Erratum(
        29, PART, "the signature", "`def prepare(self, img: Tensor, prompt: str | list[str]) -> dict[str, Tensor]:`",
        "imprecise",
        "In the reference it is a plain function, `prepare(t5, clip, img, prompt)`. Its `vec` is what the network"
        " takes as `y`, and guidance is no part of it: a number a picture, made where the network is called.",
        ("4.3",), ("02_patchify", "What `prepare` returns"),
        Check("arguments of prepare", signature_notes, signature_right, ("t5", "clip", "img", "prompt")),
    ),
    Erratum(
        38, PART, "pictures and prompts that do not match", "`if txt.shape[0] == 1 and bs > 1:`", "missing",
        "Repeats one text for many pictures, or one picture for many texts. Two pictures and three texts go through in"
        " silence and fail deep inside the network. Here they are refused at once.",
        (), ("02_patchify", "Everything the network reads: `prepare`"),
        Check("two pictures, three prompts", batch_notes, batch_right, "refused", speaker="the reference"),
    ),
    Erratum(
        32, PART, "two text encoders", "一个是clip, 一个是t5,分别用于global的文本特征和局部的文本特征", "right",
        "CLIP-L gives one pooled vector (it reads 77 tokens), T5-XXL a row a token (512, schnell 256). SD3 reads the"
        " prompt with CLIP-L, CLIP-G and T5, so FLUX is simpler indeed.",
        ("7.1", "7.2"), ("07_text_encoders", "Eq. 7.1 · T5 gives one state a token"),
        Check("vec and txt", encoders_notes, encoders_right, ("one vector a text", "one vector a token")),
        "Stable Diffusion 3, arXiv 2403.03206",
    ),
    Erratum(
        28, PART, "text ids are zero", COORDINATES, "missing",
        "The consequence: $R(0) = I$, so text tokens get no position at all and stand where patch (0, 0) stands."
        " Shuffle them and the velocity stays exactly the same. Word order reaches FLUX only because an encoder has"
        " put it into what it hands over: T5 into each row, or CLIP into its vector (notebook 07).",
        ("2.5", "3.2"), ("02_patchify", "What follows from (0, 0, 0)"),
        Check("shuffling text tokens changes the velocity", order_notes, order_right, False,
              (moved_by_shuffling,), "a guess"),
        "the question is put in flux#71 and OminiControl#12; the makers have not answered it there",
    ),
    Erratum(
        26, PART, "what is cut into 2 × 2", r"因为整张图片会被分成很多个$2\times 2$ 的小块", "imprecise",
        "The **latent** is cut, 8 times smaller than the picture and of 16 channels. So a token is 16 × 16 pixels and"
        " 64 numbers.",
        ("2.2",), ("02_patchify", "The latent is cut, not the picture"),
        Check("tokens of 1024 × 1024 pixels", pieces_notes, pieces_right, 4096),
    ),
    Erratum(
        27, PART, "img_ids", "这个'img_ids'记录的就是每个小块的编号", "imprecise",
        "Coordinates, as the notes themselves say two lines before, and not serial numbers: (0, row, column). One step"
        " down is (0, 1, 0) in a picture of any width. The first axis is 1 for Kontext's reference picture.",
        ("2.4",), ("02_patchify", "Coordinates, not serial numbers"),
        Check("one step down, 4 and 7 tokens wide", serial_notes, serial_right, ((0, 1, 0), (0, 1, 0))),
    ),
]  # fmt: skip
