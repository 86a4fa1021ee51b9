# CPU image by default. On a CUDA base, for example:
#   docker build --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 -t kvpred .
ARG BASE=python:3.11-slim
FROM ${BASE}

# Only for a base without Python: Ubuntu 24.04 has 3.12.
ARG APT_PYTHON_VERSION=3.12.*
RUN command -v python3 >/dev/null || { \
        apt-get update \
        && apt-get install -y --no-install-recommends python3-venv="${APT_PYTHON_VERSION}" \
        && rm -rf /var/lib/apt/lists/*; \
    }

RUN useradd --create-home --uid 10001 kvpred && install --directory --owner 10001 /opt/kvpred
USER 10001
WORKDIR /opt/kvpred
ENV PIP_NO_CACHE_DIR=1
COPY --chown=10001 LICENSE README.md constraints.txt pyproject.toml ./
COPY --chown=10001 kvpred ./kvpred

# As in the Makefile.
RUN python3 -m venv .venv \
    && .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .

ENV PATH=/opt/kvpred/.venv/bin:${PATH}
ENTRYPOINT ["kvpred"]
CMD ["predict", "--bsz", "32", "--prompt-len", "2048"]
