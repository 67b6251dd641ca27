# A node of the Ray cluster: head, workers and drivers use this image. KubeRay starts it with bash and `ray start`.
#   docker build -f deploy/docker/worker.Dockerfile -t secateur-worker:0.1.0 .
# For GPUs, take torch from an index with CUDA builds, such as PyPI:
#   docker build -f deploy/docker/worker.Dockerfile --build-arg TORCH_INDEX=https://pypi.org/simple -t secateur-worker:0.1.0-cuda .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY api api
COPY pipeline pipeline
COPY secateur secateur
COPY workers workers
# The version of torch is pinned; the index determines the build.
RUN sed -i 's/^\(torch==[^+]*\)+.*/\1/' constraints.txt
RUN python -m venv --without-pip /opt/secateur
# Only torch itself comes from that index, and no later installation changes it.
RUN pip --python /opt/secateur/bin/python install --no-cache-dir --no-deps --index-url ${TORCH_INDEX} -c constraints.txt torch
RUN pip --python /opt/secateur/bin/python install --no-cache-dir -c constraints.txt '.[worker,tracking]'

FROM ${BASE}
LABEL org.opencontainers.image.title="secateur-worker" \
      org.opencontainers.image.description="A pruning service for large language models: a node of its Ray cluster" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton compiles a small C program for each kernel when it is first launched; sparse linears compile C++.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 secateur \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/secateur --create-home --shell /bin/bash secateur
COPY --from=build /opt/secateur /opt/secateur
# HOME is /tmp, which is writable on a read-only root, because libraries keep caches there.
ENV PATH=/opt/secateur/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
CMD ["/bin/bash"]
