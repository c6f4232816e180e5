// The right half of the tab "Personalized Residuals": the trainings, asked for once a second while the tab is seen.
//
// What is drawn comes from the server alone, so a reloaded page or a second one shows the same. The question goes
// through an event of gradio's, which the page's own login guards.

// own: the ids of those that this page saw at work or waiting, or that came after its first look. earlier: of those that
// were there when Train was last pressed, which would look like the new one. done: what a button did.
const persresTraining = {
    asked: 0, busy: false, chosen: null, earlier: [], own: [], jobs: [], parts: {}, step: null, said: "", done: "",
};
const PERSRES_STATES = {
    queued: "waiting", running: "training", finished: "finished", stopped: "stopped", cancelled: "cancelled",
    failed: "failed", interrupted: "interrupted",
};

function persresTrainingRoot() {
    return gradioApp().querySelector("#persres_training_panel");
}

/** An element with these attributes; children may be text. */
function persresElement(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "text", "g"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
}

// -- asking

/** Ask the server, or tell it to do something; then draw. */
async function persresTrainingAsk(question = {}) {
    const state = persresTraining;
    state.busy = true;
    try {
        const told = await persresAsk("persres_training", JSON.stringify(question));
        const before = state.asked ? state.jobs.map((job) => job.id) : null;
        if (told.jobs) state.jobs = told.jobs;
        const own = (job) => persresIsLive(job) || (before && !before.includes(job.id));
        state.own.push(...state.jobs.filter((job) => own(job) && !state.own.includes(job.id)).map((job) => job.id));
        // what a button was refused stays until the next button
        if (question.do || told.error) state.said = told.error;
        if (question.do || told.error) state.done = told.error ? "" : told.done || question.done || "";
        state.lost = "";
    } catch (error) {
        state.lost = error instanceof TypeError ? "The WebUI does not answer; asking again." : error.message;
    } finally {
        state.busy = false;
        state.asked = Date.now();
    }
    persresTrainingDraw();
}

function persresIsLive(job) {
    return ["running", "queued"].includes(job.state);
}

function persresTrainingTick() {
    const root = persresTrainingRoot();
    const seen = Boolean(root && root.offsetParent);
    if (seen && !persresTraining.seen) gradioApp().querySelector("#persres_training_seen").click();
    persresTraining.seen = seen;
    if (!seen || document.hidden || persresTraining.busy) return;
    const live = persresTraining.jobs.some(persresIsLive);
    if (Date.now() - persresTraining.asked >= (live ? 900 : 2000)) persresTrainingAsk();
}

function persresTrainingDo(action, job, values = {}) {
    const sure = {
        cancel: `Cancel the training of "${job.concept}"? Nothing of it is kept.`,
        remove: job.state == "queued" || job.done < job.total && job.state != "cancelled" ?
            `Remove "${job.concept}" from the list? It cannot be continued then.` : "",
    }[action];
    if (sure && !confirm(sure)) return;
    // what ended stays in sight although the next one begins
    if (["stop", "cancel"].includes(action)) persresTraining.chosen = job.id;
    if (action == "resume") persresTraining.chosen = null;
    persresTrainingAsk({do: action, id: job.id, ...values});
}

// -- drawing

/** The job in the upper part: the chosen one, else the one that runs, else the last that did something since Train. */
function persresTrainingShown() {
    const {jobs, chosen, earlier} = persresTraining;
    const own = jobs.filter((job) => !earlier.includes(job.id));
    return jobs.find((job) => job.id == chosen) || jobs.find((job) => job.state == "running") ||
        own.filter((job) => job.state != "queued").pop() || own[0];
}

function persresTrainingDraw() {
    const root = persresTrainingRoot();
    if (!root) return;
    const job = persresTrainingShown();
    const said = persresTraining.lost || persresTraining.said;
    persresTrainingPart("said", said, () => persresElement("p", {class: "persres-refused", role: "status"}, said));
    persresTrainingPart("done", persresTraining.done, () => persresElement("p", {class: "persres-done", role: "status"},
        persresTraining.done));
    persresTrainingPart("head", job && [job.id, job.concept, job.macro_class, job.state], () => persresTrainingHead(job));
    persresTrainingPart("progress", job && [job.id, job.state, job.done, job.total, job.eta, job.steps_per_second,
        job.memory, job.drawing, job.stage], () => persresTrainingProgress(job));
    persresTrainingPart("message", job && job.message, () => persresElement("p", {
        class: job.state == "failed" ? "persres-refused" : "persres-note", role: "status"}, job.message));
    persresTrainingPart("buttons", job && [job.id, job.state, job.done > 0, job.done < job.total, job.total > 0, job.prompt,
        job.concept],
        () => persresTrainingButtons(job));
    persresTrainingPart("curve", job && job.loss.length && [job.id, job.loss, job.done, job.total],
        () => persresTrainingCurve(job));
    persresTrainingPart("previews", job && job.preview.length && [job.id, job.preview, persresTraining.step, job.file],
        () => persresTrainingPreviews(job));
    persresTrainingPart("queue", [persresTraining.jobs.map((each) => [each.id, each.concept, each.macro_class, each.state,
        each.done > 0, each.done < each.total,
        each.total > 0, each.prompt]), job && job.id], () => persresTrainingQueue(persresTraining.jobs, job));
    for (const each of persresTraining.jobs) {
        const row = [...root.querySelectorAll("li[data-id]")].find((item) => item.dataset.id == each.id);
        row.querySelector(".persres-count").textContent = each.total ? `${each.done}/${each.total}` : "";
    }
}

/** Draw a part again where what it shows has changed, so that no button is replaced while it is pressed. */
function persresTrainingPart(name, shows, draw) {
    const root = persresTrainingRoot();
    if (!root.querySelector(":scope > .persres-part")) {
        root.replaceChildren();
        persresTraining.parts = {};
    }
    const known = persresTraining.parts;
    const key = JSON.stringify(shows || null);
    if (known[name]?.key == key) return;
    if (!known[name]) {
        known[name] = {place: persresElement("div", {class: `persres-part persres-part-${name}`})};
        root.append(known[name].place);
    }
    known[name].key = key;
    known[name].place.replaceChildren(...(shows ? [draw()] : []));
}

function persresTrainingHead(job) {
    const title = persresElement("h3", {}, job.concept, persresElement("small", {}, ` V* ${job.macro_class} `),
        persresTrainingState(job));
    if (persresTraining.own.includes(job.id)) return title;
    const begun = job.id.match(/^(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)/);
    const when = begun ? `, of ${begun[1]}-${begun[2]}-${begun[3]} ${begun[4]}:${begun[5]}` : "";
    return persresElement("div", {}, persresElement("p", {class: "persres-note"}, `An earlier training${when}`), title);
}

function persresTrainingState(job) {
    return persresElement("span", {class: `persres-state persres-state-${job.state}`}, PERSRES_STATES[job.state] || job.state);
}

function persresDuration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const pad = (number) => String(number).padStart(2, "0");
    const minutes = Math.floor(whole / 60);
    return minutes >= 60 ? `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

/** How far it is: as pictures of the class, a stage's steps, or all steps. */
function persresTrainingPlace(job) {
    if (job.drawing) return `drawing pictures of the class: ${job.drawing.done} of ${job.drawing.total}`;
    if (!job.total) return "not begun";
    const stage = job.stage;
    if (!stage || job.done >= job.total) return `${job.done} of ${job.total} steps`;
    return `stage ${stage.number} of ${stage.of} (${stage.targets}): step ${stage.done} of ${stage.total}`;
}

function persresTrainingProgress(job) {
    const bars = job.drawing || job;
    const share = bars.total ? 100 * bars.done / bars.total : 0;
    const facts = [persresTrainingPlace(job)];
    if (job.state == "running") {
        const speed = job.steps_per_second;
        if (speed) facts.push(speed >= 1 ? `${speed.toFixed(1)} steps/s` : `${(1 / speed).toFixed(1)} s/step`);
        if (job.eta !== null && job.eta !== undefined) facts.push(`${persresDuration(job.eta)} left`);
    }
    if (job.memory) facts.push(`${job.memory.kind} ${(job.memory.bytes / 1e9).toFixed(1)} GB`);
    const bar = persresElement("div", {
        class: "persres-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": bars.total,
        "aria-valuenow": bars.done, "aria-label": `Training of ${job.concept}`,
    }, persresElement("div", {style: `width: ${share.toFixed(1)}%`}));
    return persresElement("div", {}, bar, persresElement("p", {class: "persres-facts"}, facts.join(" · ")));
}

/** The buttons of a state: [action, label, what it does]. */
function persresTrainingActions(job) {
    const more = !job.total || job.done < job.total;
    return {
        running: [
            ["stop", "Stop", "end the training and keep what is learned"],
            ["cancel", "Cancel", "end the training and keep nothing"],
            ["save", "Save now", "write what is learned until now and go on"],
            ["sample", "Sample now", "draw a preview and go on"],
        ],
        queued: [["remove", "Remove", "take it out of the queue"]],
        interrupted: [
            ["resume", "Continue", "go on where it was interrupted"],
            ["remove", "Remove", "take it out of the list"],
        ],
        stopped: [
            ...(more ? [["resume", "Continue", "go on where it was stopped"]] : []),
            ["remove", "Remove", "take it out of the list; the residual's file stays"],
        ],
        failed: [
            ["resume", job.done ? "Continue" : "Try again", "put it into the queue again"],
            ["remove", "Remove", "take it out of the list"],
        ],
    }[job.state] || [["remove", "Remove", "take it out of the list; the residual's file stays"]];
}

function persresTrainingButton(label, title, act, kind = "") {
    const button = persresElement("button", {type: "button", class: `persres-button ${kind}`.trim(), title: title}, label);
    button.addEventListener("click", (event) => {
        event.stopPropagation();
        act();
    });
    return button;
}

function persresTrainingButtons(job) {
    const buttons = persresTrainingActions(job).map(([action, label, title]) => persresTrainingButton(label, title,
        () => persresTrainingDo(action, job), `persres-do-${action}`));
    if (job.prompt) {
        buttons.unshift(persresTrainingSender(job, "persres-do-send persres-primary"));
        buttons.push(persresTrainingButton("Save as LoRA", "write the residual into the WebUI's folder of LoRA files",
            () => persresTrainingDo("export", job), "persres-do-export"));
    }
    return persresElement("div", {class: "persres-buttons"}, ...buttons);
}

function persresTrainingSender(job, kind) {
    return persresTrainingButton("Send to txt2img", job.prompt, () => persresTrainingSend(job), kind);
}

function persresTrainingSend(job) {
    const textarea = gradioApp().querySelector("#txt2img_prompt textarea");
    const before = textarea.value;
    textarea.value = job.prompt;
    updateInput(textarea);
    for (const side of job.side ? ["width", "height"] : []) {
        const input = gradioApp().querySelector(`#txt2img_${side} input[type=number]`);
        input.value = job.side;
        updateInput(input);
    }
    persresMeetLag("txt2img", before);
    switch_to_txt2img();
}

/** The loss as a line: its points are means, from the first step to the last that was made. */
function persresTrainingCurve(job) {
    const [width, height, left, right, top, bottom] = [600, 190, 46, 10, 10, 24];
    const points = job.loss.filter(Number.isFinite);
    let [low, high] = [Math.min(...points), Math.max(...points)];
    if (high - low < 1e-6) [low, high] = [low - 5e-7, high + 5e-7];
    const x = (index) => left + (width - left - right) * Math.min(1, job.done / job.total) *
        (points.length > 1 ? index / (points.length - 1) : 1);
    const y = (value) => top + (height - top - bottom) * (high - value) / (high - low);
    const path = (values) => values.map((value, index) =>
        `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    // the loss of a step jumps with its noise: the mean of the last ones shows where it goes
    const count = Math.max(3, Math.round(points.length / 8));
    const means = points.map((_, index) => {
        const part = points.slice(Math.max(0, index - count + 1), index + 1);
        return part.reduce((sum, value) => sum + value, 0) / part.length;
    });
    const label = (value) => high >= 0.1 ? value.toFixed(3) : value.toPrecision(2);
    const svg = persresElement("svg", {
        viewBox: `0 0 ${width} ${height}`, class: "persres-curve", role: "img",
        "aria-label": `Loss: ${label(points[0])} at first, now ${label(points[points.length - 1])}`,
        "data-points": points.length,
    });
    for (const value of [high, (high + low) / 2, low]) {
        svg.append(
            persresElement("line", {x1: left, x2: width - right, y1: y(value), y2: y(value)}),
            persresElement("text", {x: left - 5, y: y(value) + 4, "text-anchor": "end"}, label(value)),
        );
    }
    svg.append(
        persresElement("text", {x: left, y: height - 6}, "0"),
        persresElement("text", {x: width - right, y: height - 6, "text-anchor": "end"}, `step ${job.total}`),
        persresElement("text", {x: (left + width) / 2, y: height - 6, "text-anchor": "middle"}, "loss"),
    );
    svg.append(persresElement("path", {d: path(points), class: "persres-raw"}), persresElement("path", {d: path(means)}));
    return svg;
}

function persresFile(path) {
    return "./file=" + encodeURI(path).replace(/[#?]/g, encodeURIComponent);
}

/** The last preview, or the one that was chosen by its step. */
function persresTrainingPreviews(job) {
    const shown = job.preview.find((each) => each.step == persresTraining.step) || job.preview[job.preview.length - 1];
    const choose = (which) => job.file && persresTrainingButton("Use as card picture",
        `${job.name || job.concept} shows this picture among the residuals`,
        () => persresTrainingDo("picture", job, {
            step: shown.step, which: which, done: `The card of ${job.name || job.concept} has this picture now.`,
        }), `persres-do-picture-${which}`);
    const picture = (path, caption, which) => path && persresElement("figure", {},
        persresElement("img", {src: persresFile(path), alt: `${caption}, step ${shown.step}`}),
        persresElement("figcaption", {}, caption), choose(which));
    const steps = job.preview.map((each) => persresTrainingButton(each.step, `the preview after ${each.step} steps`, () => {
        persresTraining.step = each === job.preview[job.preview.length - 1] ? null : each.step;
        persresTrainingDraw();
    }, each === shown ? "persres-chosen" : ""));
    return persresElement("div", {},
        persresElement("div", {class: "persres-previews"}, picture(shown.plain, "plain", "plain"),
            picture(shown.lag, "LAG", "lag")),
        persresElement("div", {class: "persres-steps"}, "Preview at step ", ...steps));
}

function persresTrainingQueue(jobs, shown) {
    if (!jobs.length) {
        return persresElement("p", {class: "persres-note"}, "No trainings yet. Drop images, give a name and a class, press Train.");
    }
    const waiting = jobs.filter((job) => job.state == "queued");
    const rows = jobs.map((job) => {
        const place = waiting.indexOf(job);
        const buttons = job.prompt ? [persresTrainingSender(job, "persres-do-send")] : [];
        if (place > 0) buttons.push(persresTrainingButton("↑", "earlier", () => persresTrainingDo("move", job, {places: -1}), "persres-do-up"));
        if (place >= 0 && place < waiting.length - 1) {
            buttons.push(persresTrainingButton("↓", "later", () => persresTrainingDo("move", job, {places: 1}), "persres-do-down"));
        }
        for (const [action, label, title] of persresTrainingActions(job)) {
            if (["remove", "resume"].includes(action)) {
                buttons.push(persresTrainingButton(label, title, () => persresTrainingDo(action, job), `persres-do-${action}`));
            }
        }
        const row = persresElement("li", {class: shown && job.id == shown.id ? "persres-chosen" : "", "data-id": job.id, tabindex: 0},
            persresElement("b", {}, job.concept), persresElement("span", {}, `V* ${job.macro_class}`),
            persresTrainingState(job), persresElement("span", {class: "persres-count"}),
            persresElement("span", {class: "persres-buttons"}, ...buttons));
        const choose = () => {
            persresTraining.chosen = job.state == "running" ? null : job.id;
            persresTraining.step = null;
            persresTrainingDraw();
        };
        row.addEventListener("click", choose);
        row.addEventListener("keydown", (event) => event.target === row && event.key == "Enter" && choose());
        return row;
    });
    return persresElement("ul", {class: "persres-queue"}, ...rows);
}

onUiLoaded(() => {
    gradioApp().querySelector("#persres_training_start")?.addEventListener("click", () => {
        persresTraining.earlier = persresTraining.jobs.filter((job) => !persresIsLive(job)).map((job) => job.id);
        persresTraining.chosen = null;
        persresTrainingDraw();
    });
    setInterval(persresTrainingTick, 300);
});
