"""The host: the WebUI as far as this extension needs it. Beside the entry points, nothing else imports it.

Another WebUI of this line is another class with these methods, which HOST then is; nothing else knows which one it is.
What every model of the line has from ldm (its UNet's call, its autoencoder) is used where it is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import gradio as gr
import torch
from modules import (
    call_queue,
    devices,
    extra_networks,
    initialize_util,
    lowvram,
    paths,
    processing,
    progress,
    prompt_parser,
    scripts,
    sd_hijack,
    sd_models,
    sd_samplers,
    sd_unet,
    shared,
)
from modules.textual_inversion.textual_inversion import Embedding
from torch import nn

from ..conditioning import Conditioning
from ..parameterization import EPS, V, with_zero_terminal_snr

FAMILIES = ("SD1", "SD2", "SDXL", "SD3")
RESTARTING = "persres_restarting"


class A1111:
    """AUTOMATIC1111's WebUI 1.10. It keeps nothing: whatever changes is the WebUI's own."""

    NotFinite = devices.NansException
    """What the WebUI raises where numbers are not finite."""

    # -- the model

    def model(self):
        """The one that is sampled, or to be; where it is not loaded yet, this waits for it."""
        return shared.sd_model

    def loaded_model(self):
        """The one in memory, or None."""
        return sd_models.model_data.sd_model

    def unet(self, model) -> nn.Module:
        return model.model.diffusion_model

    def loaded_unet(self) -> nn.Module | None:
        return getattr(getattr(self.loaded_model(), "model", None), "diffusion_model", None)

    def replaced_unet(self) -> bool:
        """Whether something else than the model's own UNet is called (Settings > SD Unet), which calls no hooks."""
        return sd_unet.current_unet is not None

    def family(self, model) -> str:
        """One of FAMILIES; "" for none of them."""
        return next((family for family in FAMILIES if getattr(model, f"is_{family.lower()}", False)), "")

    def is_refiner(self, model) -> bool:
        """Whether it is SDXL's second model, which goes on with the first one's pictures."""
        return self.family(model) == "SDXL" and len(self.readers(model)) == 1

    def parameterization(self, model) -> str:
        return getattr(model, "parameterization", EPS)

    def alphas(self, model) -> torch.Tensor:
        """ᾱ (T,) that the model was trained with, in fp32: as loaded, or with zero terminal SNR, which of a model of v
        no yaml can say and the settings do."""
        own = getattr(model, "alphas_cumprod_original", model.alphas_cumprod).float()
        zero = self.option("sd_noise_schedule") == "Zero Terminal SNR" or getattr(model, "ztsnr", False)
        return with_zero_terminal_snr(own) if zero and self.parameterization(model) == V else own

    def checkpoint(self, model):
        """The file of a model (`filename`, `name`, `name_for_extra`, `sha256` or None under --no-hashing), or None."""
        return getattr(model, "sd_checkpoint_info", None)

    def checkpoints(self, sha256: str) -> list[str]:
        """What the WebUI calls those with this hash."""
        return [info.name_for_extra for info in list(sd_models.checkpoints_list.values()) if info.sha256 == sha256]

    def chosen_checkpoint(self):
        """The one that the settings name, which may not be loaded yet; None where there is none."""
        try:
            return sd_models.select_checkpoint()
        except FileNotFoundError:
            return None

    def choose_model(self):
        """Load the chosen checkpoint unless it is; the model."""
        return sd_models.reload_model_weights() or shared.sd_model

    def load_model(self, checkpoint):
        """Load this one, which leaves the choice as it is; the model."""
        with sd_models.SkipWritingToConfig():
            return sd_models.reload_model_weights(info=checkpoint) or shared.sd_model

    # -- texts and their tokens

    def parse_tags(self, prompt: str):
        """A prompt without its tags, and of each network its tags' parameters."""
        return extra_networks.parse_prompt(prompt)

    def knows_network(self, name: str) -> bool:
        return name in extra_networks.extra_network_registry

    def schedules(self, prompts: Sequence[str], steps: int, hires_steps: int | None) -> list[list[list]]:
        """For each prompt its parts (AND), each a list of (last step, text), as conds are made of them."""
        indexes, flat, _ = prompt_parser.get_multicond_prompt_list(prompts)
        old = shared.opts.use_old_scheduling
        texts = prompt_parser.get_learned_conditioning_prompt_schedules(flat, steps, hires_steps, old)
        return [[texts[index] for index, _ in parts] for parts in indexes]

    def hires_steps(self, p) -> int:
        """Of the hires pass, as its schedules count them."""
        config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
        steps = p.hr_second_pass_steps or p.steps
        return config.total_steps(steps) if config else steps

    def text_encoder(self, model):
        return model.cond_stage_model

    def tokens(self, encoder, text: str) -> list[int]:
        return [int(token) for token in encoder.tokenize([text])[0]]

    def chunks(self, encoder, text: str) -> list[tuple[list[int], list[tuple[int, str, int]]]]:
        """Of each chunk of a text in a row: its ids, a start token before them, and the embeddings in it, as (place
        behind the start token, name, vectors). An index into the context is the chunk's length times its number more.
        """
        return [
            (
                [int(token) for token in chunk.tokens],
                [(offset, embedding.name, int(embedding.vectors)) for offset, embedding in chunk.fixes],
            )
            for chunk in encoder.process_texts([text])[0][0]
        ]

    def empty_chunk(self, encoder) -> list[int]:
        return self.chunks(encoder, "")[0][0]

    def readers(self, model) -> dict[str, nn.Module]:
        """What reads texts, by the names of `residual.ENCODERS`; of SDXL's refiner the second one alone."""
        encoders = getattr(model.cond_stage_model, "embedders", [model.cond_stage_model])
        encoders = [encoder for encoder in encoders if hasattr(encoder, "encode_embedding_init_text")]
        return {"": encoders[0]} if len(encoders) == 1 else dict(zip(("clip_l", "clip_g"), encoders))

    def token_tables(self, model) -> dict[str, nn.Embedding]:
        """The text encoders' tables of tokens, by the same names."""
        tables = {}
        for name, encoder in self.readers(model).items():
            own = encoder.wrapped  # open_clip's model, or transformers'
            own = own.model if hasattr(own, "model") else own.transformer.text_model.embeddings
            # the WebUI's layer for the users' embeddings is around the table
            tables[name] = getattr(own.token_embedding, "wrapped", own.token_embedding)
        return tables

    def token_vectors(self, model, text: str, most: int) -> dict[str, torch.Tensor]:
        """A text's vectors (n, d) in the model's own tables, by the same names."""
        return {
            name: self.placed(encoder.encode_embedding_init_text(text, most))
            for name, encoder in self.readers(model).items()
        }

    def conditioning(self, model, texts: Sequence[str], side: int, learning: bool = False) -> Conditioning:
        """What the UNet is told of these texts for pictures of this side; of an empty one what the WebUI makes of an
        empty negative prompt. learning: with the graph that leads to the tokens' vectors."""
        readers = self.readers(model)
        given = prompt_parser.SdConditioning(texts, width=side, height=side)
        with torch.set_grad_enabled(learning), _learning(readers.values() if learning else ()):
            found = model.get_learned_conditioning(given)
            if not isinstance(found, dict):
                return Conditioning(found)
            context, vectors = found["crossattn"], found["vector"]
            empty = torch.tensor([not text for text in texts], device=context.device)[:, None]
            if empty.any():
                negative = prompt_parser.SdConditioning([""], True, width=side, height=side)
                zeros = model.get_learned_conditioning(negative)["vector"]
                # of their own length, which the others give
                context, vectors = context.masked_fill(empty[..., None], 0), torch.where(empty, zeros, vectors)
        return Conditioning(context, vectors)

    # -- the users' embeddings

    def embeddings(self) -> dict[int, list]:
        """First token -> (tokens, embedding) of each name; what a prompt's tokens are looked up in, the first that
        matches. The list that the WebUI shows its users is another, and not ours to write in."""
        return sd_hijack.model_hijack.embedding_db.ids_lookup

    def embedding_at(self, tokens: list[int], place: int) -> tuple[str, int, int] | None:
        """(name, vectors, tokens of its name) of the embedding that is read there, or None."""
        embedding, used = sd_hijack.model_hijack.embedding_db.find_embedding_at_position(tokens, place)
        return None if embedding is None else (embedding.name, int(embedding.vectors), used)

    def embedding(self, name: str, vectors: dict[str, torch.Tensor]) -> Embedding:
        """One for `embeddings`, of vectors by the names of `residual.ENCODERS`."""
        some = next(iter(vectors.values()))
        embedding = Embedding(vectors.get("", vectors), name)
        embedding.vectors, embedding.shape = some.shape
        return embedding

    def comments(self) -> list[str]:
        """What the text encoder tells of a generation; may be changed."""
        return sd_hijack.model_hijack.comments

    # -- the rows of an evaluation

    def row_order(self, parts: Sequence[int]) -> list[tuple[int, int | None]]:
        """(image, part of its prompt, or None for the unconditional row) in the order of the sampler's rows.

        parts: how many each image has.
        """
        rows = [(image, part) for image, count in enumerate(parts) for part in range(count)]
        return rows + [(image, None) for image in range(len(parts))]

    def contexts(self, params) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Of the parameters of on_cfg_denoiser: cond (Σ parts, n, d), uncond (images, m, d), in the order of the rows,
        and the vectors (Σ parts, m) that SDXL's UNet is given beside cond."""
        cond, uncond = params.text_cond, params.text_uncond
        if not isinstance(cond, dict):
            return cond, uncond, None
        return cond["crossattn"], uncond["crossattn"], cond["vector"]

    def latent(self) -> torch.Tensor | None:
        """What the sampler showed last."""
        return shared.state.current_latent

    def infotext(self, p, index: int) -> str:
        """Of an image of the batch that is at work."""
        return processing.create_infotext(
            p, p.all_prompts, p.all_seeds, p.all_subseeds, [], p.iteration, position_in_batch=index
        )

    # -- devices

    def device(self) -> torch.device:
        return torch.device(devices.device)

    def placed(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.detach().to(devices.device, torch.float32)

    def vae_dtype(self) -> torch.dtype:
        return devices.dtype_vae

    def keeps_fp8(self) -> bool:
        return devices.fp8

    def autocast(self):
        return devices.autocast()

    def without_autocast(self):
        return devices.without_autocast()

    def moves(self, model) -> bool:
        """Whether its parts come to the card and go (--medvram, --lowvram)."""
        return model.lowvram

    def bring_unet(self, model) -> None:
        """Under --medvram: have it on the card, and let the WebUI's own bookkeeping know."""
        module = model.model
        if model.lowvram and lowvram.module_in_gpu is not module:
            lowvram.send_everything_to_cpu()
            module.to(devices.device)
            lowvram.module_in_gpu = module

    # -- lending

    def queue_lock(self):
        """Who uses the model holds it."""
        return call_queue.queue_lock

    def waiting_tasks(self):
        """The ids of what pages and programs wait for."""
        return progress.pending_tasks

    @contextlib.contextmanager
    def job(self, title: str) -> Iterator[None]:
        """The job that the WebUI's progress shows and its Interrupt ends."""
        state = shared.state
        state.begin(job=title)
        state.job_count = 1
        try:
            yield
        finally:
            state.skipped = state.interrupted = state.stopping_generation = False
            state.textinfo = None
            state.end()

    def progress(self, title: str, done: int, total: int, text: str) -> None:
        state = shared.state
        # a generation that ended clears its job's traces after it has let go of the queue
        state.job, state.job_count = title, 1
        state.sampling_step, state.sampling_steps = done, total
        state.textinfo = f"{title}: {text}"

    def interrupted(self) -> bool:
        return shared.state.interrupted or shared.state.stopping_generation

    def interrupt(self) -> None:
        shared.state.interrupt()

    def forget_skip(self) -> None:
        shared.state.skipped = False

    def job_began(self) -> float | None:
        """When the job of now did; None where there is none."""
        return shared.state.time_start if shared.state.job else None

    def last_began(self) -> float:
        """The same of the job of now or the last one."""
        return shared.state.time_start

    def watch_restarts(self) -> None:
        """From now on `restarting` tells Reload UI from an Interrupt, as which everything that runs is told of it. To
        be called whenever the scripts are loaded."""
        state = shared.state
        if not hasattr(state, RESTARTING):
            request = state.request_restart

            def noted():
                setattr(state, RESTARTING, True)
                request()

            state.request_restart = noted
        setattr(state, RESTARTING, False)

    def restarting(self) -> bool:
        """Whether a reload was asked for and the scripts were not loaded again since."""
        return getattr(shared.state, RESTARTING, False)

    @contextlib.contextmanager
    def placement(self, model) -> Iterator[None]:
        """Under --medvram modules come and go; at its end none is on the card, which the WebUI takes as its start."""
        try:
            yield
        finally:
            if self.moves(model):
                lowvram.send_everything_to_cpu()
            devices.torch_gc()

    @contextlib.contextmanager
    def plain(self, model) -> Iterator[None]:
        """The model itself: without what an earlier generation or a setting left on it."""
        hijack = sd_hijack.model_hijack
        comments, params, circular = hijack.comments, hijack.extra_generation_params, hijack.circular_enabled
        unet = sd_unet.current_unet_option
        found = (getattr(module, "__webui_hypertile_params", None) for module in model.modules())
        tiles = [tile for tile in found if tile is not None]
        enabled = [tile.enabled for tile in tiles]
        try:
            hijack.comments, hijack.extra_generation_params = [], {}
            hijack.apply_circular(False)
            sd_unet.apply_unet("None")
            for tile in tiles:
                tile.enabled = False
            with devices.autocast():
                # each generation activates its own again
                extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
            yield
        finally:
            for tile, value in zip(tiles, enabled):
                tile.enabled = value
            hijack.apply_circular(circular)
            hijack.comments, hijack.extra_generation_params = comments, params
            if unet is not None:
                sd_unet.apply_unet(unet.label)

    # -- what was chosen, and by whom it is asked

    def option(self, name: str, default=None):
        """A value of the WebUI's settings."""
        return getattr(shared.opts, name, default)

    def flag(self, name: str):
        """A value of the command line; None where there is none."""
        return getattr(shared.cmd_opts, name, None)

    def models_folder(self) -> Path:
        return Path(paths.models_path)

    def lora_folder(self) -> Path | None:
        """Where the WebUI's own LoRA files are; None without the extension that has them."""
        folder = self.flag("lora_dir")
        return Path(folder) if folder and Path(folder).is_dir() else None

    def data_folder(self) -> Path:
        return Path(paths.data_path)

    def warn(self, sentence: str) -> None:
        with contextlib.suppress(Exception):  # outside of a browser's request there is nobody to warn
            gr.Warning(sentence)

    def passwords(self) -> list[str]:
        """ "user:password" of those who may use the API: of --api-auth, without it of --gradio-auth."""
        pairs = [pair.strip() for pair in (shared.cmd_opts.api_auth or "").split(",") if pair.strip()]
        return pairs or [":".join(pair) for pair in initialize_util.get_gradio_auth_creds()]

    def forget_defaults(self, api, title: str) -> None:
        """The WebUI fills what a request leaves out with the inputs' values at its start; None is our default of now.

        title: of the script.
        """
        for runner, name in (
            (scripts.scripts_txt2img, "default_script_arg_txt2img"),
            (scripts.scripts_img2img, "default_script_arg_img2img"),
        ):
            values = getattr(api, name, None) or []
            for script in runner.alwayson_scripts if values else ():
                if script.title() == title:
                    values[script.args_from : script.args_to] = [None] * (script.args_to - script.args_from)

    def runs_script(self, p) -> bool:
        """Whether a script of the list is at work, which counts on the pictures that it asked for."""
        chosen = getattr(p, "script_args", None) or [0]
        return bool(chosen[0]) and bool(getattr(getattr(p, "scripts", None), "selectable_scripts", None))

    def plots(self) -> list:
        """The modules of the X/Y/Z plot, where the WebUI has one."""
        names = "xyz_grid.py", "scripts.xyz_grid"
        return [data.module for data in scripts.scripts_data if data.script_class.__module__ in names]

    def styles(self):
        """The users' styles."""
        return shared.prompt_styles


@contextlib.contextmanager
def _learning(readers: Iterable[nn.Module]) -> Iterator[None]:
    """SDXL's conditioner follows a text encoder with a graph only where that is trainable."""
    before = [(reader, reader.is_trainable) for reader in readers if hasattr(reader, "is_trainable")]
    try:
        for reader, _ in before:
            reader.is_trainable = True
        yield
    finally:
        for reader, trainable in before:
            reader.is_trainable = trainable


HOST = A1111()
