"""The API of AUTOMATIC1111's web UI: its forms, and webuiapi as a client."""

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import webuiapi  # type: ignore[import-untyped]
from PIL import Image

from model import EditRequest, GenerateRequest
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.serve.guard import Guard
from tests.cli.fake_engine import THINK
from tests.serve import raw
from tests.serve.conftest import Serve, Served
from tests.waiting import PATIENCE, until

BODY = {"prompt": "a cat", "steps": 3, "width": 64, "height": 96, "seed": 7}


def data_url(color: tuple[int, int, int] = (1, 2, 3), head: str = "data:image/png;base64,") -> str:
    """Return a small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, "PNG")
    return head + base64.b64encode(buffer.getvalue()).decode()


def post(served: Served, path: str, body: Any) -> tuple[int, Any]:
    """Return status and content of an answer."""
    answer = served.client().post(f"/sdapi/v1/{path}", json=body)
    return answer.status_code, answer.json()


def draw(served: Served, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an answer of txt2img and its info."""
    status, content = post(served, "txt2img", {**BODY, **fields})
    assert status == 200, content
    return content, json.loads(content["info"])


@dataclass
class Hold:
    """Holds the engine before one of its steps, which are counted over all pictures."""

    before: int
    count: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def on_step(self, step: int) -> None:
        """Wait at the step."""
        self.count += 1
        if self.count == self.before:
            self.reached.set()
            assert self.go_on.wait(PATIENCE)

    def wait(self) -> None:
        """Wait until the engine has reached the step."""
        assert self.reached.wait(PATIENCE)


@contextmanager
def hold(served: Served, before: int) -> Iterator[tuple[Hold, ThreadPoolExecutor]]:
    """Hold the engine before a step; yield it with threads for requests."""
    held = Hold(before)
    served.engine.on_step = held.on_step
    with ThreadPoolExecutor(2) as threads:
        try:
            yield held, threads
        finally:
            held.go_on.set()


def test_pictures_come_with_seeds_and_records(served: Served) -> None:
    content, info = draw(served, batch_size=2, n_iter=2)
    files = [base64.b64decode(each) for each in content["images"]]
    assert info["all_seeds"] == [7, 8, 9, 10] and info["seed"] == 7
    assert (info["width"], info["height"], info["steps"]) == (64, 96, 3)
    for seed, file in zip(info["all_seeds"], files, strict=True):
        record = read_record(file)
        assert record is not None and (record.settings.seed, record.prompt) == (seed, "a cat")
        with Image.open(io.BytesIO(file)) as image:
            assert image.size == (64, 96) and image.getpixel((0, 0)) == (seed, 5, 3)
    assert info["infotexts"][1] == "a cat\nSteps: 3, Sampler: Euler, CFG scale: 4, Seed: 8, Size: 64x96, Model: demo"
    assert content["parameters"] == {**BODY, "batch_size": 2, "n_iter": 2}
    assert info["notices"] == []


def test_seed_minus_one_is_random_and_told(served: Served) -> None:
    seeds = {draw(served, seed=-1)[1]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_our_settings_beside_the_fields_of_the_api(served: Served) -> None:
    _, info = draw(served, timestep_shift=2.5, override_settings={"think": True, "sd_model_checkpoint": "demo"})
    assert info["think_text"] == "".join(THINK)
    assert (info["settings"]["timestep_shift"], info["notices"]) == (2.5, [])


def test_negative_prompt(served: Served) -> None:
    _, info = draw(served, negative_prompt="dogs, blurry", batch_size=2)
    assert served.engine.requests[-1].settings.negative == "dogs, blurry"
    assert info["negative_prompt"] == "dogs, blurry" and info["all_negative_prompts"] == ["dogs, blurry"] * 2
    assert all("\nNegative prompt: dogs, blurry\nSteps: " in text for text in info["infotexts"])
    assert info["notices"] == []


def test_fields_without_effect_are_named(served: Served) -> None:
    fields = {"tiling": True, "restore_faces": True, "enable_hr": True, "styles": ["x"]}
    _, info = draw(served, **fields, sampler_name="DPM++ 2M", sampler_index="DPM++ 2M", scheduler="karras", moon=1)
    named = [text.partition(":")[0] for text in info["notices"]]
    assert named == [
        '"tiling" has no effect',
        '"restore_faces" has no effect',
        '"enable_hr" has no effect',
        '"styles" has no effect',
        '"sampler_name"',
        '"scheduler"',
        '"moon" is unknown and has no effect',
    ]


def test_usual_values_need_no_notice(served: Served) -> None:
    fields = {
        "negative_prompt": "",
        "tiling": False,
        "enable_hr": False,
        "styles": [],
        "sampler_name": "Euler",
        "scheduler": "automatic",
        "send_images": True,
        "save_images": True,
        "subseed": -1,
        "subseed_strength": 0,
        "seed_resize_from_h": -1,
        "alwayson_scripts": {},
        "script_name": None,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "denoising_strength": 0.7,
    }
    assert draw(served, **fields)[1]["notices"] == []


def test_pictures_to_change(served: Served) -> None:
    plain = data_url((4, 5, 6), head="")
    body = {**BODY, "init_images": [data_url(), plain], "denoising_strength": 0.4, "image_cfg_scale": 1.5}
    status, content = post(served, "img2img", body)
    assert status == 200
    request = served.engine.requests[-1]
    assert isinstance(request, EditRequest) and request.settings.img_cfg_scale == 1.5
    assert [image.getpixel((0, 0)) for image in request.images] == [(1, 2, 3), (4, 5, 6)]
    assert "init_images" not in content["parameters"]
    assert any("denoising_strength" in text for text in json.loads(content["info"])["notices"])
    assert post(served, "img2img", {**body, "include_init_images": True})[1]["parameters"]["init_images"]
    assert post(served, "img2img", {**BODY, "init_images": plain})[0] == 200


@pytest.mark.parametrize(
    ("path", "fields", "status", "words"),
    [
        ("img2img", {"init_images": [data_url()], "mask": data_url()}, 400, "only a part"),
        ("img2img", {}, 400, "no picture"),
        ("img2img", {"init_images": ["http://169.254.169.254/"]}, 400, "fetches no addresses"),
        ("img2img", {"init_images": ["AAAA"]}, 400, "picture 1"),
        ("img2img", {"init_images": [data_url()] * 17}, 400, "too many"),
        ("txt2img", {"init_images": [data_url()]}, 400, "img2img"),
        ("txt2img", {"width": 100}, 400, "32"),
        ("txt2img", {"steps": 0}, 400, '"num_steps": 0'),
        ("txt2img", {"cfg_scale": "much"}, 400, '"cfg_scale"'),
        ("txt2img", {"n_iter": 0}, 400, '"n_iter"'),
        ("txt2img", {"batch_size": 1000, "n_iter": 1000}, 400, "too many"),
        ("txt2img", {"batch_size": 11}, 400, "10 at most"),
        ("txt2img", {"prompt": 5}, 400, "prompt"),
        ("txt2img", {"script_name": "x/y/z plot"}, 400, "no scripts"),
        ("txt2img", {"alwayson_scripts": {"ControlNet": {"args": []}}}, 400, "no scripts"),
        ("txt2img", {"override_settings": []}, 400, "override_settings"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "sdxl"}}, 404, "use demo"),
        ("txt2img", {"prompt": "<lora:pixel:1> a cat"}, 400, "no LoRA 'pixel'"),
        ("options", {"sd_model_checkpoint": "sdxl"}, 404, "use demo"),
        ("upscale", {}, 404, "no such address"),
        ("samplers", {}, 405, "method"),
    ],
)
def test_errors_have_a_detail(served: Served, path: str, fields: dict[str, Any], status: int, words: str) -> None:
    found, content = post(served, path, {**BODY, **fields} if path.endswith("2img") else fields)
    assert found == status and words in content["detail"], content
    assert not served.engine.requests


def test_errors_before_the_api_have_a_detail(serve: Serve) -> None:
    served = serve(Guard(key="secret"))
    assert "key" in served.client().get("/sdapi/v1/options").json()["detail"]
    auth = [("anyone", "wrong"), ("anyone", "secret"), ("secret", "")]
    assert [served.client(auth=each).get("/sdapi/v1/options").status_code for each in auth] == [401, 200, 401]


def test_a_lora_in_the_prompt(serve: Serve, tmp_path: Any) -> None:
    file = tmp_path / "pixel.safetensors"
    file.touch()
    served = serve(loras=f"pixel={file}")
    assert [each["name"] for each in served.client().get("/sdapi/v1/loras").json()] == ["pixel"]
    assert str(tmp_path) not in served.client().get("/sdapi/v1/loras").text
    _, info = draw(served, prompt="a cat <lora:pixel:0.5> on a mat")
    assert info["prompt"] == "a cat on a mat"
    assert [(lora.name, lora.strength) for lora in served.engine.loras] == [(str(file), 0.5)]
    assert post(served, "txt2img", {**BODY, "prompt": "<lora:pixel:much>"})[0] == 400
    assert post(served, "txt2img", {**BODY, "prompt": "<lora:pixel><lora:pixel>"})[0] == 400


def test_progress(served: Served) -> None:
    def progress(**query: str) -> Any:
        return served.client().get("/sdapi/v1/progress", params=query).json()

    idle = progress()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
    with hold(served, before=7) as (held, threads):
        future = threads.submit(post, served, "txt2img", {**BODY, "steps": 4, "n_iter": 2})
        held.wait()
        until(lambda: progress()["progress"] == 0.75)
        found = progress()
        state = found["state"]
        assert (state["sampling_step"], state["sampling_steps"]) == (2, 4)
        assert (state["job_count"], state["job_no"]) == (2, 1)
        assert found["eta_relative"] > 0
        with Image.open(io.BytesIO(base64.b64decode(found["current_image"]))) as image:
            assert image.getpixel((0, 0)) == (9, 9, 9)
        without = progress(skip_current_image="true")
        assert (without["current_image"], without["progress"]) == (None, 0.75)
        held.go_on.set()
        assert future.result()[0] == 200
    assert progress() == idle


def test_interrupt_ends_the_running_request(served: Served) -> None:
    with hold(served, before=2) as (held, threads):
        future = threads.submit(post, served, "txt2img", {**BODY, "steps": 100})
        held.wait()
        assert post(served, "interrupt", None) == (200, {})
        held.go_on.set()
        status, content = future.result()
    assert (status, content["detail"]) == (409, "the request was stopped")
    assert served.engine.request_closed and held.count <= 3


def test_finished_pictures_survive_an_interrupt(served: Served) -> None:
    with hold(served, before=5) as (held, threads):
        future = threads.submit(post, served, "txt2img", {**BODY, "batch_size": 3})
        held.wait()
        post(served, "skip", None)
        held.go_on.set()
        status, content = future.result()
    info = json.loads(content["info"])
    assert (status, len(content["images"]), info["all_seeds"]) == (200, 1, [7])
    assert info["notices"] == ["stopped after 1 of 3 pictures"]


def test_interrupt_leaves_the_work_of_other_apis_alone(served: Served) -> None:
    with hold(served, before=1) as (held, threads):
        body = {"prompt": "a dog", "size": "64x64"}
        other = threads.submit(served.client().post, "/v1/images/generations", json=body)
        held.wait()
        post(served, "interrupt", None)
        assert served.client().get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
        mine = threads.submit(post, served, "txt2img", BODY)
        until(lambda: served.metric("requests_waiting") == 1)
        state = served.client().get("/sdapi/v1/progress").json()
        assert (state["progress"], state["textinfo"]) == (0, "waiting: 1 in the queue")
        post(served, "interrupt", None)
        assert mine.result()[0] == 409
        held.go_on.set()
        assert other.result().status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a second loopback address")
def test_another_machine_neither_sees_nor_stops_a_request(served: Served) -> None:
    other = served.client(transport=httpx2.HTTPTransport(local_address="127.0.0.2"))
    with hold(served, before=2) as (held, threads):
        future = threads.submit(post, served, "txt2img", BODY)
        held.wait()
        seen = other.get("/sdapi/v1/progress").json()
        assert (seen["state"]["job_count"], seen["current_image"]) == (0, None)
        assert other.post("/sdapi/v1/interrupt").json() == {}
        held.go_on.set()
        assert future.result()[0] == 200


def test_a_client_that_goes_away_stops_its_request(served: Served) -> None:
    with hold(served, before=2) as (held, _):
        with closing(raw.connect(served.url)) as connection:
            connection.sendall(raw.post("/sdapi/v1/txt2img", json.dumps({**BODY, "steps": 100}).encode()))
            held.wait()
        job = served.service.scheduler.running
        assert job is not None
        until(lambda: job.stop.requested)
        held.go_on.set()
        until(lambda: served.metric('requests_total{end="cancelled"}') == 1)
    assert served.client().get("/sdapi/v1/progress").json()["state"]["job_count"] == 0


def test_a_failed_request(served: Served) -> None:
    def fail(step: int) -> None:
        raise ValueError("a secret")

    served.engine.on_step = fail
    status, content = post(served, "txt2img", BODY)
    assert (status, content["detail"]) == (500, "unexpected ValueError")
    served.engine.on_step = lambda step: None
    assert post(served, "txt2img", BODY)[0] == 200


def test_lists(served: Served) -> None:
    def names(path: str, key: str = "name") -> list[str]:
        return [each[key] for each in served.client().get(f"/sdapi/v1/{path}").json()]

    assert names("sd-models", "title") == ["demo"]
    assert (names("samplers"), names("schedulers"), names("upscalers")) == (["Euler"], ["automatic"], ["None"])
    assert names("loras") == names("latent-upscale-modes") == names("sd-vae") == names("prompt-styles") == []
    assert served.client().get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "demo"
    assert post(served, "options", {"sd_model_checkpoint": "demo", "samples_save": False}) == (200, {})


def test_webuiapi(served: Served) -> None:
    address = urlsplit(served.url)
    client = webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="Euler", steps=3)
    client.session.trust_env = False
    assert client.util_get_model_names() == [client.util_get_current_model()] == ["demo"]
    assert client.util_get_sampler_names() == ["Euler"] and client.util_get_scheduler_names() == ["automatic"]
    client.util_set_model("demo")
    client.util_wait_for_ready()

    drawn = client.txt2img(prompt="a cat", seed=7, n_iter=2, override_settings={"think": True})
    assert [image.size for image in drawn.images] == [(512, 512)] * 2
    assert (drawn.info["all_seeds"], drawn.info["think_text"], drawn.info["notices"]) == ([7, 8], "".join(THINK), [])
    assert read_record(base64.b64decode(drawn.json["images"][0])) is not None
    request = served.engine.requests[-1]
    assert isinstance(request, GenerateRequest) and request.settings.cfg_scale == 7

    changed = client.img2img(prompt="red", images=[drawn.image, drawn.images[1]], width=64, height=64)
    assert changed.image.size == (64, 64) and len(changed.info["notices"]) == 1
    with pytest.raises(RuntimeError, match="only a part"):
        client.img2img(prompt="red", images=[drawn.image], mask_image=drawn.image, width=64, height=64)

    with hold(served, before=10) as (held, threads):
        running = threads.submit(client.txt2img, prompt="a dog", steps=50, width=64, height=64)
        held.wait()
        until(lambda: client.get_progress()["current_image"] is not None)
        assert 0 < client.get_progress()["progress"] < 0.2
        client.interrupt()
        held.go_on.set()
        with pytest.raises(RuntimeError, match="stopped"):
            running.result()
    client.util_wait_for_ready()
