// Cards of the tab "Residuals": a click puts the tag and a phrase with V* into the prompt, the next one takes them out.
//
// card: as in persres_prompt.js, and strength (a number, or null for the WebUI's default), problem (why it cannot be
// used, or null).

const persresClicks = {};

function persresCardClicked(tabname, card) {
    const textarea = gradioApp().querySelector(`#${tabname}_prompt textarea`);
    const clicks = persresClicks[tabname] = persresClicks[tabname] || [];
    const text = textarea.value;
    const last = clicks[clicks.length - 1];
    if (card.names.length && persresConcepts(text, card).includes(card.names[0])) {
        if (last && last.name == card.names[0] && last.after == text) {
            const undone = clicks.pop(); // nothing was typed since
            textarea.value = undone.before;
            if (undone.opened) persresAccordion(tabname, false);
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
        const opened = persresMeetLag(tabname, text);
        clicks.push({name: card.names[0], before: text, after: textarea.value, opened: opened});
    }
    updateInput(textarea);
}

/** The accordion opens with a prompt's first tag, so that LAG acts and is seen; whether it was closed until now. */
function persresMeetLag(tabname, before) {
    if ((opts.persres_lag ?? "accordion") != "accordion" || persresConcepts(before, {names: []}).length) return false;
    return persresAccordion(tabname, true);
}

/** Open or close it; whether it was the other way until now. */
function persresAccordion(tabname, open) {
    const id = `script_${tabname}_personalized_residuals_enabled`;
    const checkbox = gradioApp().querySelector(`#${id}-checkbox input`);
    if (!checkbox || checkbox.checked == open) return false;
    inputAccordionChecked(id, open);
    return true;
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
