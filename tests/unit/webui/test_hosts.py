"""What the hosts of Forge's line have by other names; stand-ins for their modules, no WebUI is needed for it."""

import contextlib
import importlib
import sys
import threading
from collections import deque
from queue import Queue
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from lib_persres.errors import PersresError

HOSTS = "lib_persres.webui.hosts"
OF_NEO = (
    "call_queue extra_networks initialize_util paths processing progress prompt_parser scripts sd_models sd_samplers "
    "shared"
).split()
"""Of `modules`, what Forge Neo has beside its devices; it has no sd_hijack and no lowvram."""


@pytest.fixture
def backend(monkeypatch):
    """The class of Forge and Forge Neo among no modules but those of Neo."""
    for name in [name for name in sys.modules if name.startswith(HOSTS)]:
        monkeypatch.delitem(sys.modules, name)
    modules = SimpleNamespace(**{name: MagicMock() for name in OF_NEO}, devices=SimpleNamespace(device="cpu"))
    for name, module in {
        "gradio": MagicMock(),
        "modules": modules,
        "modules_forge": MagicMock(),
        "backend": MagicMock(),
        "backend.text_processing": MagicMock(),
        "backend.text_processing.textual_inversion": MagicMock(),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.import_module(f"{HOSTS}.backend").Backend()
    yield SimpleNamespace(host=found, modules=modules)
    for name in [name for name in sys.modules if name.startswith(HOSTS)]:
        del sys.modules[name]


def test_what_is_raised_is_an_exception_where_the_host_has_none_for_it(backend):
    assert issubclass(backend.host.NotFinite, Exception) and not backend.host.replaced_unet()


def model_with(autoencoder):
    return SimpleNamespace(forge_objects=SimpleNamespace(vae=SimpleNamespace(first_stage_model=autoencoder)))


def test_the_scale_of_latents_is_the_autoencoders_own_or_its_formats(backend):
    assert backend.host.scale(model_with(SimpleNamespace(scaling_factor=0.5))) == 0.5
    assert backend.host.scale(model_with(SimpleNamespace(latent_format=SimpleNamespace(scale_factor=0.25)))) == 0.25


@pytest.mark.parametrize("old", [None, False, True])
def test_schedules_are_read_the_old_way_only_where_there_is_one(backend, old):
    parser, shared = backend.modules.prompt_parser, backend.modules.shared
    shared.opts = SimpleNamespace() if old is None else SimpleNamespace(use_old_scheduling=old)
    parser.get_multicond_prompt_list.return_value = [[(0, 1.0)]], ["a dog"], {}
    asked = []

    def read(texts, steps, hires_steps=None, **kwargs):
        asked.append(kwargs)
        return [[[steps, text]] for text in texts]

    parser.get_learned_conditioning_prompt_schedules = read
    assert backend.host.schedules(["a dog"], 3, None) == [[[[3, "a dog"]]]]
    assert asked == [{"use_old_scheduling": True} if old else {}]


def test_texts_are_read_with_the_clip_skip_of_the_settings_and_outside_of_inference_mode(backend):
    class Model:
        forge_objects = SimpleNamespace(clip=SimpleNamespace(patcher="its", cond_stage_model=torch.nn.Identity()))

        def set_clip_skip(self, layers):
            self.layers = layers

        @torch.inference_mode()
        def get_learned_conditioning(self, texts):
            return [(text, self.layers, torch.is_inference_mode_enabled()) for text in texts]

    backend.modules.shared.opts = SimpleNamespace(CLIP_stop_at_last_layers=2.0)
    assert backend.host.read(Model(), ["a dog"]) == [("a dog", 2, False)]
    sys.modules["backend"].memory_management.load_models_gpu.assert_called_once_with(["its"])


def test_tiles_are_the_hosts_own_matter(backend):
    model = object()
    backend.host.tile(model, False)
    sys.modules["modules_forge"].utils.apply_circular_forge.assert_called_once_with(model, False)


class Task:
    def __init__(self, task_id, heard):
        self.task_id, self.heard = task_id, heard

    def work(self):
        self.heard.append(self.task_id)
        if self.task_id == 2:
            raise ArithmeticError


def of_forge(tasks):
    return SimpleNamespace(lock=threading.Lock(), waiting_list=tasks, finished_list=[])


def of_neo(tasks):
    lock = threading.Lock()
    return SimpleNamespace(
        lock=lock, condition=threading.Condition(lock), waiting_queue=deque(tasks), finished_tasks={}
    )


def of_another_neo(tasks):
    waiting = Queue()
    for task in tasks:
        waiting.put(task)
    return SimpleNamespace(lock=threading.Lock(), wait_queue=waiting)


@pytest.mark.parametrize("kind", [of_forge, of_neo, of_another_neo])
def test_a_training_lets_those_that_wait_for_the_thread_go_first(backend, kind, monkeypatch, capsys):
    heard = []
    thread = kind([Task(1, heard), Task(2, heard), Task(3, heard)])
    monkeypatch.setattr(sys.modules[f"{HOSTS}.threaded"], "main_thread", thread)
    waits = threading.Thread(target=_wait, args=(thread, heard))
    if kind is of_neo:
        waits.start()
    backend.host.serve()
    assert heard[:3] == [1, 2, 3] and "ArithmeticError" in capsys.readouterr().err
    if kind is of_neo:
        waits.join(10)
        assert heard[3:] == ["told"] and thread.finished_tasks.keys() == {1, 2, 3}
    if kind is of_forge:
        assert [task.task_id for task in thread.finished_list] == [1, 2, 3]


def test_where_nobody_can_be_asked_who_waits_for_the_thread_nobody_is_served(backend, monkeypatch):
    monkeypatch.setattr(sys.modules[f"{HOSTS}.threaded"], "main_thread", SimpleNamespace(lock=threading.Lock()))
    backend.host.serve()


def _wait(thread, heard):
    with thread.condition:
        if thread.condition.wait_for(lambda: 3 in thread.finished_tasks, 10):
            heard.append("told")


def test_weights_made_in_inference_mode_that_a_training_moves_stay_usable(backend):
    """A move outside of that mode leaves tensors that raise in whatever reads them, pictures included."""
    with torch.inference_mode():
        part = torch.nn.Linear(4, 4)
    moved = sys.modules["backend"].memory_management.load_models_gpu
    moved.side_effect = lambda patchers: part.to(torch.float64)  # a move that any processor can make
    objects = SimpleNamespace(
        unet=SimpleNamespace(model=SimpleNamespace(diffusion_model=part)),
        clip=SimpleNamespace(patcher=None, cond_stage_model=torch.nn.Identity()),
    )
    objects.shallow_copy = lambda: objects
    model = SimpleNamespace(forge_objects_after_applying_lora=objects, tiling_enabled=False)
    x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    with backend.host.plain(model):
        part(x).sum().backward()
    with torch.inference_mode():
        assert part(torch.ones(2, 4, dtype=torch.float64)).isfinite().all()
    assert x.grad is not None and moved.called


@pytest.mark.parametrize("chosen", ["a LoRA", None])
def test_the_lora_that_is_added_to_all_prompts_is_not_trained_through(backend, chosen):
    """With that setting the host's own way to leave all out breaks off, since there is no prompt to add it to."""
    data = {} if chosen is None else {"sd_lora": chosen}
    backend.modules.shared.opts = SimpleNamespace(data=data)
    seen = []
    backend.modules.extra_networks.activate.side_effect = lambda p, networks: seen.append((data["sd_lora"], networks))
    backend.host.without_networks()
    assert seen == [("None", {})] and data.get("sd_lora") == chosen


@pytest.mark.parametrize("comes", [True, False])
def test_a_unet_of_which_a_part_was_sent_away_is_brought_back_or_that_is_said(backend, comes):
    there, away = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    unet = torch.nn.Sequential(there, away)
    moved = sys.modules["backend"].memory_management.load_models_gpu
    moved.side_effect = lambda patchers: unet.__setitem__(1, torch.nn.Linear(2, 2)) if comes else None
    model = SimpleNamespace(
        forge_objects=SimpleNamespace(unet=SimpleNamespace(model=SimpleNamespace(diffusion_model=unet)))
    )
    with contextlib.nullcontext() if comes else pytest.raises(PersresError, match="has no room there"):
        backend.host.bring_unet(model)
    moved.assert_called_once()


def test_a_model_that_is_not_loaded_yet_is_loaded_on_the_hosts_thread(backend):
    backend.modules.sd_models.model_data.sd_model = object()  # as the host pretends before the first picture
    backend.host.on_thread = lambda do: ("there", do())
    backend.modules.sd_models.forge_model_reload.return_value = "loaded", True
    assert backend.host.model() == ("there", "loaded")
