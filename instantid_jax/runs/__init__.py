"""Folders of training runs, and their layout.

    config.json             the resolved configuration
    networks.json           configurations of the trained networks: "image_proj", "controlnet";
                            "recognizer", the SHA-256 of the one that measured the faces; and
                            "frozen", the source of what the run did not train of InstantID
    metrics.jsonl           one object per step, and one per validation
    events.jsonl            events, such as {"event": "resumed", "step": 300}
    checkpoints/<step>/     state/ (Orbax: flat, by readable names) and meta/meta.json
    superseded/<step>/      checkpoints set aside because the run resumed from an older one
    samples/                validation images

Frozen weights are not saved; of a LoRA, only its factors are.
"""
