// What the book's search puts first: a question that people ask, before a page that holds the same words.
// The other numbers are Sphinx's own.
// oxlint-disable-next-line no-unused-vars -- Sphinx's search reads it
var Scorer = {
  score: ([page, , , , score]) => (page.startsWith("docs/questions/") ? score + 20 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
