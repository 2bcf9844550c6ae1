"""The components that handlers read and change, by name."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class Controls:
    """Gradio's components.

    Attributes:
      person: state, a `people.Person`.
      sampled: the event that a sample portrait was clicked; None without samples.
      photos, faces_label, faces, person_remarks, face_file: where the person is shown.
      pose, pose_view, pose_remarks: where the pose is shown.
      painted: the editor of the image to begin with.
      form: by the names of `form.values_of`.
      loras: a slider for each.
      settings_file: an image whose settings are read.
      go, stop: buttons.
      status, results: how it goes, and what came of it.
    """

    person: Any
    sampled: Any
    photos: Any
    faces_label: Any
    faces: Any
    person_remarks: Any
    face_file: Any
    pose: Any
    pose_view: Any
    pose_remarks: Any
    painted: Any
    settings_file: Any
    go: Any
    stop: Any
    status: Any
    results: Any
    form: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    loras: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
