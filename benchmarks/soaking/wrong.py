"""Tables of wrong fields, values, headers and paths."""

import json
from typing import Any

from benchmarks.soaking.good import TXT2IMG
from benchmarks.soaking.server import LIMITS
from benchmarks.soaking.site import EDITS, FACES, base64_text

# Values that no field takes, as texts of forms; the field that is to blame is the one that has it.
WRONG: tuple[tuple[str, str], ...] = (
    ("promt", "a misspelled field"),
    ("steps", "20"),
    ("latents", "[[0]]"),
    ("../../etc/passwd", "a"),
    ("seed", "many"),
    ("seed", "-1"),
    ("seed", "1.5"),
    ("seed", "1e400"),
    ("seed", "9" * 5000),
    ("guidance_scale", "nan"),
    ("guidance_scale", "inf"),
    ("guidance_scale", "-1e308"),
    ("guidance_scale", "[" * 3000),
    ("ip_adapter_scale", "NaN"),
    ("num_inference_steps", "0"),
    ("num_inference_steps", str(LIMITS.steps + 1)),
    ("num_inference_steps", "1e18"),
    ("n", "0"),
    ("n", str(LIMITS.images + 1)),
    ("n", json.dumps([1] * 5000)),
    ("size", "9999x9999"),
    ("size", "64"),
    ("size", "-64x64"),
    ("output_format", "gif"),
    ("output_compression", "101"),
    ("response_format", "url"),
    ("partial_images", "4"),
    ("partial_images", "1"),
    ("scheduler", "no such sampler"),
    ("strength", "2"),
    ("style", "no such style"),
    ("face_id", "face_of_nobody"),
    ("timesteps", json.dumps([999] * 5000)),
    ("kps", json.dumps([[0, 0]] * 4)),
    ("kps", "[[NaN, 1], [2, 3], [4, 5], [6, 7], [8, 9]]"),
    ("image_embeds", json.dumps([0.5] * 7)),
    ("prompt", "a" * (LIMITS.characters + 1)),
    ("negative_prompt", "a" * (LIMITS.characters + 1)),
)
# Fields that may be blamed instead of the wrong one, as nothing says which of both it is.
EITHER = ("face_id", "image_embeds")
# Fields of which each takes none of `VALUES` in JSON, apart from texts as prompts.
TYPED = ("prompt", "seed", "n", "size", "stream", "scheduler", "timesteps", "kps", "style")
TYPED += ("clip_skip", "original_size", "face_id", "output_format", "image", "source", "mask")
VALUES: tuple[Any, ...] = (
    [1] * 5000,
    {"a": {"b": "c" * 5000}},
    [[[[]]]],
    1.5,
    "https://example.com/a.png",
    "file:///etc/passwd",
    "\ud800",
    10**4000,
    float("nan"),
)
# Headers of strangers, one of whom knows nearly all of a token.
HEADERS = (
    "",
    "Bearer",
    "Bearer TOKENx",
    "Digest TOKEN",
    "TOKEN",
    "Basic ====",
    f"Basic {base64_text(b'me:no')}",
    "Bearer " + "x" * 5000,
)
# Where they try.
PATHS = (
    ("POST", EDITS),
    ("POST", FACES),
    ("POST", TXT2IMG),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("DELETE", f"{FACES}/face_a"),
)
# Where nothing is.
NOWHERE = (
    ("GET", "/"),
    ("GET", "/v1/images/edits/"),
    ("GET", "/../../etc/passwd"),
    ("GET", "/" + "a" * 5000),
    ("GET", "/%00%ff"),
    ("GET", EDITS),
    ("GET", "/docs"),
    ("GET", "/sdapi/v1/nothing"),
    ("GET", "/v1/models/gpt-image-1"),
    ("POST", "/v1/images/variations"),
    ("PUT", FACES),
    ("DELETE", f"{FACES}/{'a' * 500}"),
    ("BREW", "/healthz"),
)
