// Chapter 7: the tokens of a text, as transformers reads them off tokenizer.json
// (train/tokenizer.py).

export class Tokenizer {
  constructor({ model, added_tokens }, max_length) {
    this.max_length = max_length;
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.ranks = new Map(model.merges.map((pair, rank) => [[pair].flat().join(" "), rank]));
    this.special = new Map(added_tokens.map(({ content, id }) => [content, id]));
    this.end = this.special.get("</s>");
    this.letters = byte_letters();
  }
  // The numbers of the tokens, cut and padded to max_length.
  tokens(text) {
    const ids = text.split(/(<pad>|<\/s>)/).flatMap((part) => {
      return this.special.has(part) ? [this.special.get(part)] : this.words(part);
    });
    const cut = [...ids.slice(0, this.max_length - 1), this.end];
    return [...cut, ...Array(this.max_length - cut.length).fill(this.special.get("<pad>"))];
  }
  // [{id, text}] of every token, with the piece of text that it stands for; a letter of several
  // tokens stands with the last of them.
  pieces(text) {
    const bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    const names = new Map([...this.vocabulary].map(([piece, id]) => [id, piece]));
    const decoder = new TextDecoder();
    return this.tokens(text).map((id) => {
      if (id <= this.end) return { id, text: names.get(id) };
      const letters = [...names.get(id)].map((letter) => bytes.get(letter));
      return { id, text: decoder.decode(Uint8Array.from(letters), { stream: true }) };
    });
  }
  // Normalised as the tokenizer says: letter by letter, since JavaScript would write a last Σ as ς.
  words(part) {
    const lower = [...part.normalize("NFKC")].map((letter) => letter.toLowerCase()).join("");
    const plain = lower.replace(/\p{White_Space}+/gu, " ").replace(/^ | $/g, "");
    if (plain === "") return [];
    const pieces = ` ${plain}`.split(/([\u4e00-\u9fff])/); // every Chinese character by itself
    // the words of GPT-2: each takes the space before it
    const word = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^ \p{L}\p{N}]+| +(?! )| +/gu;
    return pieces.flatMap((piece) => (piece.match(word) ?? []).flatMap((w) => this.merge(w)));
  }
  // Byte pair encoding: of all neighbours the pair that was learned first is merged, again and
  // again.
  merge(word) {
    const parts = [...new TextEncoder().encode(word)].map((byte) => this.letters[byte]);
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts.map((part) => this.vocabulary.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }
}

// A letter for every byte, as GPT-2 has them: the printable ones stand for themselves, the others
// take the next free letters from 256 on.
function byte_letters() {
  const printable = (b) => (b > 32 && b < 127) || (b > 160 && b !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : next++));
}
