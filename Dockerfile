# syntax=docker/dockerfile:1
# Digest of python:3.13-slim-bookworm of 25 August 2026 (Python 3.13.15), for all platforms. To update it:
# docker buildx imagetools inspect python:3.13-slim-bookworm
ARG PYTHON=python:3.13-slim-bookworm@sha256:cbd229d7b9bd041012af758ce5ffd807a6518d76493ce9035d208f1db9ceff1e

# Build stage: installs the gateway and its dependencies into a virtual environment.
FROM ${PYTHON} AS build
WORKDIR /build
ENV UV_PROJECT_ENVIRONMENT=/opt/gateway
# binutils has strip. npm bundles GraphiQL; without it the image has a plain page. Debian keeps only newest versions.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils npm && pip install --no-cache-dir uv==0.13.9
# Dependencies come first, because they change less often than the code. pyproject.toml pins their versions.
COPY pyproject.toml README.md LICENSE THIRD-PARTY-LICENSES ./
COPY .ci/graphiql_build.py .ci/
COPY gateway/__init__.py gateway/
COPY deploy/image/build deploy/image/sbom deploy/image/
RUN deploy/image/build dependencies
COPY gateway gateway
COPY docs/queries docs/queries
COPY docs/errors.md docs/
COPY .ci/explorer .ci/explorer
RUN deploy/image/build gateway

# Final stage: only the environment, which any user may read and none may write. It needs no writable file system.
FROM ${PYTHON}
LABEL org.opencontainers.image.title="invers-graphql-gateway" \
      org.opencontainers.image.description="Unofficial GraphQL gateway over the vehicle management part of the INVERS OneAPI." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 GATEWAY_HOST=0.0.0.0 GATEWAY_PORT=8000
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# Directly, whatever proxies are configured; the unspecified address (0.0.0.0 or ::) is the local one to connect to.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["python", "-c", "import os; from http.client import HTTPConnection; live = HTTPConnection(os.environ['GATEWAY_HOST'], os.environ['GATEWAY_PORT'], timeout=2); live.request('GET', '/health/live', headers={'Host': 'localhost'}); raise SystemExit(live.getresponse().status != 200)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
