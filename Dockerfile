# The HTTP service, in one process or as a node of a Ray cluster. Build it in a checkout:
#   docker build --tag instantid-jax .
FROM python:3.12-slim

# Libraries of OpenCV and onnxruntime, and what health checks of Docker and KubeRay call.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libgomp1 wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY instantid_jax instantid_jax
ARG EXTRAS=cuda,serve,ray,heic
# Versions are those that pyproject.toml allows.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]"

# Compiled programs, and weights from the hub: a volume keeps them.
ENV XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
RUN useradd --create-home --uid 1000 instantid && install --directory --owner instantid /cache
# By its number: Kubernetes checks that it is not root's.
USER 1000
VOLUME /cache

EXPOSE 8000
HEALTHCHECK --start-period=30m CMD ["wget", "--tries=1", "-q", "-O-", "http://127.0.0.1:8000/readyz"]
ENTRYPOINT ["instantid"]
CMD ["serve", "--host", "0.0.0.0", "--token-file", "/run/secrets/tokens"]
