// The images in the tab "Personalized Residuals": a list of uploaded files in a hidden input, which the server draws; a
// reload of the page keeps it. There are two such lists, each of a kind, with which the ids of its elements begin.

const PERSRES_KINDS = ["persres_training", "persres_training_others"]; // the photos, and pictures of the class

function persresTrainingChosen(kind) {
    return gradioApp().querySelector(`#${kind}_chosen textarea, #${kind}_chosen input`);
}

function persresTrainingChange(kind, change) {
    const field = persresTrainingChosen(kind);
    field.value = JSON.stringify(change(JSON.parse(field.value || "[]")));
    updateInput(field);
    try {
        sessionStorage.setItem(`${kind}_chosen`, field.value);
    } catch (error) {
        console.log(`persres: a reload will lose the images: ${error}`);
    }
}

/** What was dropped before the page was reloaded, if the server still has it. */
async function persresTrainingRestore(kind) {
    try {
        const kept = JSON.parse(sessionStorage.getItem(`${kind}_chosen`) || "[]");
        const answers = await Promise.all(kept.map((path) => fetch(persresFile(path), {method: "HEAD"})));
        const there = kept.filter((_, index) => answers[index].ok);
        if (kept.length) persresTrainingChange(kind, (known) => [...new Set([...there, ...known])]);
    } catch (error) {
        console.log(`persres: the images of before are not here: ${error}`);
    }
}

async function persresTrainingUpload(kind, files) {
    const hint = gradioApp().querySelector(`#${kind}_drop span`);
    const before = JSON.parse(persresTrainingChosen(kind).value || "[]").length;
    const most = Number(gradioApp().querySelector(`#${kind}_files`).dataset.most);
    if (before + files.length > most) {
        hint.textContent = `${before + files.length} images are too many: at most ${most} are allowed.`;
        return;
    }
    const paths = [];
    try {
        for (const file of files) {
            hint.textContent = `uploading ${paths.length + 1} of ${files.length}: ${file.name}`;
            const body = new FormData();
            body.append("files", file, file.name);
            const answer = await fetch("./upload", {method: "POST", body: body});
            if (!answer.ok) throw new Error(`status ${answer.status}`);
            paths.push(...await answer.json());
        }
        hint.textContent = "or click to choose them";
    } catch (error) {
        hint.textContent = `${files[paths.length].name} could not be uploaded (${error.message}): drop it again.`;
    }
    persresTrainingChange(kind, (known) => [...new Set([...known, ...paths])]);
}

function persresTrainingConnect(app) {
    const zone = (event) => event.target.closest?.(".persres-drop");
    app.addEventListener("click", (event) => {
        const button = event.target.closest?.(".persres-remove");
        const kind = PERSRES_KINDS.find((each) => button?.closest(`#${each}_shown`));
        if (!kind) return;
        button.closest(".persres-image").style.opacity = 0.3;
        persresTrainingChange(kind, (known) => known.filter((path) => path != button.dataset.key));
    });
    app.addEventListener("change", (event) => {
        const kind = PERSRES_KINDS.find((each) => event.target.id == `${each}_files`);
        if (!kind || !event.target.files.length) return;
        persresTrainingUpload(kind, [...event.target.files]);
        event.target.value = ""; // so that the same file can be chosen again
    });
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
        app.addEventListener(kind, (event) => {
            const place = zone(event);
            if (!place) return;
            event.preventDefault();
            event.stopPropagation();
            place.classList.toggle("persres-over", kind == "dragenter" || kind == "dragover");
            const files = [...event.dataTransfer.files];
            if (kind == "drop" && files.length) persresTrainingUpload(place.dataset.kind, files);
        });
    }
}

onUiLoaded(() => {
    persresTrainingConnect(gradioApp());
    PERSRES_KINDS.forEach(persresTrainingRestore);
});
