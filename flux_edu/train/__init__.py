"""How the tiny FLUX was made, stage by stage; these are run as `python -m flux_edu.train.<name>`.

    tokenizer     captions to a subword tokenizer and the list of known words
    autoencoder   pictures to latents and back, Eq. (8.1) and (8.2)
    flow          text encoders and transformer together, Eq. (9.1) to (9.3); leaves 8-bit files
    guidance      one pass instead of two, Eq. (10.1) and (10.2); leaves a delta
    few_steps     four steps instead of 28, Eq. (11.1) and (11.2); leaves a delta
    tools         fill, canny, kontext or redux, Eq. (12.1) to (12.4); leaves a delta
    judge         names what is to be seen on a picture, Eq. (9.4)

The drawings come first: `python docs/make/emoji.py` fetches four sets and draws six styles at 128 × 128 into data/.
The whole family at once: `python docs/make/train_family.py`; `docs/make/evaluate.py` has the judge count how often the
paintings show what was asked for, and `docs/make/evaluate_tools.py` of edits.
The other files are what these are made of. `objectives` holds the losses, `data`, `asked` and `edits` compose pictures
and captions, `latent_pool` keeps their latents, `trainer` is the one loop that all train in. It runs on Hugging Face
Accelerate: plain `python -m` takes one GPU or the CPU, `torchrun --nproc-per-node 2 -m` takes two. A stage that was
killed goes on when the same command is given again.
"""
