"""Folders of training runs, and their layout.

    config.json             the resolved configuration
    networks.json           configurations of the trained networks: "image_proj", "controlnet";
                            and "recognizer", the SHA-256 of the one that measured the faces
    metrics.jsonl           one object per step, and one per validation
    events.jsonl            events, such as {"event": "resumed", "step": 300}
    checkpoints/<step>/     state/ (Orbax: flat, by readable names) and meta/meta.json
    superseded/<step>/      checkpoints set aside because the run resumed from an older one
    samples/                validation images

Frozen weights are not saved.
"""
