// Who reads Chinese, by the browser's settings, is offered the Chinese page once, and may decline.

const LANGUAGE_KEY = "flux-language";
const OFFER = "本页有中文版";
const STAY = "Stay with English";

document.addEventListener("DOMContentLoaded", () => {
  const link = document.querySelector("a.flux-language");
  if (!link) return;
  link.addEventListener("click", () => localStorage.setItem(LANGUAGE_KEY, link.hreflang));
  const asked = localStorage.getItem(LANGUAGE_KEY) !== null;
  if (asked || link.hreflang !== "zh" || !/^zh\b/i.test(navigator.language)) return;

  const offer = document.createElement("p");
  offer.className = "flux-offer";
  const there = Object.assign(document.createElement("a"), {
    href: link.href,
    lang: "zh",
    textContent: OFFER,
  });
  const stay = Object.assign(document.createElement("button"), {
    type: "button",
    textContent: STAY,
  });
  there.addEventListener("click", () => localStorage.setItem(LANGUAGE_KEY, "zh"));
  stay.addEventListener("click", () => {
    localStorage.setItem(LANGUAGE_KEY, "en");
    offer.remove();
  });
  offer.append(there, stay);
  document.body.prepend(offer);
});
