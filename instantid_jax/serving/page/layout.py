"""The page's layout, of Gradio's components, and which handler serves which control."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from instantid_jax import embedded
from instantid_jax.diffusion.names import SAMPLERS
from instantid_jax.images import image_suffixes
from instantid_jax.serving.page.controls import Controls
from instantid_jax.serving.page.form import (
    NO_PRESET,
    NO_STYLE,
    OWN_SAMPLER,
    Values,
    preset_values,
    values_of,
)
from instantid_jax.serving.page.handlers import Handlers, sample_photos
from instantid_jax.serving.page.painting import CHANGES
from instantid_jax.serving.page.people import Person
from instantid_jax.serving.page.sizes import LIKE_PHOTO, size_name
from instantid_jax.serving.page.studio import MOST_IMAGES, Studio

TITLE = "InstantID"
# Seconds between two looks for files that are too old, and how old they may be.
DELETE_CACHE = (600, 4 * 3600)
CSS_FILE = Path(__file__).with_name("page.css")
# For weights without prompts of their own.
PROMPTS = (
    "film noir, a person in the rain, hard light, black and white",
    "a portrait of a person as an astronaut, detailed, soft light",
    "watercolor of a person in a garden, spring, loose brush strokes",
    "a person reading in a café, evening, warm light, 50mm photograph",
)
TIPS = """
- More photos of one person, from other sides and in other light, improve the likeness.
- If images look burned or stiff, lower both strengths; if the face is somebody else's, raise them.
- Images record their settings and the face: load one to make it again, or to change something.
"""


def theme() -> themes.Base:
    """Gradio's default theme in the system's own fonts: none is fetched."""
    return themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )


def build(studio: Studio, prompts: Sequence[str] = PROMPTS) -> gr.Blocks:
    """The page of a studio.

    Args:
      prompts: examples.
    """
    values = values_of(studio.usual, "", studio.choices) | {"random_seed": True}
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(_headline(studio), elem_id="headline")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                found = _person(studio)
                form = _words(studio, values)
                with gr.Row():
                    found["go"] = gr.Button("Generate", variant="primary", elem_id="go")
                    found["stop"] = gr.Button(
                        "Stop", variant="stop", interactive=False, elem_id="stop"
                    )
                gr.Examples(
                    [[prompt] for prompt in prompts],
                    [form["prompt"]],
                    label="Prompts to try",
                    api_visibility="private",
                    elem_id="prompts",
                )
            with gr.Column(scale=6, min_width=320, elem_id="made"):
                found |= _results()
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                strengths, found["face_file"] = _strengths(values)
                form |= strengths
                loras = _loras(studio)
                found |= _pose()
            with gr.Column(scale=6, min_width=320):
                form |= _picture(studio, values)
                found["painted"], beginning = _beginning(values)
                form |= beginning
                form |= _more(values)
        controls = Controls(**found, form=form, loras=loras)
        _bind(page, studio, controls)
    page.queue(default_concurrency_limit=8)
    return page


def _headline(studio: Studio) -> str:
    line = f"# {TITLE}\n"
    if not studio.embedded:
        return line + "Puts a person, given by one photo or more, into any image."
    line += (
        "The embedded miniature model knows **drawn portraits only**; `--sdxl` and `--instantid` "
        "load real weights."
    )
    return line


def _person(studio: Studio) -> dict[str, Any]:
    types = sorted({*image_suffixes(), ".npz"})
    found: dict[str, Any] = {
        "person": gr.State(Person()),
        "sampled": None,
        "photos": gr.File(
            label="Photos of one person, or face files (.npz)",
            file_count="multiple",
            file_types=types,
            height=110,
            elem_id="photos",
        ),
    }
    if studio.embedded:
        paths = [str(path) for path in embedded.PORTRAITS]
        gr.Markdown("Sample portraits: click one.", elem_classes="label")
        samples = _tiles([(path, "") for path in paths], columns=6, elem_id="samples")
        found["sampled"] = samples.select(sample_photos(paths), None, found["photos"], **_QUIET)
    found["faces_label"] = gr.Markdown(
        "Faces found, with their cosines to the other photos; click another face to use it.",
        visible=False,
        elem_classes="label",
    )
    found["faces"] = _tiles(columns=5, visible=False, elem_id="faces")
    found["person_remarks"] = gr.HTML(visible=False, elem_id="person-remarks")
    return found


def _tiles(value: Any = None, **more: Any) -> gr.Gallery:
    """A gallery of small pictures to click on."""
    return gr.Gallery(
        value,
        show_label=False,
        allow_preview=False,
        interactive=False,
        fit_columns=False,
        object_fit="contain",
        buttons=[],
        **more,
    )


def _words(studio: Studio, values: Values) -> dict[str, Any]:
    form: dict[str, Any] = {
        "prompt": gr.Textbox(
            values["prompt"],
            label="Prompt",
            placeholder="What the image shows; (words:1.3) count more",
            lines=2,
            max_lines=8,
            elem_id="prompt",
        )
    }
    with gr.Row():
        form["style"] = gr.Dropdown(
            [NO_STYLE, *(style.name for style in studio.choices.styles)],
            value=values["style"],
            label="Style",
            elem_id="style",
        )
        form["fast"] = gr.Dropdown(
            [NO_PRESET, *studio.presets],
            value=values["fast"],
            label="Fast preset",
            info=None if studio.embedded else "for weights or LoRAs of few steps",
            elem_id="fast",
        )
    return form


def _results() -> dict[str, Any]:
    found = {
        "status": gr.HTML(elem_id="status"),
        "results": gr.Gallery(
            label="Images",
            format="png",
            preview=True,
            interactive=False,
            height="auto",
            object_fit="contain",
            buttons=["download", "fullscreen"],
            elem_id="results",
        ),
        "settings_file": gr.UploadButton(
            "Load settings from an image",
            file_types=["image"],
            size="sm",
            elem_id="settings-file",
        ),
    }
    gr.Markdown(TIPS, elem_id="tips")
    return found


def _slider(
    values: Values, name: str, label: str, high: float, step: float, low: float = 0.0, **more: Any
) -> gr.Slider:
    value = values[name]
    # What the command was started with stays possible.
    bounds = {"minimum": min(low, value), "maximum": max(high, value)}
    return gr.Slider(value=value, label=label, step=step, elem_id=name, **bounds, **more)


def _strengths(values: Values) -> tuple[dict[str, Any], Any]:
    with gr.Accordion("Likeness", open=True):
        form = {
            "identity": _slider(
                values,
                *("identity", "IdentityNet strength", 1.5, 0.05),
                info="likeness, and where eyes, nose and mouth are",
            ),
            "adapter": _slider(
                values,
                *("adapter", "Image Adapter strength", 1.5, 0.05),
                info="likeness in detail; less leaves the prompt more freedom",
            ),
        }
        face_file = gr.DownloadButton(
            "Save this person as a face file", size="sm", visible=False, elem_id="face-file"
        )
    return form, face_file


def _picture(studio: Studio, values: Values) -> dict[str, Any]:
    form: dict[str, Any] = {}
    with gr.Accordion("Image", open=True):
        with gr.Row():
            form["size"] = gr.Dropdown(
                [LIKE_PHOTO, *map(size_name, studio.choices.sizes)],
                value=values["size"],
                label="Width x height",
                allow_custom_value=True,
                elem_id="size",
            )
            form["images"] = _slider(values, "images", "Images", MOST_IMAGES, 1, 1)
        with gr.Row():
            form["steps"] = _slider(values, "steps", "Steps", 100, 1, 1)
            form["guidance"] = _slider(values, "guidance", "Guidance scale", 20, 0.1, info=None)
        with gr.Row():
            form["seed"] = gr.Number(
                values["seed"], label="Seed", precision=0, minimum=0, elem_id="seed"
            )
            form["random_seed"] = gr.Checkbox(
                values["random_seed"], label="Random seed", elem_id="random-seed"
            )
        form["negative_prompt"] = gr.Textbox(
            values["negative_prompt"], label="Negative prompt", elem_id="negative-prompt"
        )
        form["scheduler"] = gr.Dropdown(
            [OWN_SAMPLER, *SAMPLERS],
            value=values["scheduler"],
            label="Sampler",
            elem_id="scheduler",
        )
    return form


def _loras(studio: Studio) -> dict[str, Any]:
    if not studio.shelf.sources:
        return {}
    with gr.Accordion("LoRAs", open=False):
        return {
            source: gr.Slider(
                minimum=min(0.0, strength),
                maximum=max(2.0, strength),
                value=strength,
                step=0.05,
                label=source.replace("\\", "/").rpartition("/")[2],
                info="0 leaves it out",
            )
            for source, strength in studio.shelf.initial.items()
        }


def _pose() -> dict[str, Any]:
    with gr.Accordion("Pose", open=False):
        gr.Markdown("The face of another photo gives place and posture, and nothing else.")
        with gr.Row():
            pose = gr.Image(
                label="Photo with the pose",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=220,
                elem_id="pose",
            )
            view = gr.Image(
                label="Keypoints",
                visible=False,
                interactive=False,
                height=220,
                buttons=[],
                elem_id="pose-view",
            )
        return {"pose": pose, "pose_view": view, "pose_remarks": gr.HTML(visible=False)}


def _beginning(values: Values) -> tuple[Any, dict[str, Any]]:
    with gr.Accordion("Begin with an image", open=False):
        gr.Markdown("Changes an image of yours: all of it, its face, or what you paint over.")
        painted = gr.ImageEditor(
            label="Image to begin with",
            type="filepath",
            format="png",
            sources=("upload", "clipboard"),
            transforms=(),
            layers=False,
            brush=gr.Brush(colors=["#ff2d55"], color_mode="fixed"),
            height=420,
            elem_id="painted",
        )
        return painted, {
            "change": gr.Radio(CHANGES, value=values["change"], label="Change", elem_id="change"),
            "strength": _slider(values, "strength", "How much it changes", 1.0, 0.05),
        }


def _more(values: Values) -> dict[str, Any]:
    with gr.Accordion("More settings", open=False):
        gr.Markdown(
            "All other settings of `instantid generate` as JSON, such as "
            '`{"guidance_rescale": 0.7, "control_guidance_end": 0.8, "clip_skip": 1}`.'
        )
        return {"more": gr.Textbox(values["more"], label="JSON", lines=3, elem_id="more")}


# Handlers answer at once, and no other program calls them.
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _bind(page: gr.Blocks, studio: Studio, controls: Controls) -> None:
    c, handlers = controls, Handlers(studio, controls)
    of_person = [c.person, c.faces_label, c.faces, c.person_remarks, c.face_file]
    minimal: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
    # Not `change`: settings that are loaded empty the list and bring a person.
    shown = [handlers.show_faces, c.photos, of_person]
    gr.on([c.photos.upload, c.photos.delete, c.photos.clear], *shown, **minimal)
    if c.sampled is not None:
        c.sampled.then(*shown, **minimal)
    c.faces.select(handlers.choose_face, c.person, of_person, **_QUIET)
    c.pose.change(handlers.show_pose, c.pose, [c.pose_view, c.pose_remarks], **minimal)
    changed = [c.form[name] for name in preset_values(NO_PRESET, studio.choices, studio.usual)]
    changed += c.loras.values()
    # `input` is a choice by hand: loaded settings keep their own numbers.
    c.form["fast"].input(handlers.choose_preset, c.form["fast"], changed, **_QUIET)
    c.settings_file.upload(
        handlers.load_settings,
        c.settings_file,
        [c.status, c.photos, *of_person, *c.form.values(), *c.loras.values()],
        **minimal,
    )
    gr.on(
        [c.go.click, c.form["prompt"].submit],
        handlers.generate,
        {c.person, c.pose, c.painted, *c.form.values(), *c.loras.values()},
        [c.status, c.results, c.stop, c.form["seed"]],
        # Requests wait in the engine's own queue.
        concurrency_limit=None,
        **_QUIET,
    )
    c.stop.click(handlers.stop, queue=False, **_QUIET)
    page.unload(handlers.stop)
