# The API and the command line. This image has neither torch nor Ray.
#   docker build -f deploy/docker/api.Dockerfile -t secateur-api:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY api api
COPY pipeline pipeline
COPY secateur secateur
COPY workers workers
RUN python -m venv --without-pip /opt/secateur
RUN pip --python /opt/secateur/bin/python install --no-cache-dir -c constraints.txt .

FROM ${BASE}
LABEL org.opencontainers.image.title="secateur-api" \
      org.opencontainers.image.description="A pruning service for large language models: the API" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The chart runs the image as this user, on a read-only root with volumes at its home and at /tmp.
RUN groupadd --gid 10001 secateur \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/secateur --create-home --shell /usr/sbin/nologin secateur
COPY --from=build /opt/secateur /opt/secateur
ENV PATH=/opt/secateur/bin:$PATH \
    HOME=/var/lib/secateur \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SECATEUR_HOST=0.0.0.0 \
    SECATEUR_STATE_DIR=/var/lib/secateur
WORKDIR /var/lib/secateur
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('SECATEUR_PORT', 8080)}/healthz\", timeout=4)"]
ENTRYPOINT ["secateur"]
CMD ["serve"]
