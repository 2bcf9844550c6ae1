#!/bin/bash
# The same as gke.yaml, by XPK on a cluster that `xpk cluster create` made:
#   bash docs/launch/xpk.sh CLUSTER IMAGE BUCKET
# BUCKET is a storage that `xpk storage attach` attached at /bucket.
set -euo pipefail
xpk workload create --cluster "$1" --workload instantid --tpu-type v5litepod-256 --num-slices 1 \
    --docker-image "$2" --storage "$3" --max-restarts 100 --restart-on-exit-codes 75 \
    --command "python -m train configs/tpu_v5e_256.py --workdir /bucket/runs/1024 \
--data.datasets.0.folder /bucket/data/faces --model.sdxl /bucket/models/sdxl"
