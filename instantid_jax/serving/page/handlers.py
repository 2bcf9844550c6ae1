"""Handlers: what the page's controls call, between Gradio's components and the studio."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr

from instantid_jax.errors import InputError
from instantid_jax.serving.page.controls import Controls
from instantid_jax.serving.page.form import NO_PRESET, preset_values
from instantid_jax.serving.page.people import Person, Source, draw_pose
from instantid_jax.serving.page.progress import remarks_html, status_html
from instantid_jax.serving.page.recorded import read_recorded
from instantid_jax.serving.page.studio import Studio

# Side of the picture of a pose, in pixels.
POSE_SIDE = 256

# Components and what becomes of them; a handler returns only those that change.
Changes = dict[Any, Any]
Given = Mapping[Any, Any]


class Handlers:
    """Each method is a handler, bound to components in `layout.py`."""

    def __init__(self, studio: Studio, controls: Controls):
        self._studio = studio
        self._controls = controls

    def show_faces(self, paths: list[str] | None) -> Changes:
        """Photos were uploaded or removed."""
        person, refused = self._studio.analyst.person(paths or [])
        return self._of_person(person, refused)

    def choose_face(self, person: Person, event: gr.SelectData) -> Changes:
        """A face was clicked."""
        return self._of_person(person.choose(int(event.index)), [])

    def show_pose(self, path: str | None) -> Changes:
        """A pose was uploaded or removed."""
        c = self._controls
        none = gr.update(value="", visible=False)
        if path is None:
            return {c.pose_view: gr.update(value=None, visible=False), c.pose_remarks: none}
        try:
            face = self._studio.analyst.source(path).face
        except InputError as error:
            hidden = gr.update(value=None, visible=False)
            line = gr.update(value=status_html(str(error), "error"), visible=True)
            return {c.pose_view: hidden, c.pose_remarks: line}
        view = gr.update(value=draw_pose(face, POSE_SIDE), visible=True)
        return {c.pose_view: view, c.pose_remarks: none}

    def choose_preset(self, fast: str) -> Changes:
        """A preset was chosen, or none."""
        c, studio = self._controls, self._studio
        changes: Changes = {
            c.form[name]: value
            for name, value in preset_values(fast, studio.choices, studio.usual).items()
        }
        needed = [] if fast == NO_PRESET else studio.shelf.for_preset(fast)
        presets = {lora for each in studio.presets for lora in studio.shelf.for_preset(each)}
        for source, slider in c.loras.items():
            if source in needed:
                changes[slider] = studio.shelf.initial[source] or 1.0
            elif source in presets:
                changes[slider] = 0.0
        return changes

    def load_settings(self, path: str | None) -> Changes:
        """An image with settings was uploaded."""
        c, studio = self._controls, self._studio
        if path is None:
            return {}
        try:
            recorded = read_recorded(path, studio.choices, studio.shelf, studio.engine.pipe.sources)
        except InputError as error:
            return {c.status: status_html(str(error), "error")}
        changes: Changes = {c.form[name]: value for name, value in recorded.values.items()}
        for source, strength in (recorded.strengths or {}).items():
            changes[c.loras[source]] = strength
        if recorded.face is not None:
            person = Person((Source.of_face(recorded.face, "recorded face"),))
            changes |= {c.photos: None, **self._of_person(person, [])}
        line = status_html("Settings loaded", "done") + remarks_html(recorded.remarks)
        return changes | {c.status: line}

    def generate(self, given: Given, request: gr.Request) -> Iterator[Changes]:
        """Makes images, and shows how it goes."""
        c = self._controls
        updates = self._studio.generate(
            _session(request),
            {name: given[component] for name, component in c.form.items()},
            given[c.person],
            pose=given[c.pose],
            painted=given[c.painted],
            strengths={source: given[slider] for source, slider in c.loras.items()},
        )
        for update in updates:
            changes: Changes = {
                c.status: update.status,
                c.stop: gr.update(interactive=update.running),
            }
            if update.images is not None:
                # Shown large, with a strip of all below.
                selected = 0 if update.images else None
                changes[c.results] = gr.update(value=update.images, selected_index=selected)
            if update.seed is not None:
                changes[c.form["seed"]] = update.seed
            yield changes

    def stop(self, request: gr.Request) -> None:
        """The user wants no more of it, or has closed the page."""
        self._studio.stop(_session(request))

    def _of_person(self, person: Person, refused: list[str]) -> Changes:
        c = self._controls
        remarks = [*refused, *person.remarks()]
        face_file = None if person.face is None else str(self._studio.save_face(person.face))
        return {
            c.person: person,
            c.faces_label: gr.update(visible=bool(person.sources)),
            c.faces: gr.update(value=person.tiles(), visible=bool(person.sources)),
            c.person_remarks: gr.update(value=remarks_html(remarks), visible=bool(remarks)),
            c.face_file: gr.update(value=face_file, visible=face_file is not None),
        }


def sample_photos(paths: list[str]) -> Callable[[gr.SelectData], list[str]]:
    """A handler of clicks on sample portraits: they become the photos."""

    def choose(event: gr.SelectData) -> list[str]:
        return [paths[int(event.index)]]

    return choose


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
