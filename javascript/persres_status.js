// Below the accordion's title: which residuals the prompt uses and what is wrong with them, while it is typed.
//
// A prompt is asked about once it has rested for a tick, one question at a time, and only if it has a tag of ours; so
// who uses none asks nothing. The prompt is looked at rather than waited for: no event tells of every change of it.

const persresStatus = {txt2img: {}, img2img: {}};
const PERSRES_STATUS_EVERY = 400;
/** A tag of ours, or what may be meant as one, such as <persre:rex>. */
const PERSRES_LIKE_TAG = /<\s*p/i;

/** Ask what gradio calls `name`; what is answered is JSON. Throws a sentence. */
async function persresAsk(name, question) {
    const answer = await fetch(`./run/${name}`, {
        method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify({data: [question]}),
    });
    if (answer.status == 401) throw new Error("The login has ended: reload the page.");
    if (!answer.ok) throw new Error(`The WebUI answers with status ${answer.status}.`);
    return JSON.parse((await answer.json()).data[0]);
}

async function persresStatusLook(tabname) {
    const state = persresStatus[tabname];
    const prompt = gradioApp().querySelector(`#${tabname}_prompt textarea`);
    if (!prompt?.offsetParent) {
        state.shown = null; // files and the model may be others when it is seen again
        return;
    }
    const text = prompt.value;
    const key = JSON.stringify([text, opts.sd_model_checkpoint, opts.sd_checkpoint_hash]);
    if (state.busy || key == state.shown) return;
    if (!PERSRES_LIKE_TAG.test(text)) {
        state.shown = key;
        persresStatusDraw(tabname, {concepts: [], problems: []});
    } else if (key == state.seen) {
        state.busy = true;
        try {
            persresStatusDraw(tabname, await persresAsk("persres_prompt", text));
            state.shown = key;
        } catch (error) {
            console.log(`persres: the prompt could not be looked at: ${error}`);
            state.seen = null;
        } finally {
            state.busy = false;
        }
    }
    state.seen = key;
}

function persresStatusDraw(tabname, told) {
    const label = gradioApp().querySelector(`#script_${tabname}_personalized_residuals_enabled > .label-wrap`);
    if (!label) return;
    let place = label.parentElement.querySelector(":scope > .persres-status");
    if (!place) {
        place = persresElement("div", {class: "persres-status", role: "status"});
        label.after(place);
    }
    const line = (kind, ...parts) => persresElement("p", {class: kind}, ...parts);
    const used = told.concepts.filter((concept) => concept.phrase);
    const names = used.flatMap((concept, index) => [index ? ", " : "",
        persresElement("b", {}, concept.name), ` (${concept.phrase})`]);
    place.replaceChildren(
        ...(used.length ? [line("persres-status-used", "In the prompt: ", ...names)] : []),
        ...told.concepts.filter((concept) => concept.problem).map((concept) =>
            line("persres-status-wrong", persresElement("b", {}, concept.name), `: ${concept.problem}`)),
        ...told.problems.map((problem) => line("persres-status-wrong", problem)),
        ...told.concepts.filter((concept) => concept.note).map((concept) =>
            line("persres-status-note", persresElement("b", {}, concept.name), `: ${concept.note}`)),
    );
}

onUiLoaded(() => {
    setInterval(() => Object.keys(persresStatus).forEach(persresStatusLook), PERSRES_STATUS_EVERY);
});
