"""Routes of AUTOMATIC1111's web UI, for clients that know only them.

The person is the server's own, or in fields of `/v1/images/edits` that `alwayson_scripts` has:
{"instantid": {"args": [{"image": "<base64>", "ip_adapter_scale": 0.8}]}}.
"""

import asyncio
import base64
import json
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from instantid_jax.pipeline.result import Result
from instantid_jax.request.webui import KEY, LABELS, SAMPLERS
from instantid_jax.serving.http.answers import count, encode
from instantid_jax.serving.http.errors import FieldError, ServiceError
from instantid_jax.serving.http.fields import FILES, MODEL
from instantid_jax.serving.http.forms import Form, from_json
from instantid_jax.serving.http.generation import (
    Submitted,
    check_ready,
    finish,
    following,
    submit,
)
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.job import Job, Listener

PREFIX = "/sdapi/v1"
TXT2IMG = f"{PREFIX}/txt2img"
# Their names, and ours; all other fields mean nothing here and are passed over, as there.
RENAMED = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
# The script whose arguments are fields of ours.
SCRIPT = "instantid"
# What a list of the web UI holds here.
LISTS: dict[str, list[dict[str, Any]]] = {
    "samplers": [{"name": name, "aliases": [], "options": {}} for name in LABELS.values()],
    "schedulers": [{"name": name, "label": name.capitalize()} for name in ("automatic", "karras")],
    "sd-models": [{"title": MODEL, "model_name": MODEL, "filename": MODEL, "hash": None}],
    "sd-vae": [],
    "upscalers": [],
    "latent-upscale-modes": [],
    "loras": [],
}


class _Progress(Listener):
    """How far a job is."""

    def __init__(self):
        self.done, self.total = 0, 0

    def on_progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX)
    # What each owner has asked for: interrupting must not end the requests of others.
    running: dict[str, dict[Job, _Progress]] = {}

    @routes.post("/txt2img")
    async def txt2img(http: HttpRequest) -> Response:
        """Makes images."""
        check_ready(service)
        owner = http.state.owner
        with service.admission.enter(owner):
            form = await asyncio.to_thread(_form, await http.body())
            progress = _Progress()
            async with following(http) as client:
                submitted = await submit(service, http, client, form, listener=progress)
                own = running.setdefault(owner, {})
                own[submitted.job] = progress
                try:
                    result = await finish(client, submitted.job)
                finally:
                    del own[submitted.job]
                    if not own:
                        running.pop(owner, None)
                work = service.workers.submit(_answer, submitted, result)
                body = await client.unless_left(asyncio.wrap_future(work))
            count(service, submitted, len(result.seeds))
            return Response(body, media_type="application/json")

    @routes.post("/interrupt")
    @routes.post("/skip")
    async def interrupt(http: HttpRequest) -> dict[str, Any]:
        """Cancels the images that the same client asked for here."""
        for job in list(running.get(http.state.owner, ())):
            job.cancel()
        return {}

    @routes.get("/progress")
    async def progress(http: HttpRequest) -> dict[str, Any]:
        """How far they are."""
        jobs = running.get(http.state.owner, {}).values()
        done, total = sum(each.done for each in jobs), sum(each.total for each in jobs)
        return {
            "progress": done / total if total else 0.0,
            "eta_relative": 0.0,
            "state": {
                "job": "txt2img" if jobs else "",
                "job_count": len(jobs),
                "job_no": 0,
                "sampling_step": done,
                "sampling_steps": total,
                "interrupted": False,
                "skipped": False,
            },
            "current_image": None,
            "textinfo": None,
        }

    @routes.get("/options")
    async def options() -> dict[str, Any]:
        """Settings, none of which can be changed."""
        return {"sd_model_checkpoint": MODEL, "samples_format": "png"}

    @routes.post("/options")
    async def set_options() -> None:
        """Does nothing: clients choose the one model."""

    @routes.get("/{name}")
    async def listed(name: str) -> list[dict[str, Any]]:
        """Names to choose from."""
        if name not in LISTS:
            raise ServiceError(404, f"{PREFIX}/{name[:40]} is not served", code="not_found")
        return LISTS[name]

    return routes


def _form(body: bytes) -> Form:
    """The same request in our own fields."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise FieldError("the body is not an object in JSON")
    values = {ours: given[name] for name, ours in RENAMED.items() if given.get(name) is not None}
    if values.get("negative_prompt") == "":
        del values["negative_prompt"]
    if isinstance(given.get("seed"), int) and given["seed"] >= 0:  # -1 is any
        values["seed"] = given["seed"]
    counts = [given.get(name) or 1 for name in ("batch_size", "n_iter")]
    if not all(isinstance(each, int) for each in counts):
        raise FieldError("batch_size and n_iter: expected whole numbers", "batch_size")
    values["n"] = counts[0] * counts[1]
    scheduler = _scheduler(given)
    if scheduler is not None:
        values["scheduler"] = scheduler
    return from_json({**values, **_script(given)}, FILES)


def _scheduler(given: dict[str, Any]) -> str | None:
    """Our name of a sampler; None if we do not have it."""
    name = str(given.get("sampler_name") or given.get("sampler_index") or "").lower()
    karras = str(given.get("scheduler") or "").lower() == "karras"
    return SAMPLERS.get(f"{name} karras" if karras else name) or SAMPLERS.get(name)


def _script(given: dict[str, Any]) -> dict[str, Any]:
    scripts = given.get("alwayson_scripts") or {}
    script = scripts.get(SCRIPT) if isinstance(scripts, dict) else None
    if script is None:
        return {}
    args = script.get("args") if isinstance(script, dict) else None
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], dict):
        raise FieldError(
            f'alwayson_scripts.{SCRIPT}: expected {{"args": [{{"image": "<base64>"}}]}}',
            "alwayson_scripts",
        )
    return args[0]


def _answer(submitted: Submitted, result: Result) -> bytes:
    files = encode(result, submitted.fields)
    request = submitted.job.request
    texts = [each.anonymous().to_text({})[KEY] for each in result.provenance]
    seeds = [int(seed) for seed in result.seeds]
    info = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or "",
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": request.width,
        "height": request.height,
        "steps": request.num_inference_steps,
        "cfg_scale": request.guidance_scale,
        "sampler_name": request.scheduler,
        "infotexts": texts,
    }
    answer = {
        "images": [base64.b64encode(file).decode() for file in files],
        "parameters": {name: info[name] for name in ("prompt", "seed", "width", "height", "steps")},
        "info": json.dumps(info),
    }
    return json.dumps(answer).encode()
