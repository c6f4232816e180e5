// Cards of the tab "Residuals": a click puts the tag and a phrase with V* into the prompt, the next one takes them out.
//
// card: names (what a tag may call the residual, the best first), noun (its class), phrase (the user's own, or ""),
// strength (a number, or null for the WebUI's default), problem (why it cannot be used, or null).

const persresTagPattern = /<persres:([^>]+)>/g;
const persresClicks = {};

/** The names in the prompt's tags, in their order; each concept once, this card's under its first name. */
function persresConcepts(text, card) {
    const names = [...text.matchAll(persresTagPattern)].map((match) => persresNameIn(match[1]));
    return [...new Set(names.map((name) => card.names.includes(name) ? card.names[0] : name))];
}

/** The first argument of a tag that is no key=value. */
function persresNameIn(args) {
    const plain = args.split(":").filter((arg) => arg.split("=").length != 2);
    return plain.length ? plain[0].trim() : "";
}

/** The text with `change` applied to all that is not within a tag. */
function persresOutsideTags(text, change) {
    return text.split(/(<\w+:[^>]+>)/).map((part, index) => index % 2 ? part : change(part)).join("");
}

function persresPlaceholder(number) {
    return number == 1 ? "V*" : `V${number}*`;
}

/** A pattern for V* with this number; without one for all of them. */
function persresPlaceholderPattern(number, rest = "") {
    const digits = number === undefined ? "(\\d*)" : number == 1 ? "(?:0*1)?" : `0*${number}`;
    return new RegExp(`(?<![\\p{L}\\p{N}_*])V${digits}\\*(?![\\p{L}\\p{N}_])${rest}`, "gu");
}

function persresHas(text, pattern) {
    let found = false;
    persresOutsideTags(text, (part) => {
        found = found || part.search(pattern) >= 0;
        return part;
    });
    return found;
}

function persresQuote(text) {
    return text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&");
}

/** The card's own phrase for a concept's place in the prompt. */
function persresPhrase(card, number) {
    const phrase = card.phrase || `V* ${card.noun}`.trim();
    return phrase.replace(persresPlaceholderPattern(1), () => persresPlaceholder(number));
}

/** The prompt with the card's tag and phrase. The tag comes last among ours, so the others keep their numbers. */
function persresAdd(text, card, strength) {
    const number = persresConcepts(text, card).length + 1;
    const tag = `<persres:${card.names[0]}:${strength}>`;
    text = persresAddPhrase(text, card, number);
    const last = [...text.matchAll(persresTagPattern)].pop();
    if (last) {
        const end = last.index + last[0].length;
        return text.slice(0, end) + " " + tag + text.slice(end);
    }
    return text ? `${tag} ${text}` : tag;
}

function persresAddPhrase(text, card, number) {
    if (persresHas(text, persresPlaceholderPattern(number))) return text;
    if (card.noun && !card.phrase) {
        // the class is in the prompt already: it becomes the concept
        const noun = new RegExp(`(?<!V\\d*\\*\\s+|[\\p{L}\\p{N}_-])${persresQuote(card.noun)}(?![\\p{L}\\p{N}_-])`, "iu");
        let done = false;
        const written = persresOutsideTags(text, (part) => {
            if (done) return part;
            return part.replace(noun, (word) => {
                done = true;
                return `${persresPlaceholder(number)} ${word}`;
            });
        });
        if (done) return written;
    }
    const phrase = persresPhrase(card, number);
    const tags = text.match(/(?:\s*<\w+:[^>]+>)*\s*$/)[0];
    const body = text.slice(0, text.length - tags.length);
    if (!body.trim()) {
        const all = text.trimEnd();
        return (all ? all + " " : "") + (card.phrase ? phrase : `a photo of a ${phrase}`);
    }
    const separator = /(?:[,.;:!?]|\bAND|\bBREAK)$/.test(body) ? " " : ", ";
    return body + separator + phrase + tags;
}

/** The prompt without the card's tags and phrase; V* of the concepts behind it move up by one. */
function persresRemove(text, card) {
    const number = persresConcepts(text, card).indexOf(card.names[0]) + 1;
    text = text.replace(/( ?)<persres:([^>]+)>( ?)/g, (all, before, args, after) => {
        if (!card.names.includes(persresNameIn(args))) return all;
        return before && after ? " " : "";
    });
    const phrase = persresQuote(persresPhrase(card, number));
    const added = new RegExp(`, ${phrase}(?=(?:\\s*<\\w+:[^>]+>)*\\s*$)`, "u");
    if (added.test(text)) {
        text = text.replace(added, "");
    } else {
        text = persresOutsideTags(text, (part) => part.replace(persresPlaceholderPattern(number, " ?"), ""));
    }
    return persresOutsideTags(text, (part) => part.replace(persresPlaceholderPattern(), (all, digits) => {
        return Number(digits) > number ? persresPlaceholder(Number(digits) - 1) : all;
    }));
}

function persresCardClicked(tabname, card) {
    const textarea = gradioApp().querySelector(`#${tabname}_prompt textarea`);
    const clicks = persresClicks[tabname] = persresClicks[tabname] || [];
    const text = textarea.value;
    const last = clicks[clicks.length - 1];
    if (card.names.length && persresConcepts(text, card).includes(card.names[0])) {
        if (last && last.name == card.names[0] && last.after == text) {
            textarea.value = clicks.pop().before; // nothing was typed since
        } else {
            textarea.value = persresRemove(text, card);
        }
    } else if (card.problem) {
        persresSay(card.problem);
        return;
    } else {
        const strength = card.strength ?? opts.extra_networks_default_multiplier ?? 1;
        const written = Number.isInteger(strength) ? strength.toFixed(1) : String(strength);
        textarea.value = persresAdd(text, card, written);
        clicks.push({name: card.names[0], before: text, after: textarea.value});
    }
    updateInput(textarea);
}

function persresSay(sentence) {
    const paragraph = document.createElement("p");
    paragraph.className = "persres-say";
    paragraph.textContent = sentence;
    popup(paragraph);
}

/** Which cards are shown: those that fit the loaded model, all, or those made for one family. */
function persresShowVersion(tabname, version) {
    gradioApp().querySelector(`#${tabname}_residuals`).dataset.persresVersion = version;
}

/** Ask for a card again after its notes or its picture changed. */
function persresRefreshCard(tabname, name) {
    requestGet("./sd_extra_networks/get-single-card", {page: "residuals", tabname: tabname, name: name}, (data) => {
        const cards = gradioApp().querySelectorAll(`#${tabname}_residuals_cards > .card`);
        const old = [...cards].find((card) => card.dataset.name == name);
        const holder = document.createElement("div");
        holder.innerHTML = data.html;
        if (old && holder.firstElementChild) old.replaceWith(holder.firstElementChild);
    }, () => persresSay(`The card of ${name} could not be shown again: refresh the page of cards.`));
}
