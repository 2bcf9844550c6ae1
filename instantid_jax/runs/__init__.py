"""Folders of training runs, and what lies where in them.

    config.json             the resolved configuration
    networks.json           configurations of the trained networks: "image_proj", "controlnet"
    metrics.jsonl           one object a step
    events.jsonl            what happened: {"event": "resumed", "step": 300} and the like
    checkpoints/<step>/     state/ (Orbax: flat, by readable names) and meta/meta.json
    superseded/<step>/      checkpoints set aside because the run went on from an older one
    samples/                validation pictures

Frozen weights are nowhere in them.
"""
