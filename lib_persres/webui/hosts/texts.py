"""Prompts as the WebUI reads them: tags, schedules, chunks of tokens. The same in every WebUI of the line."""

from __future__ import annotations

from collections.abc import Sequence

from modules import extra_networks, prompt_parser, sd_samplers, shared


class Texts:
    def parse_tags(self, prompt: str):
        """A prompt without its tags, and of each network its tags' parameters."""
        return extra_networks.parse_prompt(prompt)

    def knows_network(self, name: str) -> bool:
        return name in extra_networks.extra_network_registry

    def schedules(self, prompts: Sequence[str], steps: int, hires_steps: int | None) -> list[list[list]]:
        """For each prompt its parts (AND), each a list of (last step, text), as conds are made of them."""
        indexes, flat, _ = prompt_parser.get_multicond_prompt_list(prompts)
        # Forge Neo has neither the setting nor the argument
        old = {"use_old_scheduling": True} if getattr(shared.opts, "use_old_scheduling", False) else {}
        texts = prompt_parser.get_learned_conditioning_prompt_schedules(flat, steps, hires_steps, **old)
        return [[texts[index] for index, _ in parts] for parts in indexes]

    def hires_steps(self, p) -> int:
        """Of the hires pass, as its schedules count them."""
        config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
        steps = p.hr_second_pass_steps or p.steps
        return config.total_steps(steps) if config else steps

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
