"""How the tiny FLUX was made, stage by stage; every file is run as `python -m flux_edu.train.<name>`.

    build_data    fetch the six sets of drawings and draw them at 128 × 128 into data/
    tokenizer     captions to a subword tokenizer and the list of known words
    autoencoder   pictures to latents and back, Eq. (8.1) and (8.2)
    flow          text encoders and transformer together, Eq. (9.1) to (9.3); leaves 8-bit files
    order         a probe: does T5 know which thing comes first?
    pack          those files into flux_edu/weights/tiny, their hashes into the model card

`data` composes pictures and captions on the fly and is what the stages share. The stages run on Hugging Face
Accelerate: plain `python -m` takes one GPU or the CPU, `torchrun --nproc-per-node 2 -m` takes two.
"""
