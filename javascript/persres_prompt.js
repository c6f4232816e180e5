// What a card's click makes of a prompt: text in, text out. No pattern here looks further than it consumes, so the time
// grows with the text's length and no faster.
//
// card: names (what a tag may call the residual, the best first), noun (its class), phrase (the user's own, or ""),
// plain (it is a LoRA file, whose phrase has no V*).

const PERSRES_TAG_START = /<([\p{L}\p{N}_]+):/uy;
const PERSRES_PLACEHOLDER = /(?<![\p{L}\p{N}_*])V(\d*)\*(?![\p{L}\p{N}_])/gu;
const PERSRES_IN_WORD = /[\p{L}\p{M}\p{N}_-]/u;

/** The text in pieces, tags as the WebUI finds them apart: {text}, of a tag also {network, args}. */
function persresPieces(text) {
    const pieces = [];
    let done = 0;
    let at = text.indexOf("<");
    while (at >= 0) {
        PERSRES_TAG_START.lastIndex = at;
        const start = PERSRES_TAG_START.exec(text);
        const from = at + (start ? start[0].length : 1);
        const end = start ? text.indexOf(">", from) : -1;
        if (start && end < 0) break; // nothing is closed any more
        if (end > from) {
            if (at > done) pieces.push({text: text.slice(done, at)});
            pieces.push({text: text.slice(at, end + 1), network: start[1], args: text.slice(from, end)});
            done = end + 1;
        }
        at = text.indexOf("<", Math.max(done, from));
    }
    if (done < text.length) pieces.push({text: text.slice(done)});
    return pieces;
}

function persresJoin(pieces) {
    return pieces.map((piece) => piece.text).join("");
}

function persresIsOurs(piece) {
    return piece.network == "persres";
}

/** The first argument of a tag that is no key=value. */
function persresNameIn(args) {
    const plain = args.split(":").filter((arg) => arg.split("=").length != 2);
    return plain.length ? plain[0].trim() : "";
}

/** The names in the prompt's tags, in their order; each concept once, this card's under its first name. */
function persresConcepts(text, card) {
    const names = persresPieces(text).filter(persresIsOurs).map((piece) => persresNameIn(piece.args));
    return [...new Set(names.map((name) => card.names.includes(name) ? card.names[0] : name))];
}

/** The text with `change` applied to all that is not within a tag. */
function persresOutsideTags(text, change) {
    return persresJoin(persresPieces(text).map((piece) => piece.network ? piece : {text: change(piece.text)}));
}

function persresPlaceholder(number) {
    return number == 1 ? "V*" : `V${number}*`;
}

/** The number of V*, V2*, V03*: 1, 2, 3. */
function persresNumber(digits) {
    return digits ? Number(digits) : 1;
}

function persresHas(text, number) {
    return persresPieces(text).some((piece) => !piece.network &&
        [...piece.text.matchAll(PERSRES_PLACEHOLDER)].some((match) => persresNumber(match[1]) == number));
}

/** The card's own phrase for a concept's place in the prompt. */
function persresPhrase(card, number) {
    const phrase = card.phrase || `V* ${card.noun}`.trim();
    return phrase.replace(PERSRES_PLACEHOLDER, (all, digits) => {
        return persresNumber(digits) == 1 ? persresPlaceholder(number) : all;
    });
}

/** [the prompt, the white space and tags at its end]. */
function persresSplitEnd(text) {
    const pieces = persresPieces(text);
    let count = pieces.length;
    while (count && (pieces[count - 1].network || !pieces[count - 1].text.trim())) count--;
    const body = persresJoin(pieces.slice(0, count)).trimEnd();
    return [body, text.slice(body.length)];
}

/** The prompt with the card's tag and phrase. The tag comes last among ours, so the others keep their numbers. */
function persresAdd(text, card, strength) {
    const number = persresConcepts(text, card).length + 1;
    const tag = `<persres:${card.names[0]}:${strength}>`;
    const pieces = persresPieces(persresAddPhrase(text, card, number));
    const last = pieces.map(persresIsOurs).lastIndexOf(true);
    if (last >= 0) {
        pieces[last].text += ` ${tag}`;
        return persresJoin(pieces);
    }
    return pieces.length ? `${tag} ${persresJoin(pieces)}` : tag;
}

/** Whether these words stand in the text, outside of tags and of other words. */
function persresSays(text, words) {
    return persresPieces(text).some((piece) => !piece.network && persresFindNoun(piece.text, words) >= 0);
}

function persresAddPhrase(text, card, number) {
    if (card.plain ? !card.phrase || persresSays(text, card.phrase) : persresHas(text, number)) return text;
    if (card.noun && !card.phrase) {
        // the class is in the prompt already: it becomes the concept
        const pieces = persresPieces(text);
        for (const piece of pieces) {
            const at = piece.network ? -1 : persresFindNoun(piece.text, card.noun);
            if (at < 0) continue;
            piece.text = `${piece.text.slice(0, at)}${persresPlaceholder(number)} ${piece.text.slice(at)}`;
            return persresJoin(pieces);
        }
    }
    const phrase = persresPhrase(card, number);
    const [body, end] = persresSplitEnd(text);
    if (!body) {
        const all = text.trimEnd();
        return (all ? all + " " : "") + (card.phrase ? phrase : `a photo of a ${phrase}`);
    }
    const separator = /(?:[,.;:!?]|\bAND|\bBREAK)$/.test(body.slice(-8)) ? " " : ", ";
    return body + separator + phrase + end;
}

/** Where the noun stands as a word of its own, in any case, and is no concept's yet; -1 if nowhere. */
function persresFindNoun(text, noun) {
    // outside of brackets "-" is no special character, and the flag u forbids to escape it
    const pattern = new RegExp(noun.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
    for (const match of text.matchAll(pattern)) {
        const [before, after] = [text.slice(0, match.index), text.slice(match.index + match[0].length)];
        if (PERSRES_IN_WORD.test(persresLast(before)) || PERSRES_IN_WORD.test(persresFirst(after))) continue;
        if (!persresEndsWithPlaceholder(before)) return match.index;
    }
    return -1;
}

function persresFirst(text) {
    return text ? String.fromCodePoint(text.codePointAt(0)) : "";
}

function persresLast(text) {
    const pair = /[\uDC00-\uDFFF]/.test(text.slice(-1)) ? 2 : 1;
    return text.slice(-pair);
}

/** Whether it ends with V* and white space. */
function persresEndsWithPlaceholder(text) {
    const cut = text.trimEnd();
    if (cut.length == text.length || !cut.endsWith("*")) return false;
    let at = cut.length - 2;
    while (at >= 0 && cut[at] >= "0" && cut[at] <= "9") at--;
    return cut[at] == "V";
}

/** The prompt without the card's tags and phrase; V* of the concepts behind it move up by one. */
function persresRemove(text, card) {
    const number = persresConcepts(text, card).indexOf(card.names[0]) + 1;
    const kept = [];
    for (const piece of persresPieces(text)) {
        const last = kept[kept.length - 1];
        if (persresIsOurs(piece) && card.names.includes(persresNameIn(piece.args))) {
            const space = Boolean(last && !last.network && last.text.endsWith(" "));
            if (space) last.text = last.text.slice(0, -1);
            kept.push({text: "", gone: true, space: space});
        } else if (last?.gone && !piece.network && piece.text.startsWith(" ")) {
            last.text = last.space ? " " : "";
            kept.push({text: piece.text.slice(1)});
        } else {
            kept.push(piece);
        }
    }
    text = persresJoin(kept);
    const [body, end] = persresSplitEnd(text);
    const phrase = `, ${persresPhrase(card, number)}`;
    if (card.plain && card.phrase && body == card.phrase) {
        text = end;
    } else if ((!card.plain || card.phrase) && body.endsWith(phrase)) {
        text = body.slice(0, -phrase.length) + end;
    } else if (!card.plain) {
        text = persresOutsideTags(text, (part) => persresWithout(part, number));
    }
    return persresOutsideTags(text, (part) => part.replace(PERSRES_PLACEHOLDER, (all, digits) => {
        const own = persresNumber(digits);
        return own > number && Number.isSafeInteger(own) ? persresPlaceholder(own - 1) : all;
    }));
}

/** Without V* of this number, and a space behind it. */
function persresWithout(text, number) {
    let [left, done] = ["", 0];
    for (const match of text.matchAll(PERSRES_PLACEHOLDER)) {
        if (persresNumber(match[1]) != number) continue;
        left += text.slice(done, match.index);
        done = match.index + match[0].length;
        if (text[done] == " ") done++;
    }
    return left + text.slice(done);
}
